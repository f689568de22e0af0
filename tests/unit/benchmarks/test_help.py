"""Every program under benchmarks/ and scripts/ answers ``--help``, and does nothing else then."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = [
    file
    for folder in ("benchmarks", "scripts")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.is_file() and (file.suffix == ".py" or file.read_bytes().startswith(b"#!/usr/bin/env python"))
]

SHELL = [file for file in sorted((ROOT / "scripts").iterdir()) if file.read_bytes().startswith(b"#!/usr/bin/env bash")]


def _calls(tree: ast.AST) -> set[str]:
    """Names of the functions and methods that are called anywhere in a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    return found


def _answers(source: str) -> bool:
    """Whether a module is no program, or reads its arguments by a parser, which answers ``--help``."""
    tree = ast.parse(source)
    program = any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)
    return not program or (
        _calls(tree) >= {"ArgumentParser"} and bool(_calls(tree) & {"parse_args", "parse_known_args"})
    )


def test_there_are_programs() -> None:
    assert len(PROGRAMS) > 60 and {"edge_memory.py", "image_path"} <= {file.name for file in PROGRAMS}


@pytest.mark.parametrize("file", PROGRAMS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_program_answers_help(file: Path) -> None:
    assert _answers(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "file",
    [file for file in sorted((ROOT / "scripts").iterdir()) if "bash" in file.read_text()[:40]],
    ids=lambda f: f.name,
)
def test_a_shell_script_answers_help_or_hands_it_on(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    answers = next((place for place, line in enumerate(lines) if line.startswith('[ "${1:-}" != --help ] ||')), None)
    assert answers == lines.index("set -euo pipefail") + 1 or lines[-1].endswith('"$@"')


def test_a_program_without_a_parser_is_seen() -> None:
    assert not _answers("import sys\n\nif __name__ == '__main__':\n    print(sys.argv)\n")
    assert _answers("def helps() -> None:\n    pass\n")
