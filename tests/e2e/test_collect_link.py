"""``smartedge collect --connect``: an edge gets from ``smartedge serve`` what concerns it, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, settings_file

from smartedge.cli.app import main
from smartedge.cloud.carrying import carry
from smartedge.cloud.files_for_edges import files_for_edges
from smartedge.cloud.store.feature_log import FeatureReader, log_folder
from smartedge.errors import ConfigError, LinkError, RunError, SmartEdgeError
from smartedge.runs.progress import Quiet
from smartedge.training import collect, train
from smartedge.wire.files import PIECE_BYTES, FileAnswers
from smartedge.wire.link_pb2 import Ask, File, Told

Asks = Callable[[bytes], bytes]
Change = Callable[[Ask, Told], object]


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_two_edges_with_certificates_collect_each_its_own(tiny_config, tmp_path, start, capsys):
    names, fleet = ["door", "gate"], tmp_path / "fleet"
    assert main(["fleet", "init", str(fleet)]) == 0
    assert main(["fleet", "add", str(fleet), *names, "--cloud", "127.0.0.1:1"]) == 0
    bundle = {name: str(fleet / "bundles" / f"{name}.bundle") for name in names}
    config = tiny_config("cloud", epochs=1, fleet={"expect": names})
    edges = {name: tiny_config(name, epochs=1, data={"shard": f"{row}/2"}) for row, name in enumerate(names, start=1)}
    cloud = start("cloud", settings_file(config, "cloud"), "--fleet", fleet, "--listen", "127.0.0.1:0")
    where = f"127.0.0.1:{cloud.port()}"
    sides: list[Command] = [
        start("edge", settings_file(edges[name], name), "--bundle", bundle[name], "--connect", where) for name in names
    ]
    assert [side.end() for side in (*sides, cloud)] == [0, 0, 0]
    server = start("serve", config.run_dir, "--fleet", fleet, "--listen", "127.0.0.1:0")
    reached = f"127.0.0.1:{server.port()}"
    door, of_all = edges["door"].run_dir, files(config.run_dir / "cloud")

    assert main(["collect", str(door), "--connect", reached, "--bundle", bundle["gate"]]) == RunError.exit_code
    assert "has nothing of edge 'gate' in this run" in capsys.readouterr().err
    assert main(["collect", str(door), "--connect", reached]) == LinkError.exit_code
    told = capsys.readouterr().err
    assert "SE-LINK" in told and "the cloud uses TLS, and this side does not" in told and not (door / "cloud").exists()

    assert main(["collect", str(door), "--connect", reached, "--bundle", bundle["door"]]) == 0
    assert capsys.readouterr().out.splitlines() == [str(door / "cloud"), str(door / "report.html")]
    mine = ["back.safetensors", "metrics.jsonl", "summary.json"]
    mine += [f"store/door/{name}" for name in ("000000.frames", "mark", "streams")]
    assert files(door / "cloud") == {name: of_all[name] for name in sorted(mine)}
    assert json.loads((door / "results.json").read_text())["test"]["back"]
    assert main(["audit", str(door), "--attributes", "masculine", "--attacks", "membership", "--budget", "1s"]) == 0
    assert "protected images of edge door" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained() -> list[Path]:
    """The run directory of a run, once a test has made one."""
    return []


@pytest.fixture
def machines(tiny_config, trained, tmp_path) -> tuple[Path, Path]:
    """The run directories of the device and of the server, after a run on two machines."""
    if not trained:
        config = tiny_config("trained", epochs=1)
        train(config, single_process=True, monitor=Quiet())
        trained.append(config.run_dir)
    shutil.copytree(trained[0], tmp_path / "run")
    door, server = tmp_path / "door side", tmp_path / "server"
    for folder, part in ((door, "edge"), (server, "cloud")):
        shutil.copytree(trained[0] / part, folder / part)
        for file in ("config.yaml", "run.json"):
            shutil.copy(trained[0] / file, folder / file)
    return door, server


def asks(server: Path, change: Change = lambda ask, told: None) -> Asks:
    """What a server answers; ``change`` is what a hostile one does to it."""
    answers = FileAnswers(files_for_edges(server / "cloud"))

    def ask(question: bytes) -> bytes:
        told = Told.FromString(answers("edge", question))
        change(Ask.FromString(question), told)
        return told.SerializeToString()

    return ask


def refused(door: Path, ask: Asks, error: type[SmartEdgeError], why: str) -> None:
    """It is refused, and nothing is left of it."""
    before = files(door)
    with pytest.raises(error, match=why):
        carry(door, ask)
    assert files(door) == before and not (door / "cloud").exists() and not list(door.glob(".collecting*"))


def test_over_the_link_comes_what_report_and_audit_read(machines, tmp_path):
    door, server = machines
    with (server / "cloud" / "back.safetensors").open("r+b") as file:  # two pieces and a bit
        file.truncate(2 * PIECE_BYTES + 7)
    carry(door, asks(server))
    sent = files(server / "cloud")
    left_out = [name for name in sent if name not in files(door / "cloud")]
    assert files(door / "cloud") == {name: each for name, each in sent.items() if name not in left_out}
    assert {Path(name).parts[0] for name in left_out} == {"checkpoints", "closed", "cloud.lock", "progress.json"}
    collect(door)
    of_both = json.loads((tmp_path / "run" / "results.json").read_text())
    assert json.loads((door / "results.json").read_text())["test"] == of_both["test"]
    with pytest.raises(RunError, match="is there already"):
        carry(door, asks(server))


def named(name: str) -> Change:
    return lambda ask, told: None if ask.name else told.files.append(File(name=name))


def listed(**values: object) -> Change:
    def change(ask: Ask, told: Told) -> None:
        if not ask.name:
            for name, value in values.items():
                setattr(told.files[0], name, value)

    return change


def piece(content: Callable[[bytes], bytes]) -> Change:
    def change(ask: Ask, told: Told) -> None:
        if ask.name == "back.safetensors":
            told.content = content(told.content)

    return change


HOSTILE: list[tuple[Change, type[SmartEdgeError], str]] = [
    (named("../x"), RunError, "names a file that no edge needs"),
    (named("/tmp/x"), RunError, "names a file that no edge needs"),
    (named("edge/noise.key"), RunError, "names a file that no edge needs"),
    (named("mark/../../../x"), RunError, "names a file that no edge needs"),
    (named("000001.frames\n"), RunError, "names a file that no edge needs"),
    (named("config.yaml"), RunError, "names a file that no edge needs"),
    (named(""), RunError, "names a file that no edge needs"),
    (named("summary.json"), RunError, "names a file twice"),
    (lambda ask, told: setattr(told, "edge", "../door"), RunError, "no name of an edge"),
    (listed(size=2**40), RunError, "too large"),
    (
        lambda ask, told: None if ask.name else told.files.append(File(name="000001.frames", size=2**60)),
        RunError,
        "make room",
    ),
    (listed(sha256=b"0" * 32), LinkError, "its checksum is wrong"),
    (piece(lambda content: content + b"x"), LinkError, "a piece of another length"),
    (piece(lambda content: content[:-1]), LinkError, "a piece of another length"),
    (piece(lambda content: b""), LinkError, "a piece of another length"),
    (piece(lambda content: bytes(len(content))), LinkError, "its checksum is wrong"),
    (lambda ask, told: None if ask.name else told.files.pop(0), RunError, "not of a run that has ended"),
]


def test_a_hostile_server_writes_nothing(machines, tmp_path):
    door, server = machines
    for hostile, error, why in HOSTILE:
        refused(door, asks(server, hostile), error, why)
    refused(door, lambda question: b"\xff", LinkError, "not readable")
    assert not (tmp_path / "x").exists()


def test_a_transfer_that_breaks_off_leaves_nothing_and_can_be_repeated(machines):
    door, server = machines
    left = 5

    def break_off(ask: Ask, told: Told) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise LinkError("the link broke")

    refused(door, asks(server, break_off), LinkError, "the link broke")
    killed = door / ".collecting-killed" / "cloud"  # what a process leaves that was killed
    killed.mkdir(parents=True)
    (killed / "back.safetensors").write_bytes(b"half")
    carry(door, asks(server))
    assert (door / "cloud" / "back.safetensors").exists() and not list(door.glob(".collecting*"))


def test_a_full_disk_is_told(machines, monkeypatch):
    door, server = machines

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("smartedge.wire.files.sync_file", full)
    refused(door, asks(server), RunError, "the disk is full")


def test_a_server_of_another_run_gives_nothing(machines):
    door, server = machines
    edge = door / "edge" / "run.json"
    edge.write_text(json.dumps({**json.loads(edge.read_text()), "run": "another"}))
    refused(door, asks(server), RunError, "has nothing of edge 'edge' in this run")


def test_a_damaged_log_of_the_server_is_told(machines):
    door, server = machines
    folder = log_folder(server / "cloud")
    assert FeatureReader(folder).next_seq > 1
    segment = folder / "000000.frames"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    refused(door, asks(server), RunError, "the cloud's own log of this edge cannot be used")


@pytest.mark.parametrize(
    "more", [[], ["there", "--connect", "127.0.0.1:1"], ["there", "--bundle", "door.bundle"]], ids=str
)
def test_one_source_is_needed(more, capsys):
    assert main(["collect", "runs/faces", *more]) == ConfigError.exit_code
    assert "--connect HOST:PORT" in capsys.readouterr().err
