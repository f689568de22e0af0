"""Every command that results, documents and programs name can still be given, and every file that they name exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from smartedge.cli.app import parse

ROOT = Path(__file__).parents[3]
HELPER = ROOT / "tests" / "helpers" / "parse_commands.py"
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
PROGRAMS = sorted(
    file
    for folder in ("benchmarks", "examples", "scripts")
    for file in (ROOT / folder).rglob("*")
    if file.is_file() and (file.suffix == ".py" or file.read_bytes().startswith(b"#!/usr/bin/env python"))
)
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.yaml")]
DOCUMENTS += [ROOT / "benchmarks" / "results.md.jinja"]
RENAMED = {"benchmarks/codecs.py": "benchmarks/codec_costs.py"}  # since a result was kept
COMMAND = re.compile(r"(python |`)((?:benchmarks|examples|scripts)/\w+(?:\.py)?(?![\w/:.-])[^`#\n;]*)")
CONTINUED = re.compile(r"\\\n *")  # a line that goes on in the next one
USAGE = re.compile(r"\[(.*?)\]|\.\.\.|…")  # what may be left out, and what may be repeated
PLACE = re.compile(r"`((?:benchmarks|examples|scripts|docs|tests|src|deploy)/[\w./{},*-]*)(?:::\w+)?`")


def commands_of(value: Any) -> Iterator[str]:
    """Every ``command`` in a kept result, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "command":
                yield inner
            else:
                yield from commands_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from commands_of(inner)


KEPT = {command for file in RESULTS for command in commands_of(json.loads(file.read_text(encoding="utf-8")))}
OF_THE_PACKAGE = {command for command in KEPT if command.startswith("smartedge ")}


def named_in(text: str) -> Iterator[str]:
    """Every command in a document or a docstring. A program without arguments, without ``python``, is only a name."""
    for start, command in COMMAND.findall(CONTINUED.sub("", text)):
        words = USAGE.sub(r"\1", command).split()
        shell = words[0].startswith("scripts/") and (ROOT / words[0]) not in PROGRAMS
        if (start == "python " or len(words) > 1) and not shell:
            yield " ".join(words)


def places_in(text: str) -> Iterator[str]:
    """Every path in backticks; each of ``{csv,json}``."""
    for place in PLACE.findall(text):
        several = re.search(r"\{(.*?)\}", place)
        for each in several[1].split(",") if several else [""]:
            yield re.sub(r"\{.*?\}", each, place)


NAMED = {each for file in [*DOCUMENTS, *PROGRAMS] for each in named_in(file.read_text(encoding="utf-8"))}


WRONG = """`benchmarks/store.py --rounds x` or `python benchmarks/gone.py`, `benchmarks/store.py` [--rounds 5]
    python benchmarks/accuracy.py --only lfw-gone  # no such comparison
"""


@pytest.fixture(scope="module")
def wrong() -> Callable[[Collection[str]], dict[str, str]]:
    """What is wrong with some of all commands. The programs import much, so all are asked at once."""
    commands = sorted({*KEPT, *NAMED, *named_in(WRONG)} - OF_THE_PACKAGE)
    words = [shlex.split(command.removeprefix("python ")) for command in commands]
    asked = [(str(ROOT / RENAMED.get(program, program)), arguments) for program, *arguments in words]
    done = subprocess.run(
        [sys.executable, str(HELPER)], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip(commands, json.loads(done.stdout), strict=True))
    return lambda some: {command: found[command] for command in some if found[command] is not None}


def test_commands_of_kept_results_parse(wrong: Callable[[Collection[str]], dict[str, str]]) -> None:
    for command in OF_THE_PACKAGE:
        parse(shlex.split(command)[1:])
    assert len(KEPT) > 200
    assert not wrong(KEPT - OF_THE_PACKAGE)


def test_commands_in_documents_and_docstrings_parse(wrong: Callable[[Collection[str]], dict[str, str]]) -> None:
    assert len(NAMED) > 100
    assert not wrong(NAMED)


def test_a_wrong_command_is_found(wrong: Callable[[Collection[str]], dict[str, str]]) -> None:
    assert {command: said.split(": ", 2)[-1][:32] for command, said in wrong(set(named_in(WRONG))).items()} == {
        "benchmarks/store.py --rounds x": "argument --rounds: invalid int v",
        "benchmarks/gone.py": "no such program",
        "benchmarks/accuracy.py --only lfw-gone": "argument --only: invalid choice:",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_paths_in_a_document_exist(document: Path) -> None:
    missing = [
        place for place in places_in(document.read_text(encoding="utf-8")) if not list(ROOT.glob(place.rstrip("/")))
    ]
    assert not missing
