"""The source as files: how long they are, and whether the pages that describe them name what is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "smartedge"
FILES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))
FOLDERS = sorted(
    path.parent.relative_to(SOURCE)
    for path in SOURCE.glob("*/**/__init__.py")
    if path.parent.name != "cli"  # there each verb has a file of its name
)
PAGES = ("CONTRIBUTING.md", "docs/architecture.md")
IN_A_RUN = {"shared/"}  # a folder of a run directory, not of the source
NAMED = re.compile(r"`([^`\s]+)`")
CALL = re.compile(r"(?<![\w.])\.?([a-z_]\w*)\(([^()]*)\)")

pytestmark = pytest.mark.source


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of a file of ours."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def parameters() -> dict[str, list[set[str]]]:
    """Name of a function or class → the names of the parameters of each definition."""
    found: dict[str, list[set[str]]] = {}
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = node.args
                names = {each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
                found.setdefault(node.name, []).append(names)
            elif isinstance(node, ast.ClassDef):
                found.setdefault(node.name, [])
    return found


def blocks(page: str) -> str:
    """What the page shows in blocks of text, without comments."""
    text = "\n".join(re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    return re.sub(r"#.*", "", text)


def test_no_file_is_too_long_to_be_read_in_one_go() -> None:
    long = {
        str(path.relative_to(SOURCE)): lines for path in FILES if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}, "split it by job, see docs/decisions/0018-files-over-400-lines.md"


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_the_docstring_of_a_folder_names_all_that_is_in_it(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((SOURCE / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    there = {path.stem for path in (SOURCE / folder).glob("*.py")} - {"__init__"}
    there |= {f"{path.parent.name}/" for path in (SOURCE / folder).glob("*/__init__.py")}
    assert {name for name in there if f"``{name}``" not in said} == set()


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_that_a_page_names_are_there(page: str) -> None:
    names = {
        name for name in NAMED.findall((ROOT / page).read_text(encoding="utf-8")) if not re.search("NAME|VERB", name)
    }
    named = {name for name in names if name.endswith((".py", "/")) or name.startswith(("scripts/", "docs/"))} - IN_A_RUN
    assert len(named) > 15
    last = {path.name for path in FILES} | {f"{path.name}/" for path in SOURCE.rglob("*") if path.is_dir()}
    missing = {
        name
        for name in named
        if not ((ROOT / name).exists() or (SOURCE / name).exists() or name in last or any(ROOT.glob(name)))
    }
    assert missing == set()


def test_what_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    words = {path.stem for path in FILES} | {path.name for path in SOURCE.rglob("*")} | parameters().keys()
    names = {name.split(".")[-1] for name in NAMED.findall(text) if re.fullmatch(r"[A-Za-z_.]+", name)}
    endings = {"html", "json", "key", "py", "sqlite"}
    attributes = {"sensitive", "sensitive_labels"}
    assert len(names) > 60
    assert names - words - endings - attributes == set()


def test_the_interfaces_that_the_architecture_shows_are_those_of_the_source() -> None:
    calls = CALL.findall(blocks((ROOT / "docs/architecture.md").read_text(encoding="utf-8")))
    assert len(calls) > 30
    wrong = []
    for name, shown in calls:
        words = [part.split("=")[0].split(":")[0].strip() for part in shown.split(",")]
        asked = {word for word in words if word.isidentifier()}
        if name != "len" and not any(asked <= known for known in parameters().get(name, [])):
            wrong.append(f"{name}({shown})")
    assert wrong == []


def test_text_is_read_and_written_as_utf_8_whatever_the_locale_is() -> None:
    for path in FILES:
        for call in (node for node in nodes_of(path) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            given = {each.arg: each.value for each in call.keywords}
            modes = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            opens = name == "fdopen" or (isinstance(call.func, ast.Name) and name == "open")
            of_path = name == "write_text" or (name == "read_text" and not call.args)  # metadata's takes a name
            in_text = of_path or (opens and not any("b" in mode for mode in modes))
            where = f"{path.relative_to(SOURCE)}:{call.lineno}"
            assert not in_text or "encoding" in given, f"{where}: {name} without an encoding"
            text = given.get("text")
            asks_text = isinstance(text, ast.Constant) and text.value is True
            assert not asks_text or "encoding" in given, f"{where}: text=True without an encoding"
