"""What is noted of the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smartedge.runs import machine
from smartedge.runs.machine import describe_machine, peak_rss_bytes, rss_bytes


def test_memory_is_in_bytes() -> None:
    """This process has torch, of which 50 MB are too few by far, and 100 GB too many."""
    peak = peak_rss_bytes()
    assert peak is not None and 5e7 < rss_bytes() <= 1.1 * peak < 1e11


def test_the_gpu_is_known_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    assert "gpu" not in describe_machine()
    (tmp_path / "0000:03:00.0").mkdir()
    (tmp_path / "0000:03:00.0" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 24\n")
    assert describe_machine()["gpu"] == "NVIDIA H100 80GB HBM3"
    assert "torch" not in sys.modules


def test_a_run_is_prepared_without_torch(tmp_path: Path) -> None:
    """The process that starts both sides waits for them; a second of importing torch would be added to every run."""
    program = (
        "import sys; sys.modules['torch'] = None; from smartedge import training\n"
        "def run_both(config, *_, **__): print((config.run_dir / 'run.json').exists()); sys.exit()\n"
        "training.run_both = run_both\n"
        f"training.train({{'data': {{'path': 'drawn', 'desired': 'smile'}}, 'run_dir': {str(tmp_path / 'run')!r}}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
