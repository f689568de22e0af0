"""The error tree: stable, distinct codes, each of which a page explains."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartedge import errors
from smartedge.errors import LinkError, SmartEdgeError, from_code

CLASSES = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


def test_the_module_exports_the_whole_tree() -> None:
    assert set(CLASSES) == {SmartEdgeError, *SmartEdgeError.__subclasses__()}


def test_codes_and_exit_codes_never_change() -> None:
    assert {cls.code: cls.exit_code for cls in CLASSES} == {
        "SE": 1,
        "SE-CONFIG": 2,
        "SE-DATA": 3,
        "SE-CUT": 4,
        "SE-CODEC": 5,
        "SE-FRAME": 6,
        "SE-LINK": 7,
        "SE-LOG": 8,
        "SE-PRIVACY": 9,
        "SE-RUN": 10,
        "SE-FLEET": 11,
        "SE-FRONT": 12,
    }
    assert len({cls.code for cls in CLASSES}) == len({cls.exit_code for cls in CLASSES}) == len(CLASSES)


def test_an_error_comes_back_from_its_code() -> None:
    for cls in CLASSES:
        error = from_code(cls.code, "what was wrong")
        assert type(error) is cls and str(error) == "what was wrong"
    assert from_code("SE-NEW", "text") is None and from_code(LinkError.code.lower(), "text") is None


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    table = [line.split() for line in str(errors.__doc__).splitlines() if "── " in line]
    assert [(row[1], row[2], int(row[3])) for row in table] == [
        (cls.__name__, cls.code, cls.exit_code) for cls in SmartEdgeError.__subclasses__()
    ]


@pytest.mark.parametrize("cls", SmartEdgeError.__subclasses__(), ids=lambda cls: cls.code)
def test_every_error_has_a_section_of_its_own(cls: type[SmartEdgeError], repo_root: Path) -> None:
    sections = (repo_root / "docs" / "errors.md").read_text(encoding="utf-8").split("\n## ")[1:]
    found = [section for section in sections if section.startswith(f"{cls.code} ")]
    assert len(found) == 1
    for part in (f"exit code {cls.exit_code}", f"`{cls.__name__}`", "**What it means.**", "**What to do.**"):
        assert part in found[0]
