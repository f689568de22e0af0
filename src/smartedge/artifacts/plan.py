"""Files of the planner. ``docs/plan-schema.md`` explains them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part
from smartedge.errors import ConfigError, SmartEdgeError

__all__ = ["PlanFile", "PlannedChoice", "PlannedEnergy", "PlannedJob", "PlannedLink", "PlannedMachine", "PlannedRun"]


class PlannedChoice(Part):
    """One choice of method, schedule, cut and codec."""

    method: str
    schedule: str
    cut: str | None = Field(description="null where the network is not divided")
    codec: str | None = Field(description="null where nothing is sent")


class PlannedLink(Part):
    """The connection between edge and cloud."""

    name: str
    up_mbits: float | None = Field(description="Mbit/s; null: as fast as this machine's loopback")
    down_mbits: float | None = Field(description="the same for the way back")
    latency_s: float = Field(description="seconds, one way")
    radio: str | None = Field(description="`3g`, `4g` or `wifi`: the power model that applies")


class PlannedMachine(Part):
    """The profile that is used for a side."""

    name: str
    kind: str = Field(description="`measured` or `scaled`")
    date: str


class PlannedJob(Part):
    """The amount of work."""

    images: dict[str, int] = Field(description="split → number of images")
    batch_size: int
    epochs: int
    front_epochs: int = Field(description="epochs of a front that learns first")
    distill_epochs: int = Field(description="epochs of an undivided network on the edge, before the front")
    queue_frames: int = Field(description="as in the settings")
    max_lead_frames: int = Field(description="as in the settings")
    label_bytes: float = Field(description="per image on the wire")


class PlannedEnergy(Part):
    """Joules of a whole run at the edge, as modelled."""

    compute: float | None = Field(description="null where there is no model")
    radio: float | None = Field(description="null where there is no model")


class PlannedRun(Part):
    """The costs of one choice."""

    choice: PlannedChoice
    seconds_per_epoch: float = Field(description="wall clock of the run ÷ its epochs")
    seconds_total: float = Field(description="wall clock")
    stage_seconds: dict[str, float] = Field(description="`edge`, `encode`, `link`, `cloud` → busy seconds per epoch")
    bottleneck: str = Field(description="the stage that is busy longest")
    bytes_up_per_image: float = Field(description="of training images, for each release")
    bytes_up_total: float
    bytes_down_total: float
    edge_peak_bytes: float = Field(description="largest resident set of the edge process")
    energy: PlannedEnergy = Field(description="joules of the whole run at the edge; modelled")
    depth: float = Field(
        description="share of the network's cuts up to this one; 0: images leave the edge, 1: nothing does"
    )
    rmse: float | None = Field(description="of the codec, in the features' own units")
    rejected: tuple[str, ...] = Field(description="the constraints that it breaks")


class PlanFile(Artifact):
    """The output of ``smartedge plan --json``."""

    error: ClassVar[type[SmartEdgeError]] = ConfigError
    missing: ClassVar[str] = "'smartedge plan --json' prints a plan"
    remedy: ClassVar[str] = "make the plan again"
    page: ClassVar[str] = "docs/plan-schema.md"

    schema_version: Literal[1] = 1
    predicted: Literal[True] = Field(default=True, description="nothing here was measured on a run")
    energy: str = Field(description="how energy was modelled")
    link: PlannedLink
    same_machine: bool = Field(description="edge and cloud are processes of one machine")
    edge: PlannedMachine = Field(description="the profile that is used for the edge")
    cloud: PlannedMachine = Field(description="the profile that is used for the cloud")
    job: PlannedJob = Field(description="the amount of work")
    recommended: PlannedChoice | None = Field(description="of all methods; null where no choice is allowed")
    chosen: PlannedChoice | None = Field(description="of the settings' own method")
    reasons: tuple[str, ...] = Field(description="in words")
    ranked: tuple[PlannedRun, ...] = Field(description="the costs of each choice, the best first")
