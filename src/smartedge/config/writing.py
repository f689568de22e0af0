"""Writes settings as YAML for people: every key, its meaning, and the values that it takes."""

from __future__ import annotations

import textwrap
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import yaml

from smartedge.config.section import Section
from smartedge.config.settings import Config

__all__ = ["commented_yaml"]


def commented_yaml(config: Config) -> str:
    """The settings as YAML. A comment above every key gives its meaning and its values."""
    head = (
        "# Settings of a smartedge run. Keys that are left out have the value shown in a fresh file.\n"
        "# 'smartedge train FILE --set key=value' overrides one, for example --set train.lr=0.01\n\n"
    )
    return head + "\n".join(_lines(config)) + "\n"


def _lines(section: Section, indent: str = "") -> list[str]:
    lines: list[str] = []
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            about = (type(value).__doc__ or "").partition("\n")[0]
            lines += ["", f"{indent}# {about}", f"{indent}{name}:", *_lines(value, indent + "  ")]
            continue
        about = field.description or ""
        if choices := _choices(field.annotation):
            about = f"{about} ({' | '.join(choices)})" if about else " | ".join(choices)
        lines += [f"{indent}# {line}" for line in textwrap.wrap(about, 110 - len(indent), break_on_hyphens=False)]
        lines.append(f"{indent}{name}: {_flow(values[name])}")
    return lines


def _flow(value: object) -> str:
    """One value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).split("\n")[0]


def _choices(annotation: object) -> tuple[str, ...]:
    """The values of a ``Literal``, also where it is the key of a mapping."""
    parts = get_args(annotation)
    mixed = any(get_origin(part) is not Literal and part is not type(None) for part in parts)
    if get_origin(annotation) in (Union, UnionType) and mixed:  # such as numbers, or "auto": the description says so
        return ()
    options = [annotation, *parts]
    return next((get_args(option) for option in options if get_origin(option) is Literal), ())
