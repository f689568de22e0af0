"""The import rules of docs/architecture.md hold, and a planted violation of each is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = "Imports go down the layers; parts of one layer do not import each other"
CLOUD = "The cloud cannot see images, releases or sensitive labels"
SETTINGS = "The parts take arguments, not the settings of a run"
REPORT = "The report is made from files alone"
LAB = "The laboratory's parts: the sweep uses the others, audit and planner use the report's drawings"
RUNNERS = "Audit and planner use steps and logs, not the runners"


@pytest.fixture
def copy(tmp_path: Path, repo_root: Path) -> Path:
    """A copy of the package and its rules."""
    shutil.copytree(repo_root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(repo_root / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_rules_hold(copy: Path) -> None:
    code, output = lint_imports(copy)
    assert code == 0, output
    assert "6 kept, 0 broken" in output


@pytest.mark.parametrize(
    ("where", "statement", "broken"),
    [
        ("types.py", "import smartedge.errors", LAYERS),
        ("files.py", "import smartedge.errors", LAYERS),
        ("models/planted.py", "import smartedge.data", LAYERS),
        ("codec/planted.py", "from smartedge.wire import frame", LAYERS),
        ("runs/planted.py", "import smartedge.methods.base", LAYERS),
        ("methods/planted.py", "from smartedge.config import Config", LAYERS),
        ("codec/planted.py", "import smartedge.runs.seeds", LAYERS),
        ("artifacts/planted.py", "import smartedge.codec", LAYERS),
        ("edge/planted.py", "import smartedge.cloud.trainer", LAYERS),
        ("training.py", "import smartedge.cli.app", LAYERS),
        ("edge/planted.py", "def late():\n    import smartedge.lab.report", LAYERS),
        ("training.py", "from smartedge.lab.audit import suite", LAYERS),
        ("unplaced.py", "", LAYERS),
        ("lab/report/planted.py", "import smartedge.lab.plan", LAB),
        ("cloud/planted.py", "def late():\n    import smartedge.data", CLOUD),
        ("cloud/planted.py", "import smartedge.privacy.release", CLOUD),
        ("models/planted.py", "from smartedge.config import Config", SETTINGS),
        ("lab/report/planted.py", "from smartedge.types import Task", REPORT),
        ("lab/audit/planted.py", "import smartedge.cloud.runner", RUNNERS),
        ("lab/plan/planted.py", "from smartedge.edge.runner import EdgeRunner", RUNNERS),
    ],
)
def test_a_planted_violation_is_found(where: str, statement: str, broken: str, copy: Path) -> None:
    with (copy / "src" / "smartedge" / where).open("a", encoding="utf-8") as module:
        module.write(f"\n{statement}\n")
    code, output = lint_imports(copy)
    assert code == 1, output
    assert f"{broken} BROKEN" in output
    planted = "smartedge." + where.removesuffix(".py").replace("/", ".")
    assert planted in output.split("Broken contracts")[1]
