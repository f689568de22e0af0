"""Plant small bugs in the package, one at a time, and count those that the tests see.

mutmut makes the bugs (mutants) and knows which tests run a function. This script gives it one package at a time, with
the tests of that package, a seeded sample of its mutants, and a part of the time. It keeps what survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
RESULTS = ROOT / "benchmarks" / "results" / "mutants.json"
LOG = "mutmut.log"
IN_PROCESS = ["test_settings.py", "test_evaluation.py", "test_broken_off.py"]
IN_PROCESS = [*(f"tests/e2e/{name}" for name in IN_PROCESS), "tests/golden/test_losses.py"]
# The tests that cover a package, all of which run in the process that they are started in. "top" is the modules beside
# the packages.
TOP = ("extras", "files", "locks", "logs", "metrics", "stopping", "training")
TESTS = {
    "privacy": ["tests/unit/privacy", "tests/contract/test_mechanisms.py", "tests/golden/test_releases.py"],
    "codec": ["tests/unit/codec", "tests/contract/test_codecs.py", "tests/golden/test_codec_bytes.py"],
    "wire": ["tests/unit/wire", "tests/contract/test_links.py"],
    "framelog": ["tests/unit/framelog"],
    "cloud": ["tests/unit/cloud", "tests/e2e/test_evaluation.py", "tests/golden/test_losses.py"],
    "edge": ["tests/unit/edge"],
    "methods": ["tests/unit/methods", "tests/contract/test_differentiable.py", *IN_PROCESS],
    "config": ["tests/unit/test_config.py", "tests/unit/test_training.py", "tests/unit/cli/test_init.py"],
    "runs": ["tests/unit/runs", "tests/unit/test_logs.py"],
    "launch": ["tests/unit/launch", "tests/unit/test_training.py", "tests/unit/fleet/test_who_may_send.py"],
    "lab/plan": ["tests/unit/lab/plan", "tests/unit/cli/test_init.py"],
    "top": [f"tests/unit/test_{name}.py" for name in TOP],
}
OF_THEIR_FOLDER = ("fleet", "inference", "fronts", "data", "images", "models", "artifacts")
OF_THE_LAB = ("lab/audit", "lab/judging", "lab/report")
TESTS |= {package: [f"tests/unit/{package}"] for package in (*OF_THEIR_FOLDER, *OF_THE_LAB)}
# Measured where none is named: the way of an image from the edge to the back, in an hour at most.
USUAL = ("privacy", "codec", "wire", "framelog", "cloud", "edge", "methods")
GOALS = dict.fromkeys(TESTS, 0.8) | {"privacy": 0.9, "wire": 0.9, "framelog": 0.9}
GENERATED = "*_pb2.py"  # by protoc: no code of ours
# Not planted: wording. What a message says is tested by its gist, in tests/unit/test_errors.py among others.
WORDING = [r"raise \w", r"= \w+Error\(f?\"", r"problems\.append", r"^\s*f?\"", r"_log\.", r"description="]
# Not counted where they survive, since they change nothing here: keywords and names of SQL in other letters; zip() that
# does not compare lengths, which are equal; a file's encoding left to the system, where that is UTF-8.
SQL = re.compile(r"\b(SELECT|INSERT|PRAGMA|CREATE|UPDATE|DELETE|BEGIN|COMMIT|ROLLBACK)\b", re.IGNORECASE)
ENCODING = re.compile(r"encoding=(None|\"ascii\"|\"utf-8\")", re.IGNORECASE)
STRICT = re.compile(r"strict=(True|False|None)")
PYTEST = ["-m", "not slow and not source", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile"]
# No limit of pytest's on a test, which would be reached on a busy machine without any mutant. mutmut ends a mutant that
# hangs, after five times what its tests took before.
PYTEST += ["no-shrinking", "--timeout=0"]
FAILED = "failed.txt"  # what failed before anything was planted; mutmut does not show it
# Goes into the copy's conftest.py: most mutants are seen by a unit test, and need no run from end to end.
CONFTEST = """

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "tests/unit/" not in item.nodeid)


def pytest_runtest_logreport(report):
    if report.failed and os.environ.get("MUTANT_UNDER_TEST") == "stats":
        with open(FAILED, "a") as file:
            file.write(f"{report.nodeid}\\n{report.longreprtext[-2000:]}\\n")
"""
# mutmut runs the tests once to see which of them run a function, and then once more to see that they pass. They have
# passed by then. After each test it reads the set of functions that have run. Threads of the test may still add to it.
MUTMUT = """
from mutmut.__main__ import cli
from mutmut.state import state
from mutmut.workers.isolation import ForkServerRunner

class Functions(set):
    def __iter__(self):
        return iter(frozenset(self))

state()._stats = Functions()  # mutmut has no public way
ForkServerRunner.run_clean_tests = lambda *_, **__: 0
cli()
"""
# Exit codes that mutmut keeps: https://mutmut.readthedocs.io
SURVIVED, NO_TESTS = 0, 33
TIMED_OUT = {24, -24, 36, 152, 255}


def main() -> int:
    """Measure the packages that are named, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", default=USUAL, help=f"of {', '.join(TESTS)}; default: the first 7")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each package (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for each package (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at the same time (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with the same sample, where the time was over")
    args = parser.parse_args()
    if unknown := set(args.packages) - set(TESTS):
        parser.error(f"no such package: {', '.join(sorted(unknown))}")
    found: dict[str, dict[str, Any]] = {}
    for package in args.packages:
        try:
            found[package] = measure(package, args)
        except Unplanted as error:  # the others are measured all the same
            print(f"{package}: {error}", file=sys.stderr, flush=True)
            continue
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # read late: calls may run side by side
        RESULTS.write_text(json.dumps(dict(sorted((known | found).items())), indent=1) + "\n")
    columns = ("sample", "tried", "killed", "survived", "no test", "score", "goal")
    print(f"\n{'package':9}" + "".join(f"{column:>9}" for column in columns))
    for package in args.packages:
        if package not in found:
            print(f"{package:9} not measured: see the error above")
            continue
        row = found[package]
        counts = (row["sampled"], row["tried"], row["killed"], len(row["survived"]), len(row["no_test"]))
        print(f"{package:9}{''.join(f'{count:9}' for count in counts)}{row['score']:9.1%}{GOALS[package]:9.0%}")
    print(f"survivors: {RESULTS.relative_to(ROOT)}")
    return 0 if all(package in found for package in args.packages) else 1


class Unplanted(Exception):
    """Mutants of the sample were not tried although there was time."""


def measure(package: str, args: argparse.Namespace) -> dict[str, object]:
    """Plant the sampled bugs of one package."""
    folder = BUILD / package
    if not (args.resume and folder.exists()):
        copy_to(folder, package)
    names = mutants_of(package, folder)
    sample = sorted(random.Random(args.seed).sample(names, min(args.sample, len(names))))
    known = results_of(folder, sample)
    left = [name for name in sample if name not in known]
    print(f"{package}: {len(left)} of {len(names)} mutants", flush=True)
    begun = time.monotonic()
    over = plant(folder, left, args) if left else False  # without names mutmut would plant them all
    codes = results_of(folder, sample)
    if not codes and over:
        raise Unplanted(f"nothing was planted: mutmut still ran the tests unchanged after {args.minutes:g} minutes")
    if len(codes) < len(sample) and not over:
        untried = f"{len(sample) - len(codes)} of {len(sample)} mutants were not planted: mutmut ended before"
        failed = (folder / FAILED).read_text() if (folder / FAILED).exists() else ""
        raise Unplanted(f"{untried}. The end of {folder / LOG}:\n{end_of(folder / LOG)}\n{failed}".rstrip())
    diffs = {name: diff_of(folder, name) for name, code in sorted(codes.items()) if code == SURVIVED}
    unchanged = [name for name, diff in diffs.items() if changes_nothing(diff)]
    codes = {name: code for name, code in codes.items() if name not in unchanged}
    survived = {name: diff for name, diff in diffs.items() if name in codes}
    no_test = sorted(name for name, code in codes.items() if code == NO_TESTS)
    killed = len(codes) - len(survived) - len(no_test)
    return {
        "mutants": len(names),
        "sampled": len(sample),
        "seed": args.seed,
        "change_nothing": len(unchanged),
        "tried": len(codes),
        "killed": killed,
        "of_these_by_time": sum(code in TIMED_OUT for code in codes.values()),
        "score": round(killed / max(1, len(codes)), 4),
        "seconds": round(time.monotonic() - begun),
        "survived": survived,
        "no_test": no_test,
    }


def plant(folder: Path, names: list[str], args: argparse.Namespace) -> bool:
    """Let mutmut plant these bugs, one at a time, and keep its results in the folder. True if the time ended it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONHASHSEED": "0"}
    (folder / FAILED).unlink(missing_ok=True)
    with (folder / LOG).open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", MUTMUT, "run", "--max-children", str(args.jobs), *names],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=60 * args.minutes)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 15)
            process.wait()
            return True
    return False


def end_of(log: Path, lines: int = 25) -> str:
    """The last lines of mutmut's log as a terminal would show them: it draws its progress over itself."""
    shown = [line.rsplit("\r", 1)[-1].rstrip() for line in log.read_bytes().decode(errors="replace").split("\n")]
    return "\n".join([line for line in shown if line][-lines:])


def copy_to(folder: Path, package: str) -> None:
    """Make a copy of the project, in which mutmut plants the bugs of one package."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("src", "tests", "benchmarks", "examples", "docs", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results", "*.egg-info")
            )
        else:
            shutil.copy(source, folder / name)
    for file, text in (
        ("pyproject.toml", settings_of(package)),
        ("tests/conftest.py", CONFTEST + f"\n\nFAILED = {str(folder / FAILED)!r}\n"),
    ):
        with (folder / file).open("a") as more:
            more.write(text)


def sources_of(package: str) -> list[Path]:
    """The files in which the bugs of a package are planted."""
    source = ROOT / "src" / "smartedge"
    files = source.glob("*.py") if package == "top" else (source / package).rglob("*.py")
    return sorted(path for path in files if not path.match(GENERATED))


def settings_of(package: str) -> str:
    """Mutmut's section of pyproject.toml."""
    lists = {
        "source_paths": ["src"],
        "only_mutate": [str(path.relative_to(ROOT)) for path in sources_of(package)],
        "also_copy": ["benchmarks", "examples", "docs"],
        "do_not_mutate_patterns": WORDING,
        "pytest_add_cli_args_test_selection": TESTS[package],
        "pytest_add_cli_args": PYTEST,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in lists.items()]
    lines += ['process_isolation = "forkserver"', "timeout_multiplier = 5.0", "timeout_constant = 20.0"]
    lines += ["use_git_change_detection = false", "track_dependencies = false"]
    return "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"


def mutants_of(package: str, folder: Path) -> list[str]:
    """The names of all mutants of a package, in order."""
    os.chdir(folder)  # mutmut reads its settings there
    import mutmut
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    mutmut._reset_globals()  # noqa: SLF001 - mutmut has no public way
    names = []
    for path in [path.relative_to(ROOT) for path in sources_of(package)]:
        made = mutate_file_contents(str(path), path.read_text())
        names += [get_mutant_name(path, name) for name in made.mutant_names]
    os.chdir(ROOT)
    return names


def results_of(folder: Path, sample: list[str]) -> dict[str, int]:
    """Exit codes of the mutants that were tried."""
    codes: dict[str, int] = {}
    for file in (folder / "mutants" / "src").rglob("*.meta"):
        codes |= json.loads(file.read_text())["exit_code_by_key"]
    return {name: codes[name] for name in sample if codes.get(name) is not None}


def diff_of(folder: Path, name: str) -> list[str]:
    """The lines that a mutant changes."""
    shown = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name], cwd=folder, capture_output=True, text=True, check=True
    )
    lines = shown.stdout.splitlines()
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("---", "+++")]


def changes_nothing(diff: list[str]) -> bool:
    """Whether a mutant is of a kind that no test can see."""
    old, new = (" ".join(line[1:].strip() for line in diff if line[0] == sign) for sign in "-+")
    if SQL.search(old) and "'" not in old and old.casefold() == new.casefold():
        return True
    argument = STRICT if "zip(" in old else ENCODING
    old, new = (re.sub(r"[, ]+\)", ")", argument.sub("", text)) for text in (old, new))
    return old == new


if __name__ == "__main__":
    sys.exit(main())
