"""Writes what the documentation says about files and settings, from the models in the package.

``docs/*-schema.md``: the text is written by hand. Below a line ``<!-- table of NAME -->`` stands the table of the model
NAME: a row per key, with its type and the description of its field. The keys of a part are shown as ``part.key``,
unless the page has a table of that part (or of a model that it extends). A part of another file is not told again where
the field says what it is. ``docs/settings.md`` is written whole.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

import smartedge.artifacts
from smartedge.artifacts.base import Part
from smartedge.config import Config, Section
from smartedge.images.size import ImageSize

DOCS = Path(__file__).resolve().parent.parent / "docs"
SETTINGS = "settings.md"
TABLE = re.compile(r"^<!-- table of (\w+) -->\n+(\|.*\n)*", re.MULTILINE)
TYPES = {str: "string", int: "int", float: "float", bool: "bool", ImageSize: "int, string"}
HEAD = """\
# Settings

<!-- Generated from smartedge.config by scripts/schemas: do not edit this page. -->

Every key of a settings file, with its default. `smartedge init run.yaml` writes a file with all of them. A key that is
left out has its default. `--set KEY=VALUE` changes one for one command, for example `--set train.lr=0.01`.

A key with a point is written in YAML as two lines, the second one indented:

```yaml
train:
  lr: 0.01
```
"""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
KINDS = {"string": "text", "integer": "whole number", "boolean": "true, false", "object": "mapping", "path": "path"}
LARGE = 10**6  # a power of two from here on is written as one


def main(arguments: list[str], docs: Path = DOCS) -> int:
    """Write the pages, or name the stale ones. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a page is stale")
    check = parser.parse_args(arguments).check
    stale = []
    for path in [*sorted(docs.glob("*-schema.md")), docs / SETTINGS]:
        old = path.read_text(encoding="utf-8")
        new = settings_page() if path.name == SETTINGS else with_tables(old)
        if new != old:
            stale.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale and check:
        print(f"stale: {', '.join(stale)}; run scripts/schemas", file=sys.stderr)
    return int(bool(stale) and check)


def with_tables(page: str) -> str:
    """A page with the tables that belong to its marks."""
    tables = {model_of(match[1]) for match in TABLE.finditer(page)}
    return TABLE.sub(lambda match: f"<!-- table of {match[1]} -->\n\n{table(model_of(match[1]), tables)}", page)


def model_of(name: str) -> type[Part]:
    """The model of the artifacts with this name."""
    for found in pkgutil.iter_modules(smartedge.artifacts.__path__):
        module = importlib.import_module(f"smartedge.artifacts.{found.name}")
        model = vars(module).get(name)
        if inspect.isclass(model) and issubclass(model, Part):
            return model
    raise KeyError(name)


def table(model: type[Part], tables: set[type[Part]]) -> str:
    """The table of a model, on a page with the tables of these models."""
    rows = [f"| `{key}` | {type_} | {meaning} |\n" for key, type_, meaning in rows_of(model, "", tables)]
    return "".join(["| key | type | meaning |\n", "| --- | --- | --- |\n", *rows])


def rows_of(model: type[Part], before: str, tables: set[type[Part]]) -> Iterator[tuple[str, str, str]]:
    """Key, type and meaning of each field. The fields of a part follow the field that holds it."""
    modules = {each.__module__ for each in tables}
    for name, field in model.model_fields.items():
        key = before + (field.alias or name)
        inner, ending = part_in(field.annotation)
        told = inner is not None and (inner.__module__ in modules or not field.description)
        part = inner if inner is not None and told and not is_shown(inner, tables) else None
        if part is None or field.description:
            yield key, type_in_words(field.annotation), meaning_of(field)
        if part is not None:
            yield from rows_of(part, f"{key}{ending}.", tables)


def is_shown(part: type[Part], tables: set[type[Part]]) -> bool:
    """Whether the page has a table of a part, of a model that it extends, or of one that extends it."""
    return any(issubclass(part, each) or issubclass(each, part) for each in tables)


def meaning_of(field: FieldInfo) -> str:
    """What a field says of itself; of a version: its number."""
    version = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return cell(field.description or (str(version[0]) if len(version) == 1 else ""))


def part_in(annotation: Any) -> tuple[type[Part] | None, str]:
    """The part that a field holds, and the ending of the key where the field holds several parts."""
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    origin = get_origin(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, Part):
        return annotation, ""
    if origin in (Union, types.UnionType) and len(arguments) == 1:
        return part_in(arguments[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return part_in(arguments[0])[0], "[]"
    if origin is dict:
        return part_in(arguments[1])[0], ".NAME"
    return None, ""


def type_in_words(annotation: Any) -> str:
    """The type of a key, as the tables show it."""
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin in (Union, types.UnionType):
        named = [type_in_words(argument) for argument in arguments if argument is not type(None)]
        return ", ".join([*dict.fromkeys(named), *(["null"] if type(None) in arguments else [])])
    if origin is Literal:
        return TYPES[type(arguments[0])]
    if origin is tuple:
        inner = [type_in_words(argument) for argument in arguments if argument is not ...]
        return f"list of {inner[0]}" if arguments[-1] is ... else f"[{', '.join(inner)}]"
    if origin is dict or (inspect.isclass(annotation) and issubclass(annotation, Part)):
        return "object"
    return TYPES.get(annotation, "any")


def settings_page() -> str:
    """The page of all settings."""
    top = [name for name, field in Config.model_fields.items() if not is_section(field.annotation)]
    parts = [HEAD, "## The run", settings_table(Config(), "", only=top)]
    for name in Config.model_fields:
        if name not in top:
            section: Section = getattr(Config(), name)
            parts += [f"## `{name}`", (type(section).__doc__ or "").replace("``", "`")]
            parts.append(settings_table(section, f"{name}."))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def settings_table(section: Section, prefix: str, only: list[str] | None = None) -> str:
    """The table of a section, or of some of its settings."""
    rows = [f"| {' | '.join(map(cell, row))} |" for row in settings_rows(section, prefix, only)]
    return "\n".join(["| key | default | values | meaning |", "| --- | --- | --- | --- |", *rows])


def settings_rows(section: Section, prefix: str, only: list[str] | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Key, default, values and meaning of each setting. Those of a section within a section follow in its place."""
    schema = type(section).model_json_schema()
    defaults = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        if only is not None and name not in only:
            continue
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from settings_rows(value, f"{prefix}{name}.")
            continue
        shown = yaml.safe_dump(defaults[name], default_flow_style=True).split("\n")[0]
        yield f"`{prefix}{name}`", f"`{shown}`", values_in_words(schema["properties"][name]), field.description or ""


def values_in_words(schema: Mapping[str, Any]) -> str:
    """Which values a setting takes, from its part of the JSON schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(values_in_words, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {values_in_words(schema['items'])}"
    name = KINDS.get(schema.get("format", kind), str(kind))
    bounds = [f"{sign} {number(schema[key])}" for key, sign in BOUNDS.items() if key in schema]
    return " ".join([name, ", ".join(bounds)]).strip()


def number(value: float) -> str:
    """A bound, as the table shows it."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if value >= LARGE and value == 2**power else f"{value:g}"


def cell(text: str) -> str:
    """A text that does not end its cell."""
    return text.replace("|", "\\|")


def is_section(annotation: object) -> bool:
    """Whether a key of the settings is a section."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
