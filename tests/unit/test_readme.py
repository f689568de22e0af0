"""Every `smartedge` command that a document shows can be parsed, and every file that it links to exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from smartedge.cli.app import parse
from smartedge.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.yaml")])
COMMAND = re.compile(r"^(?:#? *|.*`)(smartedge [a-z]+ [^`#\n]*)", re.MULTILINE)
CONTINUED = re.compile(r"\\\n *")  # a line that goes on in the next one
COMMANDS = [
    pytest.param(command.strip(), id=f"{path.name}: {command.strip()}")
    for path in DOCUMENTS
    for command in COMMAND.findall(CONTINUED.sub("", path.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_documents_parses(command: str) -> None:
    parse(shlex.split(command)[1:])


def test_commands_were_found_and_wrong_ones_would_be() -> None:
    assert len(COMMANDS) > 10
    with pytest.raises(ConfigError):
        parse(["init", "--no-such-option"])


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 900
