"""Settings from a YAML file, a mapping and overrides; every problem is reported at once, by its key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from smartedge.config.sections import Section
from smartedge.config.settings import Config
from smartedge.errors import ConfigError, RunError
from smartedge.image_size import ImageSize
from smartedge.models.blueprint import weights_named

__all__ = ["Nested", "config_of_edge", "load_config", "load_run_config", "parse_overrides"]

# What other programs call our settings.
_ELSEWHERE = {
    "learning_rate": "train.lr",
    "bs": "train.batch_size",
    "batch": "train.batch_size",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "dataset": "data.path",
    "data_dir": "data.path",
    "label": "data.desired",
    "labels": "data.desired",
    "target": "data.desired",
    "arch": "model.name",
    "backbone": "model.name",
    "network": "model.name",
    "device": "hardware.edge_device",
    "num_workers": "hardware.threads",
    "output_dir": "run_dir",
    "out": "run_dir",
    "amp": "train.precision",
}

Nested = dict[str, object]  # settings as a mapping of keys to values and to further mappings


def parse_overrides(assignments: Sequence[str]) -> Nested:
    """``["train.lr=0.01", "data.limit.train=100"]`` → nested mapping; values are read as YAML.

    Raises:
        ConfigError: an assignment has no ``=`` or no key, or one key is given both a value and keys below it.
    """
    nested: Nested = {}
    for assignment in assignments:
        key, found, value = assignment.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"--set {assignment!r}: write it as key=value, for example --set train.lr=0.01")
        *parents, leaf = key.strip().split(".")
        place = nested
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"--set {assignment!r}: '{parent}' was given a value before; give it one or the other"
                )
            place = inner
        try:
            place[leaf] = _read_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment!r}: the value is not YAML ({error})") from error
    return nested


def load_config(
    source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Read and check the settings of a run.

    Args:
        source: a YAML file, a nested mapping, or a :class:`Config`.
        overrides: ``key=value`` strings as for ``--set``, or a nested mapping; they win over ``source``.

    Raises:
        ConfigError: naming every key that is wrong, why, and what to write instead.
    """
    where = "the settings"
    if isinstance(source, Config):
        raw: Any = source.model_dump(mode="json", exclude_unset=True)  # what was not said is filled in as for a file
    elif isinstance(source, Mapping):
        raw = source
    else:
        where = str(source)
        try:
            raw = _read_yaml(Path(source).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{source}: no such file; 'smartedge init {source}' writes one to start from") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: cannot be read ({error})") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{source}: is not YAML ({error})") from error
        raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: must be a mapping of keys to values, but is a {type(raw).__name__}")
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    merged = _merged(raw, changes)
    if joined := list(_without_space(merged)):
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in joined))
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _explain(problem)]
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from None
    return _at_trained_size(config)


def _at_trained_size(config: Config) -> Config:
    """Where a network is pretrained and no image size is given: the size of the images that it was trained with."""
    weights = weights_named(config.model.name, config.model.weights)
    if weights == "none" or "image_size" in config.data.model_fields_set:
        return config
    config.check_files()  # a wrong path is told before torch is imported
    from smartedge.models.zoo import usual_size  # imports torch, torchvision and timm

    size = usual_size(config.model.name, weights=weights)
    if size is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"image_size": ImageSize.of(size)})})


def config_of_edge(config: Config, said: Mapping[str, Any]) -> Config:
    """The settings of one edge of a run of several: this side's, with what may be an edge's own.

    These are ``model.cut`` where ``fleet.cuts`` is set, ``codec.name``, and a ``train.batch_size`` that is no larger.

    Args:
        config: this side's settings.
        said: the edge's settings, as it sent them (:meth:`Config.agreement`). Nothing in them is trusted.

    Raises:
        ConfigError: they cannot be an edge's own.
    """
    if not config.several_edges:
        return config
    own: Nested = {}
    for section, key in (("model", "cut"), ("codec", "name"), ("train", "batch_size")):
        part = said.get(section)
        if isinstance(part, Mapping) and key in part and (key != "cut" or config.fleet.cuts is not None):
            own[section] = {key: part[key]}
            if section == "codec":
                own[section] = {key: part[key], "bytes": None, "reference": None}  # an edge has them in the name
    found = load_config(config, own)
    if found.train.batch_size > config.train.batch_size:
        raise ConfigError(
            f"train.batch_size: {found.train.batch_size} images are more than the cloud's {config.train.batch_size}"
        )
    return found


def load_run_config(run_dir: Path) -> Config:
    """The settings that a run directory was made with.

    Raises:
        RunError: it is no run directory.
        ConfigError: its settings cannot be read.
    """
    file = run_dir / "config.yaml"
    if not file.exists():
        raise RunError(f"{run_dir}: holds no run; train one with 'smartedge train'")
    config = load_config(file)
    if "audit_share" in config.data.model_fields_set:
        return config
    # A run writes all its settings. This run is older than the key, so no image was set apart.
    return config.model_copy(update={"data": config.data.model_copy(update={"audit_share": 0.0})})


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that occurs twice. YAML would keep the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} occurs twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as a string; people mean the number.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Nested:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _without_space(settings: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """A line for each ``{train:256}``: YAML takes ``train:256`` for a key without a value."""
    for key, value in settings.items():
        name, colon, rest = str(key).partition(":")
        if value is None and colon and rest:
            yield f"{before}{name}: write a space after the colon: {{{name}: {rest}}}; YAML takes '{key}' for one word"
        elif isinstance(value, Mapping):
            yield from _without_space(value, f"{before}{key}.")


def _section_at(path: Sequence[Any]) -> type[Section] | None:
    section: Any = Config
    for part in path:
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, Section) else None
        section = field.annotation if field is not None else None
    return section if isinstance(section, type) and issubclass(section, Section) else None


def _all_keys(section: type[Section] = Config, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys.extend(_all_keys(field.annotation, f"{prefix}{name}."))
    return keys


def _explain(problem: Any) -> list[str]:
    """One pydantic error as ``key: what is wrong; what to do``."""
    loc = [part for part in problem["loc"] if not (isinstance(part, str) and ("[" in part or part == "str"))]
    key = ".".join(str(part) for part in loc)
    if problem["type"] == "value_error":
        told = str(problem["ctx"]["error"]).split("\n")
        return told if not loc else [f"{key}: {line}" for line in told]
    if problem["type"] == "extra_forbidden":
        section = _section_at(loc[:-1])
        known = list(section.model_fields) if section else []
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        if usual := _ELSEWHERE.get(str(loc[-1]).lower()):
            advice = f"did you mean '{usual}'?"
        elif near:
            advice = f"did you mean '{'.'.join(map(str, [*loc[:-1], near[0]]))}'?"
        elif elsewhere := [name for name in _all_keys() if name.split(".")[-1] == str(loc[-1])]:
            advice = f"did you mean '{elsewhere[0]}'?"
        else:
            advice = f"known keys here: {', '.join(known)}"
        return [f"{key}: unknown key; {advice}"]
    got = problem.get("input")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    hint = ""
    if problem["type"] == "literal_error" and isinstance(got, str):
        allowed = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        near = difflib.get_close_matches(got, allowed, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
    return [f"{key}: {message}, got {got!r}{hint}"]
