"""The batches in which an edge goes through its images."""

from __future__ import annotations

from smartedge.config import Config
from smartedge.data import DataSet, batches
from smartedge.data.reading.loader import Batches
from smartedge.errors import ConfigError
from smartedge.methods.base import get_method
from smartedge.types import SplitName

__all__ = ["Images"]


class Images:
    """The images of a run, in batches. Their order follows from seed and epoch.

    Args:
        config: the run's settings.
        dataset: the images.

    Raises:
        ConfigError: a split has too few images.
    """

    def __init__(self, config: Config, dataset: DataSet) -> None:
        self._config = config
        self._splits = dataset.splits
        least: dict[SplitName, int] = {"train": 2, "val": 1, "test": 1}
        for name, images in least.items():
            if name not in self._splits or len(self._splits[name]) < images:
                raise ConfigError(f"data.path: {config.data.path} has too few images in its split {name!r}")

    @property
    def steps(self) -> int:
        """Updates of an epoch."""
        return max(1, len(self._splits["train"]) // self._config.train.batch_size)

    def training(self, epoch: int) -> Batches:
        """The training images, shuffled and augmented. A last batch that is not full is left out."""
        data, size, seed = self._config.data, self._config.train.batch_size, self._config.seed
        split = self._splits["train"]
        # The cloud augments uploaded images, since it learns from them.
        augment = "none" if get_method(self._config.method).sends == "images" else data.augment
        return batches(split, size, seed=seed, epoch=epoch, shuffle=True, augment=augment, drop_last=len(split) >= size)

    def whole(self, split: SplitName) -> Batches:
        """Every image of a split, in the order of the data set, as it is."""
        config = self._config
        size, seed = config.train.batch_size, config.seed
        return batches(self._splits[split], size, seed=seed, epoch=0, shuffle=False, augment="none")
