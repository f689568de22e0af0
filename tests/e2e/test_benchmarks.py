"""Programs under benchmarks/ run to their end, at a small size; and what they print of kept results is what is kept.

They run in a copy, beside a copy of the kept results. Those with trials are in test_trials.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux")]

ROOT = Path(__file__).parents[2]
RESULTS = Path("benchmarks", "results")
SMALL = {  # command → a result that it makes
    "broker.py kills --trials 1": "broker-kills.json",
    "broker_publishing.py --rounds 1": "broker-publishing.json",
    "first_hour.py auto": "first-hour-auto.json",
    "frame_path.py --rounds 1": "frame-path.json",
    "link.py transport --rounds 1": "link-transport.json",
    "load.py --edges 3 --frames 1 --period 1 --connect 1 --idle 1 --senders 1": "load/3-edges.json",
    "medical.py --images 240 --epochs 1 --budget 8": "medical-pair.json",
    "records.py --records 2000": "records-parquet-2000.json",
    "records.py --records 2000 --kind tar": "records-tar-2000.json",
}
TABLES = sorted(file.name for file in (ROOT / "benchmarks").glob("*.py") if '"--table"' in file.read_text("utf-8"))
DRAWN = ".png"  # a picture's bytes depend on the version of matplotlib


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository, of which benchmarks/ is a copy."""
    for each in ("src", "docs", "examples", "tests"):
        (tmp_path / each).symlink_to(ROOT / each)
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(copy: Path, command: str, **environment: str) -> None:
    """Run a program of the copy there, to its end."""
    program, *arguments = command.split()
    call = [sys.executable, str(copy / "benchmarks" / program), *arguments]
    where = {**os.environ, "PYTHONPATH": str(copy / "src"), **environment}
    done = subprocess.run(call, cwd=copy, env=where, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.parametrize("command", SMALL)
def test_a_benchmark_runs_and_keeps_its_result(command: str, copy: Path) -> None:
    kept = copy / RESULTS / SMALL[command]
    kept.unlink(missing_ok=True)
    run(copy, command)
    assert kept.exists()


@pytest.mark.parametrize("program", TABLES)
def test_a_table_is_that_of_the_kept_results(program: str, copy: Path, shared_data: Path) -> None:
    run(copy, f"{program} --table", SMARTEDGE_DATA=str(shared_data))
    before, after = (
        {file.relative_to(folder): file.read_bytes() for file in (folder / RESULTS).rglob("*") if file.is_file()}
        for folder in (ROOT, copy)
    )
    changed = [str(file) for file in before.keys() | after.keys() if before.get(file) != after.get(file)]
    assert [file for file in changed if not file.endswith(DRAWN)] == []


def test_there_are_tables() -> None:
    assert len(TABLES) > 15
