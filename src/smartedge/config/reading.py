"""Settings from a YAML file, a mapping and overrides; every problem is reported at once, by its key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from smartedge.config.section import Section
from smartedge.config.settings import Config
from smartedge.errors import ConfigError, RunError
from smartedge.files import disk_error, read_small
from smartedge.images.size import ImageSize
from smartedge.models.blueprint import weights_named

__all__ = [
    "Nested",
    "config_of_agreement",
    "config_of_edge",
    "load_config",
    "load_run_config",
    "parse_overrides",
    "setting_called",
]

_MEMBERS = {"bool", "int", "str", "constrained-int", "constrained-str"}  # pydantic's names of members of a union
_DIGESTS = ("front", "start", "weights")  # of files, in an agreement

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
    "lambda": "adversary.weight",
    "noise": "dp.sigma",
    "noise_multiplier": "dp.sigma",
    "eps": "dp.epsilon",
}

# What pydantic says in the words of Python.
_IN_WORDS = {
    "string_type": "must be a text",
    "path_type": "must be a text",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}

Nested = dict[str, object]  # settings as a mapping of keys to values and to further mappings


def parse_overrides(assignments: Sequence[str]) -> Nested:
    """``["train.lr=0.01", "data.limit.train=100"]`` → nested mapping; values are read as YAML.

    Raises:
        ConfigError: an assignment has no ``=`` or no key, or one key is given both a value and keys below it.
    """
    if not assignments:
        return {}
    from smartedge.config.yaml_text import NotYaml, read_yaml

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
            place[leaf] = read_yaml(value)
        except NotYaml as error:
            raise ConfigError(f"--set {assignment!r}: the value is not YAML: {error}") from error
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
        from smartedge.config.yaml_text import NotYaml, read_yaml

        where = str(source)
        try:
            with Path(source).open("rb") as file:  # it may be a pipe
                raw = read_yaml(read_small(file).decode())
        except FileNotFoundError as error:
            raise ConfigError(f"{source}: no such file; 'smartedge init {source}' writes one to start from") from error
        except IsADirectoryError as error:
            kept = Path(source) / "config.yaml"
            settings = f"'smartedge init run.yaml --data {source}' writes settings for images"
            found = f"the settings of this run are {kept}" if kept.exists() else settings
            raise ConfigError(f"{source}: is a folder; {found}") from error
        except OSError as error:
            raise ConfigError(f"{source}: {disk_error(error)}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{source}: is not a text file in UTF-8; save it as UTF-8") from error
        except NotYaml as error:
            raise ConfigError(f"{source}: is not YAML: {error}") from error
        if raw is None:
            raise ConfigError(
                f"{source}: holds no settings; 'smartedge init {source} --force' writes some to start from"
            )
    if not isinstance(raw, Mapping):
        kind = "text" if isinstance(raw, str) else f"a {type(raw).__name__}"
        raise ConfigError(f"{where}: must be a mapping of keys to values, such as 'epochs: 2', but is {kind}")
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    merged = _merged(raw, changes)
    if joined := list(_without_space(merged)):
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in joined))
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        lines = _lines_of(error.errors())
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from None
    return _at_trained_size(config)


def _at_trained_size(config: Config) -> Config:
    """Where a network is pretrained and no image size is given: the size of the images that it was trained with."""
    weights = weights_named(config.model.name, config.model.weights)
    if weights == "none" or "image_size" in config.data.model_fields_set:
        return config
    config.check_files()  # a wrong path is told before torch is imported
    from smartedge.models.zoo.networks import usual_size  # imports torch, torchvision and timm

    size = usual_size(config.model.name, weights=weights)
    if size is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"image_size": ImageSize.of(size)})})


def config_of_agreement(agreement: Mapping[str, JsonValue]) -> Config:
    """The settings in an agreement (:meth:`Config.agreement`). The digests of files in it are no settings.

    Where the network's name names no pretrained weights, there is no learning rate of theirs: a file is not named here.

    Raises:
        ConfigError: this program does not know the settings.
    """
    settings = {key: value for key, value in agreement.items() if key not in _DIGESTS}
    config = load_config(settings, {"train": {"lr_pretrained": None}})
    if weights_named(config.model.name, None) == "none":
        return config
    return load_config(settings)


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
        raise RunError(f"{run_dir}: holds no run; {_where_runs_are(run_dir)}")
    config = load_config(file)
    if "audit_share" in config.data.model_fields_set:
        return config
    # A run writes all its settings. This run is older than the key, so no image was set apart.
    return config.model_copy(update={"data": config.data.model_copy(update={"audit_share": 0.0})})


def _where_runs_are(place: Path) -> str:
    """What to give in place of something that is no run."""
    if place.is_file():
        return "it is a file: give the folder that a training wrote, such as runs/latest"
    found = sorted(file.parent.name for file in place.glob("*/config.yaml"))
    return f"give one of those in it: {', '.join(found[:8])}" if found else "train one with 'smartedge train'"


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


def _loc(problem: Any) -> tuple[Any, ...]:
    """The keys that lead to what is wrong, without what pydantic calls the members of a union."""
    return tuple(p for p in problem["loc"] if not (isinstance(p, str) and ("[" in p or p in _MEMBERS)))


def _lines_of(problems: Sequence[Any]) -> list[str]:
    """A line for each thing that is wrong, as ``key: what is wrong; what to do``."""
    texts = {_loc(each) for each in problems if each["type"] == "string_type"}
    inside = {_loc(each)[:-1] for each in problems}
    lines: list[str] = []
    values: dict[tuple[Any, ...], list[Any]] = {}  # a value that may be of several types has a problem with each
    for each in problems:
        loc, kind = _loc(each), each["type"]
        key = ".".join(map(str, loc))
        if kind == "value_error":
            parts = str(each["ctx"]["error"]).split("\n")
            lines += [f"{key}: {part}" for part in parts] if loc else parts
        elif kind == "extra_forbidden":
            lines.append(f"{key}: unknown key; {_instead_of(loc)}")
        elif not (kind == "tuple_type" and loc in texts) and not (kind == "string_type" and loc in inside):
            values.setdefault(loc, []).append(each)
    for loc, several in values.items():
        what = ", or ".join(_IN_WORDS.get(each["type"]) or _without_input(each["msg"]) for each in several)
        got = several[0].get("input")
        lines.append(f"{'.'.join(map(str, loc))}: {what}, got {got!r}{_hint(several[0], got)}")
    return lines


def _without_input(message: str) -> str:
    """``Input should be 'auto'`` → ``must be 'auto'``."""
    return re.sub("^Input should (be|have)", r"must \1", message)


def setting_called(name: str) -> str | None:
    """The setting of that name, whole or without its section, or that other programs call so."""
    keys = _all_keys()
    return _ELSEWHERE.get(name) or next((key for key in keys if name in (key, key.rpartition(".")[2])), None)


def _instead_of(loc: tuple[Any, ...]) -> str:
    """What to write instead of an unknown key."""
    import difflib  # for this message alone

    *parents, last = loc
    section = _section_at(parents)
    known = list(section.model_fields) if section else []
    if usual := _ELSEWHERE.get(str(last).lower()):
        return f"did you mean '{usual}'?"
    if near := difflib.get_close_matches(str(last), known, n=1):
        return f"did you mean '{'.'.join(map(str, [*parents, near[0]]))}'?"
    elsewhere = {name.rpartition(".")[2].replace("_", ""): name for name in reversed(_all_keys())}
    joined = str(last).lower().replace("_", "").replace("-", "")
    if near := difflib.get_close_matches(joined, elsewhere, n=1, cutoff=0.85):
        return f"did you mean '{elsewhere[near[0]]}'?"
    return f"known keys here: {', '.join(known)}"


def _hint(problem: Any, got: object) -> str:
    """What to write instead of a wrong value, where that can be guessed."""
    import difflib  # for this message alone

    if _loc(problem) == ("model", "bottleneck"):
        return "; write a shape, such as 8x4x4"
    if _loc(problem) == ("data", "limit"):
        return "; write {train: 100}"
    if problem["type"] == "model_type" and (section := _section_at(_loc(problem))):
        return f"; write one of its keys, such as {'.'.join(_loc(problem))}.{next(iter(section.model_fields))}"
    if problem["type"].endswith("_parsing") and isinstance(got, str) and got[:1].isdigit() and len(_loc(problem)) > 1:
        *parents, last = _loc(problem)
        section = _section_at(parents)
        meaning = (section.model_fields[last].description or "").partition(";")[0] if section else ""
        return f"; write the number alone, without a unit: {meaning}" if meaning else ""
    if problem["type"] == "tuple_type" and isinstance(got, str):
        return f"; write [{got}]"
    if problem["type"] == "string_type" and isinstance(got, (bool, int, float)):
        return "; in quotes it is a text"
    if problem["type"] == "literal_error" and isinstance(got, str):
        allowed = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        near = difflib.get_close_matches(got, allowed, n=1)
        return f"; did you mean '{near[0]}'?" if near else ""
    return ""
