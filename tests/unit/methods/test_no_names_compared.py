"""Nobody compares the names of methods and schedules: their objects are asked. Their tables and the settings may."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from smartedge.methods.base import METHODS
from smartedge.methods.schedules import SCHEDULES

NAMES = {*METHODS, *SCHEDULES}
MAY = ("config/", "methods/base.py", "methods/schedules.py")


def named(node: ast.AST | None) -> bool:
    """Whether one of the names stands in a part of the source."""
    return node is not None and any(isinstance(each, ast.Constant) and each.value in NAMES for each in ast.walk(node))


def compared(source: str) -> list[int]:
    """The lines in which a name is compared, matched, or looked up in a table that is written there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        looked_up = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        if (
            (isinstance(node, ast.Compare) and named(node))
            or (isinstance(node, ast.MatchValue) and named(node))
            or (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict) and named(node.value))
            or (looked_up and isinstance(node.func.value, ast.Dict) and named(node.func.value))
        ):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "planted",
    [
        'method == "split"',
        '"local" != config.method',
        'schedule in ("joint", "two-stage")',
        '{"upload": 1, "split": 2}.get(method, 3)',
        '{"upload": 1}[method]',
        "match method:\n    case 'hierarchical':\n        pass",
    ],
)
def test_a_planted_comparison_is_found(planted: str) -> None:
    assert compared(planted)
    assert not compared(re.sub("joint|two-stage|upload|local|split|hierarchical", "train", planted))


@pytest.mark.source
def test_no_name_is_compared(repo_root: Path) -> None:
    folder = repo_root / "src" / "smartedge"
    found = {
        f"{path.relative_to(folder)}:{line}"
        for path in sorted(folder.rglob("*.py"))
        if not str(path.relative_to(folder)).startswith(MAY)
        for line in compared(path.read_text(encoding="utf-8"))
    }
    in_templates = {
        path.name
        for path in folder.rglob("*.j2")
        if re.search(rf"[=!]= *['\"]({'|'.join(NAMES)})['\"]", path.read_text(encoding="utf-8"))
    }
    assert found | in_templates == set()
