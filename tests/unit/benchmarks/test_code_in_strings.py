"""Code that a program keeps in a string, for a process of its own, names what exists: no type checker sees it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILES = [file for folder in ("benchmarks", "examples", "scripts", "tests") for file in (ROOT / folder).rglob("*.py")]
REASON = "# noqa: SLF001"  # a private name, with its reason behind


def code_in(source: str) -> Iterator[str]:
    """Every string of a module that is Python and imports something of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import" in node.value:
            try:
                tree = ast.parse(node.value)
            except SyntaxError:
                continue
            if any(ours(each) for each in ast.walk(tree)):
                yield node.value


def ours(node: ast.AST) -> bool:
    """Whether a node imports something of the package."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] == "smartedge"
    return isinstance(node, ast.Import) and any(each.name.partition(".")[0] == "smartedge" for each in node.names)


def for_older_versions(tree: ast.AST) -> set[ast.AST]:
    """What stands in a ``try`` or its ``except``."""
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    parts = [part for node in tries for part in (*node.body, *node.handlers)]
    return {each for part in parts for each in ast.walk(part)}


def missing_in(code: str) -> list[str]:
    """What the code imports of the package, and is not there; and names of others that are private."""
    tree = ast.parse(code)
    spared, found = for_older_versions(tree), []
    for node in ast.walk(tree):
        if ours(node) and node not in spared:
            assert isinstance(node, ast.Import | ast.ImportFrom)
            for each in node.names:
                name = each.name if isinstance(node, ast.Import) else f"{node.module}.{each.name}"
                if not exists(name):
                    found.append(name)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            line = code.splitlines()[node.lineno - 1]
            if not (isinstance(node.value, ast.Name) and node.value.id == "self") and REASON not in line:
                found.append(node.attr)
    return found


def exists(name: str) -> bool:
    """Whether a module, or a name of a module, is there."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute) if module else False
    return True


def test_what_is_imported_exists() -> None:
    """In one test: parsing all files takes two seconds, which a list of cases would cost every worker."""
    codes = {
        f"{file.relative_to(ROOT)} {number}": code
        for file in FILES
        for number, code in enumerate(code_in(file.read_text(encoding="utf-8")))
    }
    assert len(codes) > 12
    assert not {place: missing for place, code in codes.items() if (missing := missing_in(code))}


def test_wrong_ones_would_be_found() -> None:
    module = "CODE = 'import smartedge.gone; from smartedge.codec import pack, gone; pack._inner; self._own'"
    (code,) = code_in(module)
    assert missing_in(code) == ["smartedge.gone", "smartedge.codec.gone", "_inner"]
    assert not missing_in("try:\n    import smartedge.gone\nexcept ImportError:\n    from smartedge import older")
