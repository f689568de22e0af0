"""The import rules of docs/architecture.md hold, and a planted violation of each is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

LAYERS = "Imports go down the layers; parts of one layer do not import each other"
CLOUD = "The cloud cannot see images, releases or sensitive labels"
SETTINGS = "The parts take arguments, not the settings of a run"
REPORT = "The report is made from files alone"
LAB = "The laboratory's parts: the sweep uses the others, the planner the report's drawings, all the judging"
LAUNCH = "What a run begins with: the data set needs the run's folder, and the division of the network needs both"
ORDER = "In the cloud a frame goes up: kept, taken in, put in order, learned from"
RECORDING = "A network is recorded by code that knows nothing of cuts"
RUNNERS = "Audit and planner use steps and logs, not the runners"


# Where a violation is planted, what is written there, the rule that it breaks, and what must be said about it.
PLANTED = [
    ("types", "import smartedge.errors", LAYERS, "smartedge.types -> smartedge.errors"),
    ("files", "import smartedge.errors", LAYERS, "smartedge.files -> smartedge.errors"),
    ("models.first", "import smartedge.data", LAYERS, "smartedge.models.first -> smartedge.data"),
    ("codec.first", "from smartedge.wire import frame", LAYERS, "smartedge.codec.first -> smartedge.wire.frame"),
    ("runs.first", "import smartedge.methods.base", LAYERS, "smartedge.runs.first -> smartedge.methods.base"),
    ("methods.first", "from smartedge.config import Config", LAYERS, "smartedge.methods.first -> smartedge.config"),
    ("codec.second", "import smartedge.runs.seeds", LAYERS, "smartedge.codec.second -> smartedge.runs.seeds"),
    ("artifacts.first", "import smartedge.codec", LAYERS, "smartedge.artifacts.first -> smartedge.codec"),
    ("edge.first", "import smartedge.cloud.trainer", LAYERS, "smartedge.edge.first -> smartedge.cloud.trainer"),
    ("training", "import smartedge.cli.app", LAYERS, "smartedge.training -> smartedge.cli.app"),
    (
        "edge.second",
        "def late():\n    import smartedge.lab.report",
        LAYERS,
        "smartedge.edge.second -> smartedge.lab.report",
    ),
    ("training", "from smartedge.lab.audit import suite", LAYERS, "smartedge.training -> smartedge.lab.audit.suite"),
    ("unplaced", "", LAYERS, "not listed as layers:\n\n- smartedge.unplaced"),
    (
        "models.recording.first",
        "import smartedge.models.cutting.part",
        RECORDING,
        "smartedge.models.recording.first -> smartedge.models.cutting.part",
    ),
    ("lab.report.first", "import smartedge.lab.plan", LAB, "smartedge.lab.report.first -> smartedge.lab.plan"),
    (
        "lab.judging.first",
        "import smartedge.lab.report.plots",
        LAB,
        "smartedge.lab.judging.first -> smartedge.lab.report.plots",
    ),
    ("cloud.first", "def late():\n    import smartedge.data", CLOUD, "smartedge.cloud.first -> smartedge.data"),
    ("cloud.second", "import smartedge.privacy.release", CLOUD, "smartedge.cloud.second -> smartedge.privacy.release"),
    (
        "cloud.order.first",
        "import smartedge.cloud.training.mixed",
        ORDER,
        "smartedge.cloud.order.first -> smartedge.cloud.training.mixed",
    ),
    (
        "cloud.store.first",
        "import smartedge.cloud.ingest",
        ORDER,
        "smartedge.cloud.store.first -> smartedge.cloud.ingest",
    ),
    ("models.second", "from smartedge.config import Config", SETTINGS, "smartedge.models.second -> smartedge.config"),
    ("lab.report.second", "from smartedge.types import Task", REPORT, "smartedge.lab.report.second -> smartedge.types"),
    (
        "launch.run_folder",
        "def late():\n    from smartedge.launch import datasets",
        LAUNCH,
        "smartedge.launch.run_folder -> smartedge.launch.datasets",
    ),
    (
        "lab.audit.first",
        "import smartedge.cloud.runner",
        RUNNERS,
        "smartedge.lab.audit.first -> smartedge.cloud.runner",
    ),
    (
        "lab.plan.first",
        "from smartedge.edge.runner import EdgeRunner",
        RUNNERS,
        "smartedge.lab.plan.first -> smartedge.edge.runner",
    ),
]


def copied(root: Path, folder: Path) -> Path:
    """A copy of the package and its rules."""
    shutil.copytree(root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(root / "pyproject.toml", folder)
    return folder


def lint_imports(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_rules_hold(tmp_path: Path, repo_root: Path) -> None:
    code, output = lint_imports(copied(repo_root, tmp_path))
    assert code == 0, output
    assert "9 kept, 0 broken" in output


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> dict[str, str]:
    """Rule → what is said of it, where all violations are planted at once."""
    copy = copied(repo_root, tmp_path_factory.mktemp("planted"))
    for module, statement, _, _ in PLANTED:
        file = copy / "src" / "smartedge" / f"{module.replace('.', '/')}.py"
        with file.open("a", encoding="utf-8") as written:
            written.write(f"\n{statement}\n")
    code, output = lint_imports(copy)
    assert code == 1, output
    parts = re.split(r"^(.+)\n---+$", output.split("Broken contracts")[1], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("module", "statement", "rule", "said"), PLANTED)
def test_a_planted_violation_is_found(
    module: str, statement: str, rule: str, said: str, broken: dict[str, str]
) -> None:
    assert said in broken[rule], f"{statement!r} in {module}"


def part_of(module: str) -> str:
    """``smartedge.edge.runner`` → ``edge``; ``smartedge.lab.audit.call`` → ``lab/audit``."""
    names = module.split(".")[1:]
    return "/".join(names[:2]) if names[0] == "lab" else names[0]


def test_the_architecture_names_the_imports_of_each_part(repo_root: Path) -> None:
    text = (repo_root / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| .+ \| (.+) \|$", text, re.MULTILINE)
    told = {part.rstrip("/"): imports for parts, imports in rows for part in re.findall(r"`([a-z_/]+)`", parts)}
    everywhere = {part.rstrip("/") for parts, _ in rows[:6] for part in re.findall(r"`([a-z_/]+)`", parts)}

    graph = grimp.build_graph("smartedge", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules - {"smartedge", "smartedge.lab"}:
        imported = {each for each in graph.find_modules_directly_imported_by(module) if each.count(".")}
        found.setdefault(part_of(module), set()).update(map(part_of, imported))

    assert {part for part, imported in found.items() if "cli" in imported} == {"cli", "__main__"}
    del found["cli"], found["__main__"], told["cli"]
    wrong = {
        part: sorted(named)
        for part, imported in found.items()
        if (named := imported - everywhere - {part}) != set(re.findall(r"`([a-z_/]+)`", told[part]))
    }
    assert wrong == {}, "docs/architecture.md says otherwise"
    assert told.keys() == found.keys()
