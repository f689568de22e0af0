"""What all sections of a settings file have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationInfo, field_validator

__all__ = ["Section"]


class Section(BaseModel):
    """One mapping of the file: unknown keys are errors, and what was read cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: object, info: ValidationInfo) -> object:
        """An empty section or mapping has its defaults. A yes or no is no number, and every number is finite.

        Raises:
            ValueError: a number is not one.
        """
        annotation = cls.model_fields[info.field_name or ""].annotation
        section = isinstance(annotation, type) and issubclass(annotation, Section)
        if section or get_origin(annotation) is dict:
            value = {} if value is None else value
        if section:  # which looks at its own values
            return value
        kinds = set(_kinds(annotation))
        for leaf in _leaves(value):
            if isinstance(leaf, bool) and kinds & {int, float} and not kinds & {bool, JsonValue}:
                raise ValueError(
                    f"{str(leaf).lower()} is not a number; YAML takes on, off, yes and no for true and false"
                )
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError(f"{leaf} is not a finite number")
            if isinstance(leaf, str) and "\0" in leaf:
                raise ValueError("a text with a null character")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _leaves(value: object) -> Iterator[object]:
    """The values in lists and mappings of settings."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
