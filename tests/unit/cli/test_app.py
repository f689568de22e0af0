"""The frame of the command line: verbs, help, errors and exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import smartedge.cli
from smartedge.cli import app
from smartedge.errors import ConfigError, LinkError, SmartEdgeError
from smartedge.extras import how_to_install
from smartedge.files import temporary_name
from smartedge.stopping import Stopped, stop_on_signals

NAMES = [name for group in app.VERBS.values() for name in group]


@contextmanager
def exits_with_success() -> Iterator[None]:
    with pytest.raises(SystemExit) as stop:
        yield
    assert stop.value.code == 0


def test_the_verbs_are_these() -> None:
    verbs = (
        "demo init cuts profile plan train cloud edge ingest fleet close collect sweep ledger log audit certify watch "
        "report infer export serve"
    )
    assert verbs.split() == NAMES


def test_every_verb_has_a_module_and_every_module_with_a_parser_is_a_verb() -> None:
    folder = Path(smartedge.cli.__path__[0])
    modules = {path.stem for path in folder.glob("*.py") if "\ndef add_parser(" in path.read_text(encoding="utf-8")}
    assert modules == set(NAMES)


@pytest.mark.parametrize("verb", NAMES)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with exits_with_success():
        app.main([verb, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: smartedge {verb} ")
    assert len(out.splitlines()) > 8, "the help of a verb says what it does and shows an example"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["--debug"]], ids=" ".join)
def test_help_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with exits_with_success():
        app.main(argv)
    out = capsys.readouterr().out
    for name in NAMES:
        assert f"\n  {name} " in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with exits_with_success():
        app.main(["--version"])
    assert capsys.readouterr().out == f"smartedge {version('smartedge')}\n"


def test_help_and_version_import_neither_torch_nor_the_verbs() -> None:
    code = (
        "import sys; from smartedge.cli.app import main\n"
        "try: main([sys.argv[1]])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'pydantic', 'smartedge.cli.train'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "smartedge", "init", str(tmp_path / "no" / "run.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error [SE-CONFIG]: ")


@pytest.mark.parametrize(
    ("verb", "lacks", "extra"),
    [("demo", "matplotlib", "cloud"), ("profile", "torch", "train"), ("cuts resnet18", "torch", "train")],
)
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, verb: str, lacks: str, extra: str
) -> None:
    code = f"import sys; sys.modules[{lacks!r}] = None\nfrom smartedge.cli.app import main\nsys.exit(main())"
    (tmp_path / "run.yaml").write_text("data: {path: drawn, desired: smile}\n")
    argv = [sys.executable, "-c", code, *verb.split(), *(["run.yaml"] if verb == "profile" else [])]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error [SE-CONFIG]: ") and lacks in done.stderr and f"[{extra}]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "there is no verb 'trian'; did you mean 'smartedge train'?"),
        (["smartedge", "train", "run.yaml"], "there is no verb 'smartedge'; it follows the name of the program"),
        (["help", "train"], "'smartedge --help' lists the verbs, 'smartedge VERB --help' explains one"),
        (["run.yaml"], "a verb comes before the settings, for example 'smartedge train run.yaml'"),
        (
            ["cloud", "run.yaml", "--listen", "0.0.0.0:99999"],
            "write it as HOST:PORT, for example 127.0.0.1:8815; a port is",
        ),
        (["xyzzy"], "the verbs are demo, init, cuts, profile, plan, train"),
        (["init", "a", "b"], "'smartedge init' does not know what to do with 'b'; 'smartedge init --help' shows"),
        (["train", "a", "--resumee"], "'smartedge train' has no option --resumee; did you mean '--resume'?"),
        (["train", "a", "--zzz=1"], "'smartedge train' has no option --zzz; 'smartedge train --help' shows"),
        (["train", "a", "--epochs", "5"], "has no option --epochs; epochs is a setting: write --set epochs=VALUE"),
        (["train", "a", "--batch-size=5"], "train.batch_size is a setting: write --set train.batch_size=VALUE"),
        (["train", "a", "--set", "train.lr", "0.1"], "--set train.lr 0.1: write it as one word, --set train.lr=0.1"),
        (["cuts", "resnet18", "--input", "64x64x3"], "write it as CxHxW, channels first, for example 3x64x64"),
        (["init", "."], ".: is a folder; give the file to write, and the images as --data"),
        (["init", "--data"], "expected one argument; 'smartedge init --help' shows what it takes"),
    ],
)
def test_a_wrong_command_line(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error [SE-CONFIG]: ")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--to", "front 1"], ["--to", "größe"], ["--to", "front", "--name", "a/b"]])
def test_a_name_that_no_front_can_have_is_told_at_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["export", "no_run", *words]) == 2
    assert "cannot be the name of a front" in capsys.readouterr().err


def test_ctrl_c_while_modules_are_imported_leaves_no_traceback() -> None:
    program = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'smartedge.cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from smartedge.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 imports from the current folder first")
def test_files_of_the_current_folder_are_no_part_of_the_processes_that_are_started(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('the wrong one')")
    program = (
        "import subprocess, sys\n"
        "sys.path.remove('')\n"  # as in the program smartedge
        "from smartedge import __main__\n"
        "from smartedge.cli import app\n"
        "app.main = lambda: subprocess.call([sys.executable, '-m', 'smartedge', '--version'])\n"
        "sys.exit(__main__.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_closed_stream_and_a_character_that_a_terminal_lacks_end_no_verb(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m smartedge {{}}"
    for command, code in (
        (shell.format("--version >&-"), 0),
        (shell.format("report nowhere 2>&-"), 10),
        (shell.format("report nowhere 2>/dev/full"), 10),
        (f"PYTHONIOENCODING=ascii {shell.format('init Übung.yaml <&-')}", 0),
    ):
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr, command


@pytest.mark.parametrize(
    "words",
    [
        ["runs/x", "a.jpg", "b.jpg", "--threshold", "0.5"],
        ["runs/x", "--threshold", "0.5", "a.jpg", "b.jpg"],
        ["--threshold", "0.5", "runs/x", "a.jpg", "b.jpg"],
        ["runs/x", "a.jpg", "--threshold", "0.5", "b.jpg"],
    ],
)
def test_options_stand_anywhere_among_images(words: list[str]) -> None:
    args = app.parse(["infer", *words])
    assert (args.model, args.images, args.threshold) == (Path("runs/x"), ["a.jpg", "b.jpg"], 0.5)
    assert app.parse(["report", "runs/x", "--out", "a.html", "runs/y"]).run_dirs == [Path("runs/x"), Path("runs/y")]
    with pytest.raises(ConfigError, match=r"'smartedge infer' has no option --treshold; did you mean '--threshold'"):
        app.parse(["infer", "runs/x", "--json", "a.jpg", "--treshold", "0.5"])


@pytest.fixture
def verb_that_raises(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A stand-in for the verb ``cuts`` that raises what the test puts into the list."""
    raised: list[BaseException] = []
    module = ModuleType("smartedge.cli.cuts")

    def run(args: argparse.Namespace) -> int:
        if raised:
            raise raised[0]
        return 0

    module.add_parser = lambda subparsers: subparsers.add_parser("cuts")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "smartedge.cli.cuts", module)
    return raised


@pytest.mark.parametrize("cls", [SmartEdgeError, *SmartEdgeError.__subclasses__()], ids=lambda cls: cls.code)
def test_an_error_is_told_in_one_line_and_by_the_exit_code(
    cls: type[SmartEdgeError], verb_that_raises: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    verb_that_raises.append(cls("the cable is out; put it in"))
    assert app.main(["cuts"]) == cls.exit_code
    assert capsys.readouterr() == ("", f"error [{cls.code}]: the cable is out; put it in\n")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_error_that_repeats_a_long_value_fits_on_a_screen(
    log_format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: argparse.Namespace) -> int:
        raise ConfigError(f"run.yaml:\n  codec.name: there is no codec '{5000 * 'x'}'; choose one of uint8, code")

    monkeypatch.setattr(app, "parse", lambda argv: argparse.Namespace(run=fails, log_format=log_format))
    app.main(["train", "run.yaml"])
    told = capsys.readouterr().err
    assert len(told) < 1800 and "codec.name: there is no codec 'xxx" in told and "'; choose one of uint8, code" in told
    assert "(3 561 characters are left out)" in told


def test_a_command_to_type_is_told_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stops(args: argparse.Namespace) -> int:
        raise Stopped

    place = "run_dir=" + 2000 * "r"
    monkeypatch.setattr(app, "parse", lambda argv: argparse.Namespace(run=stops))
    app.main(["train", "run.yaml", "--set", place])
    assert capsys.readouterr().err == f"stopped; go on with: smartedge train run.yaml --set {place}\n"


@pytest.mark.parametrize("argv", [["--debug", "cuts"], ["cuts", "--debug"]], ids=" ".join)
def test_debug_shows_where_an_error_came_from(
    argv: list[str], verb_that_raises: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    verb_that_raises.append(LinkError("gone"))
    assert app.main(argv) == 7
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("error [SE-LINK]: gone\n")


def test_memory_that_is_refused_is_told_in_one_line(
    verb_that_raises: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    verb_that_raises.append(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert app.main(["cuts"]) == 8
    err = capsys.readouterr().err
    assert err.startswith("error [SE-LOG]: there is not enough memory: end other programs") and err.count("\n") == 1
    verb_that_raises[0] = RuntimeError("a fault of the program")
    with pytest.raises(RuntimeError, match="a fault"):
        app.main(["cuts"])


def test_ctrl_c_and_success(verb_that_raises: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["cuts"]) == 0
    verb_that_raises.append(KeyboardInterrupt())
    assert app.main(["cuts"]) == 130
    assert capsys.readouterr().err == "stopped\n"
    verb_that_raises.append(Stopped())
    assert app.main(["cuts"]) == 130, "a short verb that was stopped has not done what it was to do"
    assert capsys.readouterr().err == "stopped\n"


def test_a_fault_of_our_own_is_not_dressed_up(verb_that_raises: list[BaseException]) -> None:
    verb_that_raises.append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        app.main(["cuts"])


@pytest.mark.parametrize(
    "printing", ["print('place')", "print('place\\n' * 100_000)", "__import__('rich').get_console().print('place')"]
)
def test_a_reader_that_goes_away_is_no_error(printing: str) -> None:
    code = (
        "import sys, types; from smartedge.cli import app\n"
        "module = sys.modules['smartedge.cli.cuts'] = types.ModuleType('cuts')\n"
        "module.add_parser = lambda subparsers: subparsers.add_parser('cuts')\n"
        f"module.run = lambda args: {printing}\n"
        "sys.exit(app.main(['cuts']))"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run([sys.executable, "-c", code], stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("argv", [["audit", "FOLDER"], ["report", "FOLDER"], ["infer", "FOLDER", "a.png"]])
def test_a_folder_that_is_no_run(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([word.replace("FOLDER", str(tmp_path)) for word in argv]) == 10
    assert f"{tmp_path}: holds no run; train one with 'smartedge train'" in capsys.readouterr().err
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    assert app.main(["report", str(tmp_path)]) == 10
    assert f"{tmp_path}: holds no run; give one of those in it: first, second" in capsys.readouterr().err
    assert app.main(["report", str(tmp_path / "first" / "config.yaml")]) == 10
    assert "config.yaml: holds no run; it is a file: give the folder" in capsys.readouterr().err


def test_infer_says_that_what_it_is_given_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["infer", "fronts/x", "a.jpg", "--unsigned"]) == 10
    assert "fronts/x: is not there; give a run directory, or a front bundle" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\nfrom smartedge.cli.app import main; sys.exit(main(['cuts', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs the package 'torch'" in done.stderr
    assert how_to_install("train") in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", sorted({*app._LONG, "cuts"}))
def test_a_verb_that_is_asked_to_stop_ends_with_the_code_of_its_kind(verb, number, monkeypatch) -> None:
    """Long verbs stop cleanly: 0. Others, and all at the second signal: 130. docs/errors.md says so."""

    def work(args: argparse.Namespace, *, looks: bool = False) -> int:
        with stop_on_signals() as stop, stop.polled() if looks else nullcontext():
            signal.raise_signal(number)
            signal.raise_signal(number)
        raise AssertionError("nothing has stopped it")

    for looks, code in ((False, 0 if verb in app._LONG else 130), (True, 130)):
        monkeypatch.setattr(app, "parse", lambda argv, looks=looks: argparse.Namespace(run=partial(work, looks=looks)))
        assert app.main([verb]) == code
    page = (Path(__file__).parents[3] / "docs" / "errors.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| 0 | done; or one of ")]
    assert (f"`{verb}`" in line) == (verb in app._LONG)


def test_ctrl_c_while_python_ends_prints_no_traceback(tmp_path: Path) -> None:
    code = (
        "import atexit, signal, sys; from smartedge.__main__ import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell in the background ignores it
        "atexit.register(signal.raise_signal, signal.SIGINT); sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "close", "nowhere"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 130
    assert ended.stderr.startswith("error [SE-RUN]") and ended.stderr.count("\n") == 1


def test_a_full_disk_is_an_error_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert app.main(["fleet", "init", str(tmp_path / "fleet")]) == 0
    with monkeypatch.context() as disk:
        disk.setattr("smartedge.files.os.fsync", full)
        assert app.main(["fleet", "broker", str(tmp_path / "fleet")]) == 8
    said = capsys.readouterr().err
    assert said.startswith(f"error [SE-LOG]: {tmp_path}/fleet/broker/server.key: the disk is full: free space on it")


@pytest.mark.parametrize(
    ("more", "command"),
    [
        ({}, "edge run.yaml --resume"),
        ({"until_input_ends": True, "config": "a run/config.yaml"}, "train 'a run/config.yaml' --resume"),
    ],
    ids=["a side", "a side of train"],
)
def test_a_run_whose_disk_is_full_says_how_to_go_on(
    more: dict[str, Any], command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", b"runs/a/edge/checkpoints/00000003")

    monkeypatch.setattr(app, "parse", lambda argv: argparse.Namespace(run=fails, resume=False, **more))
    assert app.main(["edge", "run.yaml"]) == 8
    assert capsys.readouterr().err == (
        "error [SE-LOG]: runs/a/edge/checkpoints/00000003: the disk is full: free space on it (No space left on "
        f"device); go on with: smartedge {command}\n"
    )


@pytest.mark.parametrize(
    ("number", "text", "place", "says"),
    [
        (errno.ENAMETOOLONG, "File name too long", "x" * 300, "choose a shorter one (File name too long)\n"),
        (
            errno.EACCES,
            "Permission denied",
            "runs/a/.report.html.0123abcd.tmp",
            "error [SE-LOG]: runs/a/report.html: permission is denied: let this user read and write there "
            "(Permission denied)\n",
        ),
    ],
)
def test_a_place_that_no_resumption_mends_gets_no_advice_to_resume(
    number: int, text: str, place: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: object) -> int:
        raise OSError(number, text, place)

    monkeypatch.setattr(app, "parse", lambda argv: argparse.Namespace(run=fails, resume=False))
    assert app.main(["train", "run.yaml"]) == 8
    assert capsys.readouterr().err.endswith(says)


@pytest.mark.parametrize("out", [[], ["--out", "page.html"]], ids=["in the run", "elsewhere"])
def test_a_report_of_a_run_that_can_only_be_read_goes_elsewhere(
    out: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").touch()

    def fails(run_dir: Path, out: Path | None) -> Path:
        page = out or run_dir / "report.html"
        raise OSError(errno.EROFS, "Read-only file system", str(temporary_name(page)))

    monkeypatch.setattr("smartedge.lab.report.write_report", fails)
    assert app.main(["report", str(tmp_path), *out]) == 8
    said = capsys.readouterr().err
    assert said.startswith(f"error [SE-LOG]: {out[-1] if out else tmp_path / 'report.html'}: the disk can only be read")
    assert said.endswith("; or write the page elsewhere, with --out FILE\n") == (not out)


def test_an_error_of_the_system_that_is_not_the_disk_s_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(args: object) -> int:
        raise OSError(errno.ENOTCONN, "not connected")

    monkeypatch.setattr(app, "parse", lambda argv: argparse.Namespace(run=fails))
    with pytest.raises(OSError, match="not connected"):
        app.main(["cuts"])


def test_names_of_files_are_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    (tmp_path / "grü ße").mkdir()
    (tmp_path / "grü ße" / "run.yaml").write_text("data: {path: grü ße/Bilder}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "smartedge", "train", "grü ße/run.yaml"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 3 and "grü ße/Bilder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("settings", "told"), [("epochs: 2\n", True), ("data: {path: drawn}\n", False)])
def test_who_names_no_data_set_is_told_what_is_used(tmp_path, monkeypatch, capsys, settings, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(settings)
    for verb in (["train"], ["edge", "--connect", "127.0.0.1:1"]):
        assert app.main([*verb, "run.yaml", "--set", "model.name=resnet81"]) != 0
        assert ("data.path is not set: the images are those of 'drawn'" in capsys.readouterr().err) is told
