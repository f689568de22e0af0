"""Generates the pages of the documentation that describe files, ``docs/*-schema.md``, from the models.

A page is the docstring of a module. A line ``[table of NAME]`` in it is replaced by the table of the model NAME: a row
per key, with its type and the description of its field. The keys of a part are shown as ``part.key``, unless the page
has a table of that part (or of a model that it extends), or the part's module has a page of its own.

    python -m smartedge.artifacts.schema docs           # writes the pages
    python -m smartedge.artifacts.schema docs --check   # fails where one is stale
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from smartedge.artifacts import (
    attacks,
    audit,
    certificate,
    checkpoint,
    fleet,
    fleet_run,
    front,
    metrics,
    plan,
    profile,
    progress,
    reconstruction,
    results,
    run,
    store_copy,
    summary,
    sweep,
)
from smartedge.artifacts.base import Part
from smartedge.images.size import ImageSize

__all__ = ["main", "page"]

PAGES = {
    "results-schema.md": results,
    "audit-schema.md": audit,
    "certificate-schema.md": certificate,
    "sweep-schema.md": sweep,
    "run-files-schema.md": run,
    "plan-schema.md": plan,
    "fleet-schema.md": fleet,
    "front-schema.md": front,
}
_PLACE = re.compile(r"^\[table of (\w+)\]$", re.MULTILINE)
_NAMES = {str: "string", int: "int", float: "float", bool: "bool", ImageSize: "int, string"}


def page(module: types.ModuleType) -> str:
    """The Markdown of one page."""
    text = inspect.cleandoc(module.__doc__ or "")
    heading, _, rest = text.partition("\n")
    tables = {_model(name) for name in _PLACE.findall(rest)}
    note = f"<!-- Generated from {module.__name__} by scripts/schemas: do not edit this page. -->"
    body = _PLACE.sub(lambda match: _table(_model(match[1]), tables), rest.strip())
    return f"# {heading.rstrip('.')}\n\n{note}\n\n{body}\n"


def main(arguments: list[str]) -> int:
    """Write the pages into a folder, or name the stale ones. Returns the exit code."""
    folder, check = Path(arguments[0]), "--check" in arguments
    stale = []
    for name, module in PAGES.items():
        path, text = folder / name, page(module)
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"stale: {', '.join(stale)}; run scripts/schemas", file=sys.stderr)
    return 1 if stale else 0


def _model(name: str) -> type[Part]:
    for module in (
        results,
        metrics,
        summary,
        run,
        checkpoint,
        audit,
        attacks,
        reconstruction,
        certificate,
        sweep,
        profile,
        plan,
        fleet,
        fleet_run,
        front,
        progress,
        store_copy,
    ):
        if found := vars(module).get(name):
            model: type[Part] = found
            return model
    raise KeyError(name)


def _table(model: type[Part], tables: set[type[Part]]) -> str:
    rows = [f"| `{key}` | {type_} | {meaning} |" for key, type_, meaning in _rows(model, "", tables)]
    return "\n".join(["| key | type | meaning |", "| --- | --- | --- |", *rows])


def _rows(model: type[Part], before: str, tables: set[type[Part]]) -> Iterator[tuple[str, str, str]]:
    """Key, type and meaning of each field. The fields of a part follow the field that holds it.

    A part of another file is not told again where the field says what it is.
    """
    modules = {table.__module__ for table in tables}
    for name, field in model.model_fields.items():
        key = before + (field.alias or name)
        inner, ending = _part(field.annotation)
        told = inner is not None and (inner.__module__ in modules or not field.description)
        part = inner if inner is not None and told and not _shown(inner, tables) else None
        if part is None or field.description:
            yield key, _type(field.annotation), _meaning(field)
        if part is not None:
            yield from _rows(part, f"{key}{ending}.", tables)


def _shown(part: type[Part], tables: set[type[Part]]) -> bool:
    return any(issubclass(part, table) or issubclass(table, part) for table in tables)


def _meaning(field: FieldInfo) -> str:
    version = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    said = field.description or (str(version[0]) if len(version) == 1 else "")
    return said.replace("|", "\\|")


def _part(annotation: Any) -> tuple[type[Part] | None, str]:
    """The part that a field holds, and the ending of the key where the field holds several parts."""
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    origin = get_origin(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, Part):
        return annotation, ""
    if origin in (Union, types.UnionType) and len(arguments) == 1:
        return _part(arguments[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _part(arguments[0])[0], "[]"
    if origin is dict:
        return _part(arguments[1])[0], ".NAME"
    return None, ""


def _type(annotation: Any) -> str:
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin in (Union, types.UnionType):
        named = [_type(argument) for argument in arguments if argument is not type(None)]
        return ", ".join([*dict.fromkeys(named), *(["null"] if type(None) in arguments else [])])
    if origin is Literal:
        return _NAMES[type(arguments[0])]
    if origin is tuple:
        return f"list of {_type(arguments[0])}" if arguments[-1] is ... else f"[{', '.join(map(_type, arguments))}]"
    if origin is dict or (inspect.isclass(annotation) and issubclass(annotation, Part)):
        return "object"
    return _NAMES.get(annotation, "any")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
