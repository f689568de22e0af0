"""All settings of a run: checked as a whole, with what follows from them and what identifies a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from smartedge.config.operation import (
    CloudConfig,
    FleetConfig,
    HardwareConfig,
    LinkConfig,
    SpoolConfig,
    StoreConfig,
)
from smartedge.config.problems import problems_of
from smartedge.config.section import Section
from smartedge.config.sections import (
    AdversaryConfig,
    CodecConfig,
    DataConfig,
    DpConfig,
    Epochs,
    ModelConfig,
    TrainConfig,
)
from smartedge.errors import ConfigError
from smartedge.files import open_regular
from smartedge.methods.base import METHODS, get_method
from smartedge.methods.schedules import SCHEDULES, get_schedule
from smartedge.models.blueprint import Blueprint, weights_named
from smartedge.models.weight_files import weight_files

__all__ = ["AUTO", "Config", "changes_in_words", "differences"]


AUTO = Path("auto")  # as run_dir: a new folder
_AGREED = {"method", "schedule", "epochs", "seed", "model", "train", "dp"}
_FILES = {"model": {"front", "start", "weights"}}  # their places differ between machines; their content must not
_RENAMED_METHODS = {"cloud": "upload", "edge": "local"}


def _method(value: str) -> str:
    """One of the methods. The former names of two methods are refused: they are the names of the sides."""
    if value in _RENAMED_METHODS:
        raise ValueError(f"'{value}' names a side; the method is now called '{_RENAMED_METHODS[value]}'")
    return _known(value, METHODS)


def _schedule(value: str) -> str:
    return _known(value, SCHEDULES)


def _known(value: str, table: Mapping[str, object]) -> str:
    if value not in table:
        *names, last = (f"'{name}'" for name in table)
        expected = f"{', '.join(names)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return value


class Config(Section):
    """All settings of one run."""

    method: Annotated[str, AfterValidator(_method)] = Field(
        "hierarchical",
        description="hierarchical: the edge learns from its own exit; upload: images are uploaded; "
        "split: gradients come back; local: everything on the edge",
    )
    schedule: Annotated[str, AfterValidator(_schedule)] = Field(
        "joint",
        description="joint: the front learns while its features are sent, every epoch; two-stage: the front first, "
        "then features every epoch; freeze-and-log: the front first, then each image once",
    )
    epochs: Epochs = Field(6, description="passes over the training images")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of initial parameters, order, augmentation and dropout")
    run_dir: Path = Field(
        AUTO,
        description="everything the run writes goes here; auto: a new folder in runs/ with the name of the settings "
        "file, to which runs/latest leads",
    )
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    train: TrainConfig = Field(default_factory=lambda: TrainConfig())
    adversary: AdversaryConfig = Field(default_factory=lambda: AdversaryConfig())
    dp: DpConfig = Field(default_factory=lambda: DpConfig())
    codec: CodecConfig = Field(default_factory=lambda: CodecConfig())
    link: LinkConfig = Field(default_factory=lambda: LinkConfig())
    fleet: FleetConfig = Field(default_factory=lambda: FleetConfig())
    spool: SpoolConfig = Field(default_factory=lambda: SpoolConfig())
    store: StoreConfig = Field(default_factory=lambda: StoreConfig())
    cloud: CloudConfig = Field(default_factory=lambda: CloudConfig())
    hardware: HardwareConfig = Field(default_factory=lambda: HardwareConfig())

    @model_validator(mode="after")
    def _combinations(self) -> Config:
        problems = get_method(self.method).problems(self) + get_schedule(self.schedule).problems(self)
        problems += problems_of(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def several_edges(self) -> bool:
        """Whether more than one edge may take part."""
        return self.fleet.expect != 1

    @property
    def bottleneck(self) -> tuple[int, ...] | Literal["auto"] | None:
        """``model.bottleneck``; ``auto`` is none with noise, with codewords, and where the front must learn nothing."""
        named = self.model.bottleneck
        other = self.dp.mechanism != "none" or self.model.codebook is not None or "front" in self.train.freeze
        return None if named == "auto" and other else named

    @property
    def suppresses(self) -> bool:
        """Whether the front is trained to hide the sensitive columns."""
        adversary = self.adversary
        return bool(adversary.exits) or adversary.dependence > 0 or adversary.mixture > 0

    @property
    def front_first(self) -> bool:
        """Whether the front is trained, and frozen, before anything is released."""
        return get_schedule(self.schedule).trains_front_first(self)

    @property
    def releases(self) -> int:
        """How often one training image is released in the whole run, at most."""
        return get_schedule(self.schedule).releases(self)

    @property
    def audit_share(self) -> float:
        """Share of the training images that is kept for the audit's attackers: ``data.audit_share``, or its default.

        The default depends on the columns alone, so that runs with and without protection learn from the same images.
        """
        if self.data.audit_share is not None:
            return self.data.audit_share
        return 0.1 if self.data.sensitive else 0.0

    @property
    def codec_name(self) -> str:
        """The codec of the run: ``codec.name``, or the default of the method."""
        return self.codec.full_name(get_method(self.method).usual_codec(self))

    @property
    def front_epochs(self) -> int:
        """Epochs in which the front learns."""
        return self.train.front_epochs or self.epochs

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return self.hardware.threads or max(1, (os.cpu_count() or 2) // 2)

    @property
    def automatic(self) -> tuple[str, ...]:
        """The settings that are ``auto``. They are measured before both sides start, which need the same values."""
        train = self.train
        return tuple(f"train.{key}" for key in ("precision", "channels_last") if getattr(train, key) == "auto")

    def without_auto(self) -> Config:
        """These settings, none of which may be ``auto``.

        Raises:
            ConfigError: some are.
        """
        if self.automatic:
            raise ConfigError(
                f"{', '.join(self.automatic)}: 'auto' is measured by 'smartedge train', which runs both sides; here "
                "they must agree on a value. 'smartedge init FILE --data PATH' measures this machine, and writes one"
            )
        return self

    def division(self, outputs: int) -> Blueprint:
        """What the network and its division are built from."""
        model = self.model
        return Blueprint(
            name=model.name,
            outputs=outputs,
            image_size=self.data.image_size,
            mean=self.data.mean,
            std=self.data.std,
            small_input=model.small_input,
            seed=self.seed,
            weights=model.weights,
            arguments=model.args,
            at=model.cut,
            bottleneck=self.bottleneck,
            codebook=model.codebook,
            exit_width=model.exit.width,
            exit_depth=model.exit.depth,
            freeze=self.train.freeze,
            adapter=model.adapter,
        )

    def agreement(self) -> dict[str, JsonValue]:
        """The settings on which edge and cloud must agree.

        The sensitive columns and the paths of the data are not among them: only the edge knows them.
        """
        whole = self.model_dump(mode="json", include=_AGREED, exclude=_FILES)
        data = self.data.model_dump(mode="json", include={"desired", "image_size", "fit", "augment"})
        data |= self.data.model_dump(mode="json", include={"mean", "std"}, exclude_none=True)
        return {**whole, "data": data, "codec": {"name": self.codec_name}} | self._files()

    def cloud_identity(self) -> dict[str, JsonValue]:
        """The settings that the cloud's results depend on: those of :meth:`agreement`, and how it trains."""
        own = self.model_dump(
            mode="json", include={"fleet": {"mix", "max_influence", "cuts", "logit_adjustment"}, "cloud": {"shards"}}
        )
        return {**self.agreement(), **own}

    def identity(self) -> dict[str, JsonValue]:
        """All settings that a run's results depend on. A change of one of them makes another run.

        The run's folder, the hardware, the link, the spool and the store are not among them, nor which edges are
        waited for and how long, nor how many workers there are.
        """
        places = dict.fromkeys(("run_dir", "hardware", "link", "spool", "store"), True)
        waiting = {
            "fleet": {"expect", "deadline", "patience", "farewell"},
            "data": {"cache_dir", "cache_bytes"},
            "cloud": {"workers"},
        }
        whole = self.model_dump(mode="json", exclude={**places, **waiting, **_FILES})
        if self.data.cache_bytes == 0:
            whole["data"]["streamed"] = True  # images of Parquet and Arrow files then come in another order
        return {**whole, "codec": {"name": self.codec_name}} | self._files()

    def file_of_front(self, name: Literal["front", "start"]) -> Path | None:
        """The file ``model.front`` or ``model.start``, with ``model.cut`` for ``{cut}``; None: none is given."""
        path = self.model.front if name == "front" else self.model.start
        return None if path is None else Path(str(path).replace("{cut}", self.model.cut))

    @property
    def begins_with_a_file(self) -> bool:
        """Whether weights of the network come from a file. What those learned from is not known here."""
        weights = weights_named(self.model.name, self.model.weights)
        return weights not in ("none", "timm") or bool(self.model.front or self.model.start)

    def check_files(self) -> None:
        """Look whether the files of the network are there, without reading them.

        Raises:
            ConfigError: one is not.
        """
        weights = weights_named(self.model.name, self.model.weights)
        named = {"model.weights": Path(weights) if "." in weights else None}
        named |= {"model.front": self.file_of_front("front"), "model.start": self.file_of_front("start")}
        for key, path in named.items():
            if path is not None and not path.is_file():
                folder = "" if path.is_absolute() else f" in {Path.cwd()}"
                wrong = "is a folder, pipe or device" if path.exists() else f"is not there{folder}"
                raise ConfigError(f"{key}: {path} {wrong}; copy the file to this machine, or correct the path")

    def _files(self) -> dict[str, JsonValue]:
        """SHA-256 of the files that the network is made from, and where its pretrained weights come from.

        Raises:
            ConfigError: a file cannot be read.
        """
        weights = weights_named(self.model.name, self.model.weights)
        found: dict[str, JsonValue] = {} if weights == "none" else {"weights": weights}
        if weights not in ("none", "timm"):
            digests = [
                _digest("model.weights", file, "copy the file to this machine") for file in weight_files(Path(weights))
            ]
            found["weights"] = (
                digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
            )
        names: tuple[Literal["front", "start"], ...] = ("front", "start")
        for name in names:
            if (path := self.file_of_front(name)) is not None:
                remedy = "copy edge/front.safetensors of the run that trained it to this machine"
                found[name] = _digest(f"model.{name}", path, remedy)
        return found

    def to_yaml(self) -> str:
        """The resolved settings as YAML; :func:`smartedge.config.load_config` reads them back to an equal object."""
        import yaml  # only here: an edge that answers single images writes no settings

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _digest(key: str, path: Path, remedy: str) -> str:
    try:
        with open_regular(path) as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
            return digest.hexdigest()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}); {remedy}") from error


def differences(one: JsonValue, other: JsonValue, key: str = "") -> dict[str, tuple[JsonValue, JsonValue]]:
    """The keys, such as ``train.lr``, in which two nested settings differ, with both values. None: no such key."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return {} if one == other else {key: (one, other)}
    found: dict[str, tuple[JsonValue, JsonValue]] = {}
    for name in sorted(one.keys() | other.keys()):
        found |= differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
    return found


def changes_in_words(before: JsonValue, now: JsonValue) -> str:
    """The keys in which settings have changed, with both values; empty where they have not."""
    changed = differences(before, now).items()
    return "; ".join(f"{key} was {json.dumps(old)}, now {json.dumps(new)}" for key, (old, new) in changed)
