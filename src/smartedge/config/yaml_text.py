"""Reads settings as YAML. A process that gets its settings from elsewhere does not import PyYAML: it takes a MiB."""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["NotYaml", "read_yaml"]


class NotYaml(ValueError):
    """A text is not YAML; the message says where, and why, in one line."""


def read_yaml(text: str) -> Any:
    """What a text says.

    Raises:
        NotYaml: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise NotYaml(_problem(error)) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice: YAML would keep the last one and say nothing. Reads numbers as people mean them.

    In YAML 1.1 010 is 8, 1:30 is 90, 1e-3 is a text, and 2026-01-31 is a date. Here these are the text 010, the text
    1:30, a number and a text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - a class attribute of PyYAML's
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} occurs twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern in (
    ("int", r"[-+]?(0|[1-9][\d_]*|0x[\da-fA-F_]+)$"),
    (
        "float",
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list("-+.0123456789"))


def _problem(error: yaml.YAMLError) -> str:
    """Where a text is not YAML, and why, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error).partition("\n")[0]
    mark, problem = error.problem_mark, error.problem or "it cannot be read"
    if "'\\t'" in problem:
        problem = "a tab; indent with spaces"
    elif "could not determine a constructor for the tag" in problem:
        problem = "a tag (!...), which settings do not have"
    elif error.context:
        problem = f"{error.context}: {problem}"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
