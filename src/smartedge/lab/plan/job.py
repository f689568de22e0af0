"""The data of the planner: a job, a choice, a place, and the predicted costs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from smartedge.artifacts.profile import Profile
from smartedge.config import Config
from smartedge.errors import ConfigError
from smartedge.lab.plan.energy import Energy
from smartedge.lab.plan.links import Link
from smartedge.methods.base import Method, get_method
from smartedge.methods.schedules import Schedule, get_schedule
from smartedge.types import SplitName

__all__ = ["Choice", "Job", "Prediction", "Setting"]

_MOST_IMAGES = 10**8  # of a split: a plan holds each frame of a pass


@dataclass(frozen=True)
class Choice:
    """One combination of method, schedule, cut and codec."""

    method: str
    schedule: str
    cut: str | None  # None where the network is not divided
    codec: str | None  # None where nothing is sent

    @property
    def how(self) -> Method:
        """The method's facts."""
        return get_method(self.method)

    @property
    def when(self) -> Schedule:
        """The schedule's facts."""
        return get_schedule(self.schedule)


@dataclass(frozen=True)
class Job:
    """How much there is to do, from settings and data."""

    images: dict[SplitName, int]
    batch_size: int
    epochs: int
    front_epochs: int  # two-stage, freeze-and-log
    distill_epochs: int  # epochs of the teacher on the edge, before the front
    queue_frames: int
    max_lead_frames: int
    label_bytes: float  # per image on the wire

    @classmethod
    def of(cls, config: Config, images: dict[SplitName, int], outputs: int) -> Job:
        """The job that ``config`` describes, on so many images and outputs.

        Raises:
            ConfigError: more images than a plan can hold.
        """
        if many := [f"{count:,} of {split}" for split, count in images.items() if count > _MOST_IMAGES]:
            raise ConfigError(
                f"{', '.join(many)}: a plan takes three numbers of images, each at most {_MOST_IMAGES:,}; give them by "
                "--images or data.limit"
            )
        single = isinstance(config.data.desired, str)
        return cls(
            images=images,
            batch_size=config.train.batch_size,
            epochs=config.epochs,
            front_epochs=config.front_epochs,
            distill_epochs=config.train.distill.epochs,
            queue_frames=config.link.queue_frames,
            max_lead_frames=config.link.max_lead_frames,
            label_bytes=np.min_scalar_type(outputs - 1).itemsize if single else outputs / 8,
        )

    def frames(self, split: SplitName, *, learning: bool) -> list[int]:
        """Images in each frame of one pass. A pass that learns leaves out an incomplete last batch."""
        count, size = self.images[split], self.batch_size
        full = [size] * (count // size)
        if learning:
            return full or [count]
        return full + ([count % size] if count % size else [])


@dataclass(frozen=True)
class Setting:
    """The machines and the link of a run."""

    edge: Profile
    cloud: Profile
    link: Link
    same_machine: bool = False  # edge and cloud are processes of one machine


@dataclass(frozen=True)
class Prediction:
    """The predicted costs of one choice. Wall-clock seconds; of an epoch: run ÷ number of epochs."""

    choice: Choice
    seconds_per_epoch: float
    seconds_total: float
    stage_seconds: dict[str, float]  # busy, per epoch: edge, encode, link, cloud
    bottleneck: str  # the stage that is busy longest
    bytes_up_per_image: float  # training images, each time one is sent
    bytes_up_total: float
    bytes_down_total: float
    edge_peak_bytes: float
    energy: Energy  # modelled energy of the whole run at the edge
    depth: float  # share of the network's cuts up to this one; 0: images are sent, 1: nothing is sent
    rmse: float | None  # of the codec, in the features' own units
    rejected: tuple[str, ...] = field(default=())  # the constraints that it breaks
