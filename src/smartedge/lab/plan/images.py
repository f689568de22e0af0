"""The images for measuring a profile: from the data set of the settings, or random pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from smartedge.artifacts.profile import Timing
from smartedge.config import Config
from smartedge.data import DataSet
from smartedge.errors import DataError
from smartedge.images.augment import augment
from smartedge.lab.plan.timing import timed
from smartedge.launch.datasets import dataset_of
from smartedge.types import ImageBatch, Task

__all__ = ["SampleImages", "sample_images"]

_BATCHES = 4  # number of different batches, used in turn


@dataclass(frozen=True)
class SampleImages:
    """The images that are sent through the network to measure its time."""

    batches: tuple[ImageBatch, ...]  # full batches
    task: Task
    dataset: DataSet | None  # None for random pixels
    data: Timing  # reading and augmenting
    what: str  # a description for the reader

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each split; empty for random pixels."""
        return {str(name): len(split) for name, split in self.dataset.splits.items()} if self.dataset else {}


def sample_images(config: Config) -> SampleImages:
    """A few batches of the data set that the settings name; random pixels where it is not on this machine.

    Raises:
        DataError: the data set is not on this machine, but its labels are needed, since the settings hide a column.
    """
    data, size = config.data, config.train.batch_size
    try:
        dataset = dataset_of(config)
    except DataError:
        if data.sensitive:
            raise
        return _random_images(config)
    split = dataset.splits["train"]
    places = split.shuffled(np.random.default_rng(config.seed))
    size = min(size, len(split))
    found: dict[int, ImageBatch] = {}

    def read(number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        batch = split.read(np.roll(places, number * size)[:size])
        images_BCHW = augment(batch.images_BCHW, generator=generator, kind=data.augment)
        found[number % _BATCHES] = replace(batch, images_BCHW=images_BCHW)

    reading = timed(read, images=size, repeats=2 * _BATCHES)
    return SampleImages(tuple(found.values()), dataset.task, dataset, reading, f"images of {dataset.name}")


def _random_images(config: Config) -> SampleImages:
    desired, size = config.data.desired, config.train.batch_size
    generator = torch.Generator().manual_seed(0)
    if isinstance(desired, str):
        task = Task("single", (desired,), ("no", "yes"))
        labels = torch.randint(0, 2, (size,), generator=generator)
    else:
        task = Task("multi", tuple(desired), tuple(desired))
        labels = torch.randint(0, 2, (size, len(desired)), generator=generator).float()
    pixels_BCHW = torch.randint(0, 256, (size, *config.data.image_size.shape), generator=generator, dtype=torch.uint8)
    batch = ImageBatch(np.arange(size), pixels_BCHW, labels)
    nothing = Timing(seconds=0.0, cpu_seconds=0.0, spread=0.0, first_seconds=0.0)
    return SampleImages((batch,), task, None, nothing, f"random pixels: {config.data.path} is not on this machine")
