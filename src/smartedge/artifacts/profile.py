"""A device profile: the times of the steps of one network on one machine, as JSON.

Seconds are wall clock per image at the profile's batch size; ``cpu_seconds`` is the time of all threads of the process
meanwhile. A profile belongs to a network: the settings that decide its times (``network``) must be those of the plan,
else the profile is refused.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from smartedge.artifacts.base import Artifact, Part
from smartedge.artifacts.results import MachineFacts
from smartedge.errors import ConfigError, SmartEdgeError
from smartedge.images.size import SizeField

__all__ = [
    "CheckpointCost",
    "CodecFigures",
    "CutFigures",
    "Profile",
    "ProfiledNetwork",
    "Timing",
    "Transport",
    "WholeFigures",
]


_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Size = Annotated[int, Field(ge=0)]
_Count = Annotated[int, Field(ge=1)]


class Timing(Part):
    """One kind of work, measured several times."""

    seconds: _NotNegative = Field(description="per image: median over the repeats")
    cpu_seconds: _NotNegative = Field(description="per image, all threads")
    spread: _NotNegative = Field(description="interquartile range ÷ median: how noisy it was")
    first_seconds: _NotNegative = Field(description="additional seconds of the first batch of a process, in all")


class CodecFigures(Part):
    """One codec on the tensors of one cut, or on images."""

    encode: Timing
    decode: Timing
    bytes_per_image: _Positive = Field(description="payload and side")
    rmse: _NotNegative = Field(description="root-mean-square error, in the features' own units")


class CutFigures(Part):
    """One cut: both parts of the network, and the tensor that crosses."""

    name: str
    index: _Count = Field(description="its place among all cuts of the network, from 1")
    shape: tuple[_Count, ...] = Field(
        min_length=1, description="F of the tensor that crosses (with a bottleneck: the bottleneck's shape)"
    )
    front_flops: _Size = Field(description="forward, per image")
    back_flops: _Size
    front_step: Timing = Field(description="edge: input, front, exits, backward, update")
    front_forward: Timing = Field(description="edge: input, front and exit, without learning")
    split_forward: Timing = Field(description="split learning, edge: first half of a step")
    split_backward: Timing = Field(description="split learning, edge: second half of a step")
    release: Timing = Field(description="edge: clip, ledger, noise")
    back_step: Timing = Field(description="cloud: one update")
    back_step_gradient: Timing = Field(description="the same, with the gradient at the cut (split learning)")
    back_forward: Timing
    build_seconds: _NotNegative = Field(description="making the network and dividing it")
    edge_peak_bytes: _Size = Field(description="largest resident set of a process that trains front and exit")
    front_state_bytes: _Size = Field(description="parameters and optimizer, as in a checkpoint of the edge")
    back_state_bytes: _Size
    codecs: dict[str, CodecFigures]


class WholeFigures(Part):
    """The undivided network."""

    step: Timing
    forward: Timing
    flops: _Size = Field(description="forward, per image")
    build_seconds: _NotNegative
    peak_bytes: _Size = Field(description="largest resident set of a process that trains it")
    baseline_bytes: _Size = Field(description="resident set with everything loaded, before a network is built")
    state_bytes: _Size
    release: Timing = Field(description="of images: the ledger alone")
    codecs: dict[str, CodecFigures] = Field(description="of images")


class Transport(Part):
    """Spool, link and log over loopback: both ends on this machine."""

    seconds_per_frame: _NotNegative
    seconds_per_byte: _NotNegative
    cpu_seconds_per_frame: _NotNegative = Field(description="of both ends together")
    cpu_seconds_per_byte: _NotNegative


class CheckpointCost(Part):
    """Writing a checkpoint to this machine's disk."""

    seconds: _NotNegative
    seconds_per_byte: _NotNegative

    def of(self, state_bytes: int) -> float:
        """Seconds for a checkpoint of so many bytes."""
        return self.seconds + state_bytes * self.seconds_per_byte


class ProfiledNetwork(Part):
    """The settings that decide the times of a step."""

    model: dict[str, JsonValue] = Field(description="settings `model`, without the cut")
    train: dict[str, JsonValue] = Field(description="batch size, optimizer, precision and memory layout")
    image_size: SizeField = Field(description="pixels: a square (`64`) or height and width (`720x1280`)")
    augment: str
    desired: str | tuple[str, ...] = Field(description="a column, or several")
    sensitive: tuple[str, ...] = Field(description="columns that adversarial exits unlearn")
    adversary: dict[str, JsonValue] = Field(
        description="exits, steps, and whether there are a dependence and a mixture penalty"
    )
    distill: bool = Field(description="whether an undivided network teaches")
    mechanism: str = Field(description="of releases")


class Profile(Artifact):
    """All that the planner needs to know about a machine: the times of the steps of one network."""

    error: ClassVar[type[SmartEdgeError]] = ConfigError
    missing: ClassVar[str] = "'smartedge profile' writes a profile"
    remedy: ClassVar[str] = "write a new one with 'smartedge profile'"
    page: ClassVar[str] = "docs/plan-schema.md"

    schema_version: Literal[1] = 1
    kind: Literal["measured", "scaled"]
    name: str = Field(description="for people")
    notes: tuple[str, ...] = Field(description="notes for a reader, such as how it was scaled")
    date: str
    machine: MachineFacts
    versions: dict[str, str]
    device: str = Field(description="cpu, cuda, mps")
    threads: _Count
    cores: _Count = Field(description="on which the measuring process could run")
    network: ProfiledNetwork = Field(description="settings that decide the times: a plan must have the same ones")
    features: str = Field(description="the images that were used to measure codecs")
    outputs: _Count
    all_cuts: tuple[str, ...] = Field(description="in the order of execution, whether measured or not")
    left_out: dict[str, str] = Field(description="cut or codec → why it was not measured")
    cuts: tuple[CutFigures, ...]
    whole: WholeFigures
    data: Timing = Field(description="reading and augmenting, in the thread that reads ahead")
    transport: Transport
    checkpoint: CheckpointCost
    slowdown: float = Field(
        ge=1, allow_inf_nan=False, description="of a training step while another process of this machine trains too"
    )
    compute_watts: _NotNegative | None = Field(
        default=None, description="of the machine while it computes; None: not known"
    )

    @model_validator(mode="after")
    def _each_cut_has_its_place(self) -> Self:
        places = {name: place for place, name in enumerate(self.all_cuts, 1)}
        if wrong := [cut.name for cut in self.cuts if places.get(cut.name) != cut.index]:
            raise ValueError(f"cuts: {', '.join(wrong)}: 'index' is not the place among all_cuts")
        if len({cut.name for cut in self.cuts}) < len(self.cuts):
            raise ValueError("cuts: one is given twice")
        return self

    def cut(self, name: str) -> CutFigures:
        """The figures of a cut.

        Raises:
            KeyError: it was not measured.
        """
        for figures in self.cuts:
            if figures.name == name:
                return figures
        raise KeyError(name)
