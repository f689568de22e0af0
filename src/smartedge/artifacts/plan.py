"""Files of the planner. ``docs/plan-schema.md`` explains them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part
from smartedge.errors import ConfigError, SmartEdgeError
from smartedge.types import SplitName

__all__ = ["Choice", "Energy", "Job", "Link", "Machine", "PlanFile", "Prediction", "Radio"]


Radio = Literal["3g", "4g", "wifi"]

# Ethernet, IP and TCP headers of full segments: 1514 bytes on the wire carry 1448. Small next to them, and left out:
# acknowledgements.
_HEADERS = 1514 / 1448


class Choice(Part):
    """One choice of method, schedule, cut and codec."""

    method: str
    schedule: str
    cut: str | None = Field(description="null where the network is not divided")
    codec: str | None = Field(description="null where nothing is sent")


class Link(Part):
    """The connection between edge and cloud, as the edge sees it."""

    name: str
    up_mbits: float | None = Field(description="Mbit/s; null: as fast as this machine's loopback")
    down_mbits: float | None = Field(description="the same for the way back")
    latency_s: float = Field(description="seconds, one way")
    radio: Radio | None = Field(description="`3g`, `4g` or `wifi`: the power model that applies")

    def up_seconds(self, bytes_: float) -> float:
        """Seconds that the up-link needs for this number of bytes of TCP payload."""
        return 0.0 if self.up_mbits is None else bytes_ * _HEADERS * 8e-6 / self.up_mbits

    def down_seconds(self, bytes_: float) -> float:
        """Seconds that the down-link needs for this number of bytes of TCP payload."""
        return 0.0 if self.down_mbits is None else bytes_ * _HEADERS * 8e-6 / self.down_mbits

    def __str__(self) -> str:
        if self.up_mbits is None:
            return self.name
        return f"{self.name} ({self.up_mbits:g} Mbit/s up, {1000 * self.latency_s:g} ms)"


class Machine(Part):
    """The profile that is used for a side."""

    name: str
    kind: str = Field(description="`measured` or `scaled`")
    date: str


class Job(Part):
    """The amount of work."""

    images: dict[SplitName, int] = Field(description="split → number of images")
    batch_size: int
    epochs: int
    front_epochs: int = Field(description="epochs of a front that learns first")
    distill_epochs: int = Field(description="epochs of an undivided network on the edge, before the front")
    queue_frames: int = Field(description="as in the settings")
    max_lead_frames: int = Field(description="as in the settings")
    label_bytes: float = Field(description="per image on the wire")

    def frames(self, split: SplitName, *, learning: bool) -> list[int]:
        """Images in each frame of one pass. A pass that learns leaves out an incomplete last batch."""
        count, size = self.images[split], self.batch_size
        full = [size] * (count // size)
        if learning:
            return full or [count]
        return full + ([count % size] if count % size else [])


class Energy(Part):
    """Joules of a whole run at the edge, as modelled."""

    compute: float | None = Field(description="null where there is no model")
    radio: float | None = Field(description="null where there is no model")

    @property
    def total(self) -> float | None:
        """Both together; None where one of them is not known."""
        return None if self.compute is None or self.radio is None else self.compute + self.radio


class Prediction(Part):
    """The predicted costs of one choice."""

    choice: Choice
    seconds_per_epoch: float = Field(description="wall clock of the run ÷ its epochs")
    seconds_total: float = Field(description="wall clock")
    stage_seconds: dict[str, float] = Field(description="`edge`, `encode`, `link`, `cloud` → busy seconds per epoch")
    bottleneck: str = Field(description="the stage that is busy longest")
    bytes_up_per_image: float = Field(description="of training images, for each release")
    bytes_up_total: float
    bytes_down_total: float
    edge_peak_bytes: float = Field(description="largest resident set of the edge process")
    energy: Energy = Field(description="joules of the whole run at the edge; modelled")
    depth: float = Field(
        description="share of the network's cuts up to this one; 0: images leave the edge, 1: nothing does"
    )
    rmse: float | None = Field(description="of the codec, in the features' own units")
    rejected: tuple[str, ...] = Field((), description="the constraints that it breaks")


class PlanFile(Artifact):
    """The output of ``smartedge plan --json``."""

    error: ClassVar[type[SmartEdgeError]] = ConfigError
    missing: ClassVar[str] = "'smartedge plan --json' prints a plan"
    remedy: ClassVar[str] = "make the plan again"
    page: ClassVar[str] = "docs/plan-schema.md"

    schema_version: Literal[1] = 1
    predicted: Literal[True] = Field(default=True, description="nothing here was measured on a run")
    energy: str = Field(description="how energy was modelled")
    link: Link
    same_machine: bool = Field(description="edge and cloud are processes of one machine")
    edge: Machine = Field(description="the profile that is used for the edge")
    cloud: Machine = Field(description="the profile that is used for the cloud")
    job: Job = Field(description="the amount of work")
    recommended: Choice | None = Field(description="of all methods; null where no choice is allowed")
    chosen: Choice | None = Field(description="of the settings' own method")
    reasons: tuple[str, ...] = Field(description="in words")
    ranked: tuple[Prediction, ...] = Field(description="the costs of each choice, the best first")
