"""Others on the machine cannot read what a run, its report and the cache of its images wrote."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartedge.lab.report import write_report
from smartedge.runs.progress import Quiet
from smartedge.training import train

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")


@pytest.fixture(autouse=True)
def open_to_all() -> Iterator[None]:
    """Every permission that is not asked for by a program is given."""
    before = os.umask(0)
    yield
    os.umask(before)


def readable_by_others(folder: Path) -> list[Path]:
    """Files below a folder that others can read. A closed folder closes what is in it."""
    found = []
    for path in folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            found += readable_by_others(path) if mode & 0o077 else []
        elif mode & 0o077:
            found.append(path)
    return found


def test_a_run_from_python_in_a_folder_that_was_open(tiny_config, tmp_path: Path) -> None:
    config = tiny_config(
        "run", epochs=1, data={"cache_dir": str(tmp_path / "cache")}, model={"bottleneck": [4, 2, 2]},
        dp={"mechanism": "gaussian", "epsilon": 8.0},
    )  # fmt: skip
    config.run_dir.mkdir(mode=0o755)
    (tmp_path / "cache").mkdir(mode=0o755)
    train(config, single_process=True, monitor=Quiet())
    report = write_report(config.run_dir)
    assert report.exists() and (config.run_dir / "edge" / "samples.safetensors").exists()
    assert len(list((tmp_path / "cache").iterdir())) > 0
    assert readable_by_others(config.run_dir) == [] == readable_by_others(tmp_path / "cache")


def test_everything_is_private_that_a_command_writes_also_through_libraries(tiny_config, tmp_path: Path) -> None:
    config = tiny_config("run", epochs=1, method="local")
    settings = tmp_path / "settings.yaml"
    settings.write_text(config.to_yaml())
    command = [sys.executable, "-m", "smartedge", "train", str(settings), "--single-process"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    files = [path for path in config.run_dir.rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in files) and any(path.name == "report.html" for path in files)
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
