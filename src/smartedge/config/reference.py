"""Generates the page of the documentation that lists every setting, ``docs/settings.md``, from the models.

Call it as follows::

    python -m smartedge.config.reference docs/settings.md           # writes the page
    python -m smartedge.config.reference docs/settings.md --check   # fails where it is stale
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from smartedge.config.section import Section
from smartedge.config.settings import Config

__all__ = ["main", "page"]

_HEAD = """\
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
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_NAMES = {"string": "text", "integer": "whole number", "boolean": "true, false", "object": "mapping", "path": "path"}
_LARGE = 10**6  # a power of two from here on is written as one

Schema = Mapping[str, Any]  # a part of a JSON schema


def page() -> str:
    """The Markdown of the page."""
    top = [name for name, field in Config.model_fields.items() if not _is_section(field.annotation)]
    parts = [_HEAD, "## The run", _table(Config(), "", only=top)]
    for name in Config.model_fields:
        if name not in top:
            section: Section = getattr(Config(), name)
            parts += [f"## `{name}`", (type(section).__doc__ or "").replace("``", "`"), _table(section, f"{name}.")]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or say that it is stale. Returns the exit code."""
    path, text = Path(arguments[0]), page()
    if "--check" not in arguments:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        print(f"stale: {path}; run scripts/schemas", file=sys.stderr)
        return 1
    return 0


def _table(section: Section, prefix: str, only: list[str] | None = None) -> str:
    rows = [f"| {' | '.join(_cell(text) for text in row)} |" for row in _rows(section, prefix, only)]
    return "\n".join(["| key | default | values | meaning |", "| --- | --- | --- | --- |", *rows])


def _rows(section: Section, prefix: str, only: list[str] | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Key, default, values and meaning of each setting. Those of a section within a section follow in its place."""
    schema = type(section).model_json_schema()
    defaults = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        if only is not None and name not in only:
            continue
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _rows(value, f"{prefix}{name}.")
            continue
        shown = yaml.safe_dump(defaults[name], default_flow_style=True).split("\n")[0]
        yield f"`{prefix}{name}`", f"`{shown}`", _values(schema["properties"][name]), field.description or ""


def _values(schema: Schema) -> str:
    """Which values a setting takes, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_values(schema['items'])}"
    name = _NAMES.get(schema.get("format", kind), str(kind))
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([name, ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2^{power}" if value >= _LARGE and value == 2**power else f"{value:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
