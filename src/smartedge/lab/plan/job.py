"""The work of a run, from its settings, and the machines and the link that it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smartedge.artifacts.plan import Job, Link
from smartedge.artifacts.profile import Profile
from smartedge.config import Config
from smartedge.errors import ConfigError
from smartedge.types import SplitName

__all__ = ["Setting", "job_of"]

_MOST_IMAGES = 10**8  # of a split: a plan holds each frame of a pass


def job_of(config: Config, images: dict[SplitName, int], outputs: int) -> Job:
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
    return Job(
        images=images,
        batch_size=config.train.batch_size,
        epochs=config.epochs,
        front_epochs=config.front_epochs if config.model.front is None else 0,
        distill_epochs=config.train.distill.epochs,
        queue_frames=config.link.queue_frames,
        max_lead_frames=config.link.max_lead_frames,
        label_bytes=np.min_scalar_type(outputs - 1).itemsize if single else outputs / 8,
    )


@dataclass(frozen=True)
class Setting:
    """The machines and the link of a run."""

    edge: Profile
    cloud: Profile
    link: Link
    same_machine: bool = False  # edge and cloud are processes of one machine
