"""From the settings of a run to the data set that they name."""

from __future__ import annotations

from smartedge.config import Config
from smartedge.data import DataSet, open_dataset

__all__ = ["dataset_of"]


def dataset_of(config: Config) -> DataSet:
    """The data set as the run opens it. Subsets and splits stay the same whatever ``config.seed`` is.

    Raises:
        DataError: as :func:`smartedge.data.open_dataset`.
    """
    data = config.data
    return open_dataset(
        data.path,
        data.desired,
        sensitive=data.sensitive,
        image_size=data.image_size,
        limit=data.limit,
        cache_dir=data.cache_dir,
    )
