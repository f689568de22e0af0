"""A device profile: what the steps of one network take on one machine. Written, checked and carried as JSON.

The fields of :class:`Profile` are the schema; ``schema_version`` grows when one changes its meaning. Seconds are wall
clock per image at the profile's batch size; ``cpu_seconds`` is what all threads of the process used meanwhile. A
profile belongs to a network: what decides its times (``network``) is compared with the settings that are planned, and a
profile of something else is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartedge.config import Config
from smartedge.errors import ConfigError
from smartedge.files import write_json_atomically

__all__ = [
    "SCHEMA_VERSION",
    "CodecFigures",
    "CutFigures",
    "Profile",
    "Timing",
    "WholeFigures",
    "load_profile",
    "network_of",
    "save_profile",
]

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Timing(_Part):
    """One kind of work, measured several times."""

    seconds: float = Field(ge=0)  # per image: median over the repeats
    cpu_seconds: float = Field(ge=0)  # per image, all threads
    spread: float = Field(ge=0)  # interquartile range ÷ median: how noisy it was
    first_seconds: float = Field(ge=0)  # what the first batch of a process takes longer than the others, in all


class CodecFigures(_Part):
    """One codec on the tensors of one cut, or on images."""

    encode: Timing
    decode: Timing
    bytes_per_image: float = Field(gt=0)  # payload and side
    rmse: float = Field(ge=0)  # root-mean-square error, in the features' own units


class CutFigures(_Part):
    """One cut: both halves of the network, and what crosses."""

    name: str
    index: int = Field(ge=1)  # its place among all cuts of the network, from 1
    shape: tuple[int, ...]  # F of what crosses (with a bottleneck: the bottleneck's)
    front_flops: int  # forward, per image
    back_flops: int
    front_step: Timing  # edge: input, front, exits, backward, update
    front_forward: Timing  # edge: input, front and exit, without learning
    split_forward: Timing  # split learning, edge: first half of a step
    split_backward: Timing  # and second half
    release: Timing  # edge: clip, ledger, noise
    back_step: Timing  # cloud: one update
    back_step_gradient: Timing  # the same, with the gradient at the cut (split learning)
    back_forward: Timing
    build_seconds: float  # making the network and dividing it
    edge_peak_bytes: int  # largest resident set of a process that trains front and exit
    front_state_bytes: int  # parameters and optimizer, as in a checkpoint of the edge
    back_state_bytes: int
    codecs: dict[str, CodecFigures]


class WholeFigures(_Part):
    """The undivided network."""

    step: Timing
    forward: Timing
    flops: int  # forward, per image
    build_seconds: float
    peak_bytes: int  # largest resident set of a process that trains it
    baseline_bytes: int  # resident set with everything loaded, before there is a network
    state_bytes: int
    release: Timing  # of images: the ledger alone
    codecs: dict[str, CodecFigures]  # of images


class Transport(_Part):
    """Link and log without a shaped link: both ends on this machine, by loopback."""

    seconds_per_frame: float = Field(ge=0)
    seconds_per_byte: float = Field(ge=0)
    cpu_seconds_per_frame: float = Field(ge=0)  # of both ends together
    cpu_seconds_per_byte: float = Field(ge=0)


class CheckpointCost(_Part):
    """Writing a checkpoint to this machine's disk."""

    seconds: float = Field(ge=0)
    seconds_per_byte: float = Field(ge=0)

    def of(self, state_bytes: int) -> float:
        """Seconds for a checkpoint of so many bytes."""
        return self.seconds + state_bytes * self.seconds_per_byte


class Profile(_Part):
    """Everything that the planner needs to know of a machine."""

    schema_version: Literal[1]
    kind: Literal["measured", "scaled"]
    name: str  # for people
    notes: tuple[str, ...]  # what a reader must know, such as how it was scaled
    date: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    device: str  # cpu, cuda, mps
    threads: int = Field(ge=1)
    cores: int = Field(ge=1)
    network: dict[str, Any]
    features: str  # what was sent through the network to measure codecs
    outputs: int
    all_cuts: tuple[str, ...]  # in the order of execution, whether measured or not
    left_out: dict[str, str]  # cut or codec → why it was not measured
    cuts: tuple[CutFigures, ...]
    whole: WholeFigures
    data: Timing  # reading and augmenting, in the thread that reads ahead
    transport: Transport
    checkpoint: CheckpointCost
    slowdown: float = Field(ge=1)  # of a training step while another process of this machine does the same
    compute_watts: float | None = None  # of the machine while it computes; None: not known

    def cut(self, name: str) -> CutFigures:
        """The figures of a cut.

        Raises:
            KeyError: it was not measured.
        """
        for figures in self.cuts:
            if figures.name == name:
                return figures
        raise KeyError(name)


def network_of(config: Config) -> dict[str, Any]:
    """What decides the times of a step, of all settings: a profile holds for equal ones."""
    dumped = config.model_dump(mode="json")
    train = {key: dumped["train"][key] for key in ("batch_size", "optimizer", "precision", "channels_last")}
    model = {key: value for key, value in dumped["model"].items() if key != "cut"}
    adversary = {key: dumped["adversary"][key] for key in ("exits", "steps")}
    hidden = bool(adversary["exits"] or dumped["adversary"]["dependence"])
    return {
        "model": model,
        "train": train,
        "image_size": dumped["data"]["image_size"],
        "augment": dumped["data"]["augment"],
        "desired": dumped["data"]["desired"],
        "sensitive": sorted(dumped["data"]["sensitive"]) if hidden else [],
        "adversary": adversary | {"dependence": bool(dumped["adversary"]["dependence"])},
        "distill": bool(dumped["train"]["distill"]["epochs"]),
        "mechanism": dumped["dp"]["mechanism"],
    }


def save_profile(profile: Profile, path: Path) -> None:
    """Write it as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, profile.model_dump(mode="json"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); give another path") from error


def load_profile(path: Path, config: Config) -> Profile:
    """Read a profile and check that it is one of the network that ``config`` trains.

    Raises:
        ConfigError: it cannot be read, is no profile, or belongs to another network.
    """
    try:
        profile = Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); 'smartedge profile' writes a profile") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: is no device profile of this version ({where}: {first['msg']}); "
            "write a new one with 'smartedge profile'"
        ) from error
    check_network(profile, config, path)
    return profile


def check_network(profile: Profile, config: Config, path: Path) -> None:
    """Raise :class:`ConfigError` where the profile is one of another network or of other steps."""
    mine = json.loads(json.dumps(network_of(config)))
    if wrong := [key for key in mine if profile.network.get(key) != mine[key]]:
        said = "; ".join(f"{key}: {profile.network.get(key)} there, {mine[key]} here" for key in wrong)
        raise ConfigError(f"{path}: was measured with other settings ({said}); measure again with 'smartedge profile'")
