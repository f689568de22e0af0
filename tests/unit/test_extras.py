"""The command that installs an extra fits the way in which smartedge was installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from smartedge.extras import how_to_install

ROOT = Path(__file__).parents[2]


class Installed:
    """A distribution whose note about its source has this text; None: there is no note."""

    def __init__(self, note: str | None) -> None:
        self.note = note

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.note


@pytest.fixture
def own_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip`` on the PATH is that of this Python."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "bin" / name))


def command(monkeypatch: pytest.MonkeyPatch, note: object) -> str:
    text = None if note is None else json.dumps(note)
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(text))
    return how_to_install("zoo")


@pytest.mark.usefixtures("own_pip")
def test_the_command_names_where_smartedge_came_from(tmp_path, monkeypatch):
    clone = tmp_path / "my clone"
    clone.mkdir()
    wheel = tmp_path / "smartedge-1-py3-none-any.whl"
    wheel.touch()
    url = clone.as_uri()
    assert "%20" in url
    assert command(monkeypatch, {"url": url, "dir_info": {}}) == f"pip install '{clone}[zoo]'"
    editable = {"url": url, "dir_info": {"editable": True}}
    assert command(monkeypatch, editable) == f"pip install -e '{clone}[zoo]'"
    assert command(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}}) == f"pip install '{wheel}[zoo]'"
    address = {"url": "https://example.org/smartedge", "vcs_info": {"vcs": "git", "commit_id": "1"}}
    assert command(monkeypatch, address) == "pip install 'smartedge[zoo] @ git+https://example.org/smartedge'"
    assert command(monkeypatch, None) == "pip install 'smartedge[zoo]'"
    clone.rmdir()
    assert command(monkeypatch, editable) == "pip install 'smartedge[zoo]'"


def test_a_source_tree_that_is_not_installed_has_no_better_command(monkeypatch):
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert how_to_install("zoo").endswith("pip install 'smartedge[zoo]'")


@pytest.mark.usefixtures("own_pip")
def test_the_pip_of_another_environment_is_not_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/pip")
    monkeypatch.setattr(sys, "executable", "/opt/my venv/bin/python")
    assert command(monkeypatch, None) == "'/opt/my venv/bin/python' -m pip install 'smartedge[zoo]'"


def test_pip_takes_the_command_for_a_clone(tmp_path, monkeypatch):
    """pip reads requirement and extra as we mean them; it installs nothing here."""
    requirement = command(monkeypatch, {"url": ROOT.as_uri(), "dir_info": {}}).partition("install ")[2].strip("'")
    program = (
        "import sys; from pip._internal.req.constructors import parse_req_from_line as parse;"
        "parts = parse(sys.argv[1], None); print(parts.link.file_path, *parts.extras)"
    )
    done = subprocess.run([sys.executable, "-c", program, requirement], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(ROOT), "zoo"]


def test_no_message_or_page_has_a_command_of_its_own():
    """smartedge is on no index of packages: such a command fails for whoever works in a clone."""
    places = [*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*"), ROOT / "README.md"]
    named = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in places
        if file.is_file() and file.suffix in (".py", ".md", ".yaml") and file.name != "install.md"
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"pip install.*smartedge", line)
    ]
    assert named == []
