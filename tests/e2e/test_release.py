"""A wheel and a source archive are built from the repository, and what is installed from them trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TRAINED = """
import json, pathlib, smartedge
settings = {
    "run_dir": "run", "epochs": 1, "train": {"batch_size": 20}, "hardware": {"threads": 1},
    "data": {"image_size": 32, "limit": {"train": 40, "val": 20, "test": 20}},
}
pathlib.Path("run.json").write_text(json.dumps(settings))
print(smartedge.__file__)
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """The folder with both archives, built by ``python -m build`` from a copy of what git knows."""
    folder = tmp_path_factory.mktemp("release")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repo_root, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (repo_root / name).is_file() and not name.startswith(("docs/", "benchmarks/", "tests/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repo_root / name, folder / "source" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "source")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


def test_versions_agree(repo_root: Path) -> None:
    def found(pattern: str, file: str) -> str:
        match = re.search(pattern, (repo_root / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert match, file
        return match[1]

    version = found(r'^version = "(.+?)"', "pyproject.toml")
    assert found(r"^version: (.+)$", "CITATION.cff") == version
    released = found(r"^## \[(\d.+?)\] - \d{4}-\d\d-\d\d$", "CHANGELOG.md")
    assert released == version


@pytest.mark.slow
def test_the_source_archive_holds_what_a_builder_needs(archives: Path) -> None:
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "CITATION.cff"} <= names
    assert {"src/smartedge/py.typed", "src/smartedge/wire/link.proto", "examples/own_loop.py"} <= names


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_installed_trains_and_reports(archives: Path, tmp_path: Path, kind: str) -> None:
    """Into an environment of its own. The libraries are those of this environment: torch is large."""
    (archive,) = archives.glob(kind)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python, environment = tmp_path / "env" / "bin" / "python", {**os.environ, "PYTHONPATH": ""}
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(archive)], check=True, capture_output=True)
    libraries = Path(pytest.__file__).parents[1]
    (site / "libraries.pth").write_text(f"{libraries}\n")

    def run(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(site) in run("-c", TRAINED), "the package is not that of the archive"
    run("-m", "smartedge", "train", "run.json")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["smartedge_version"] == archive.name.removeprefix("smartedge-").split("-")[0].removesuffix(".tar.gz")
    assert (tmp_path / "run" / "report.html").exists(), "the report's templates are in the package"
