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


def outside_code(text: str) -> str:
    """Markdown without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"^(```+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(path: Path) -> set[str]:
    """The names by which links reach the headings of a page, as GitHub and MyST make them."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(next(each for each in (name, *(f"{name}-{n}" for n in range(1, 1000))) if each not in found))
    return found


def broken_links(path: Path) -> list[str]:
    """Links and pictures of a page that lead nowhere. Of those to other machines only the form is looked at."""
    text = outside_code(path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", text) + re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    wrong = []
    for target in targets:
        if ":" in target:
            if not re.fullmatch(r"https://[\w.-]+\.\w+(?:/[^\s]*)?|mailto:\S+@\S+", target):
                wrong.append(target)
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name) if name else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# The `first`, then\n## Twice\n## Twice\n```\n# no heading\n```\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Own\n[a](there.md#the-first-then) [b](there.md#twice-1) [c](#own) [d](https://example.org/x)\n"
        '[f](gone.md) [g](there.md#no-heading) [h](#twice) [i](http:/example) <img src="gone.png"> `[j](code)`\n',
        "utf-8",
    )
    assert broken_links(page) == ["gone.md", "there.md#no-heading", "#twice", "http:/example", "gone.png"]


def test_the_readme_stays_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 900
