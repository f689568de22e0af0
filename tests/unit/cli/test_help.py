"""The help of every verb fits into the terminal, and its commands can be copied from it."""

from __future__ import annotations

import re
import shlex

import pytest

from smartedge.cli import app
from smartedge.cli.help import Help

NAMES = [name for group in app.VERBS.values() for name in group]
ACTIONS = [f"fleet {action}" for action in ("init", "add", "revoke", "renew", "broker", "list")]
UNBREAKABLE = ("nats://broker.example:4222/frames", "granularity=element")  # longer than a row of 40


def shown(words: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        app.main([*words.split(), "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("words", ["", *NAMES, *ACTIONS])
def test_no_line_is_wider_than_the_terminal(words, columns, monkeypatch, capsys) -> None:
    for line in shown(words, columns, monkeypatch, capsys).splitlines():
        assert len(line) <= columns or (columns == 40 and any(word in line for word in UNBREAKABLE)), line


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_says_what_it_does(action, monkeypatch, capsys) -> None:
    _, description, *_ = shown(action, 80, monkeypatch, capsys).split("\n\n")
    assert description[0].isupper() and description.endswith(".")


def test_a_wide_terminal_gets_the_text_as_it_is_written(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "122")
    text = "One line.\nAnd another.\n\n  a  b\n"
    assert Help("x")._fill_text(text, 120, "") == text.rstrip()


def test_paragraphs_lists_and_commands_are_wrapped_each_in_its_own_way() -> None:
    text = (
        "A paragraph of two lines, which is\njoined and wrapped.\n\n"
        "  $ smartedge edge run.yaml --bundle door.bundle --resume   # on the device\n\n"
        "name    what it is, in some words\n        and some more\n"
    )
    assert Help("x")._fill_text(text, 30, "").splitlines() == [
        "A paragraph of two lines,",
        "which is joined and wrapped.",
        "",
        "  # on the device",
        "  $ smartedge edge run.yaml \\",
        "      --bundle door.bundle \\",
        "      --resume",
        "",
        "name    what it is, in some",
        "        words and some more",
    ]


@pytest.mark.parametrize("columns", [40, 60])
def test_a_wrapped_command_is_still_the_command(columns, monkeypatch, capsys) -> None:
    wrapped, written = (shown("", width, monkeypatch, capsys) for width in (columns, 122))

    def commands(text: str) -> list[list[str]]:
        lines = text.replace(" \\\n", " ").splitlines()
        return [shlex.split(line, comments=True) for line in lines if line.startswith("  smartedge ")]

    assert commands(wrapped) == commands(written)
    assert len(commands(written)) == 10


def examples(text: str) -> list[list[str]]:
    """The words of each command that a help shows, without the program's name."""
    found = re.findall(r"^  (?:\$ )?smartedge (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("words", ["", *NAMES])
def test_every_example_is_a_command_that_its_verb_takes(words, monkeypatch, capsys) -> None:
    """As the real parser reads it, with each option in full: argparse would take the beginning of a name, too."""
    commands = examples(shown(words, 122, monkeypatch, capsys))
    assert any(words in ("", command[0]) for command in commands)
    for command in commands:
        assert app.parse(command).run is not None
        verb = " ".join(command[: 2 if command[0] == "fleet" else 1])
        described = re.findall(r"^  (?:-h, )?(--[a-z-]+)", shown(verb, 122, monkeypatch, capsys), re.MULTILINE)
        assert [word for word in command if word.startswith("--") and word not in described] == []
