"""The data set that the settings of a run name, or that is given in Python."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smartedge import errors
from smartedge.config import Config
from smartedge.launch.run_folder import has_begun
from smartedge.runs.progress import Monitor, Update

if TYPE_CHECKING:
    from smartedge.data import DataSet
    from smartedge.data.raw import RawData
    from smartedge.types import Task

__all__ = ["check_data", "dataset_of", "open_data", "raw_data_of", "task_of", "with_given_data"]


def raw_data_of(config: Config) -> RawData:
    """The data set that the settings name, as it lies on disk: nothing is decoded. Needs no torch.

    Raises:
        DataError: as :func:`smartedge.data.sources.open_raw`.
    """
    from smartedge.data.sources import open_raw

    data = config.data
    return open_raw(data.path, data.image_size, data.limit, data.cache_dir)


def check_data(config: Config) -> None:
    """Look for the data set and the columns that the settings name. Decodes nothing, and needs no torch.

    A data set that may have to be fetched is not looked for.

    Raises:
        DataError: as :func:`smartedge.data.opening.check_columns`.
    """
    from smartedge.data.sources import may_be_fetched

    if not may_be_fetched(config.data.path):
        task_of(config)


def task_of(config: Config) -> Task:
    """What the labels of the data set mean. Decodes nothing, and needs no torch.

    Raises:
        DataError: as :func:`smartedge.data.opening.check_columns`.
    """
    from smartedge.data.opening import check_columns

    return check_columns(raw_data_of(config), config.data.desired, config.data.sensitive)


def dataset_of(config: Config) -> DataSet:
    """The data set that the settings name. Subsets and splits do not depend on ``config.seed``.

    Raises:
        DataError: as :func:`smartedge.data.open_dataset`; or a column cannot be hidden in the images that are left, or
            in their order; or ``dp.label_epsilon`` cannot hide the labels.
    """
    from smartedge.data import open_dataset, shard
    from smartedge.data.hidden import check_hidden
    from smartedge.data.label_order import refuse_ordered_hidden, refuse_ordered_labels
    from smartedge.methods.base import get_method

    data = config.data
    whole = open_dataset(
        data.path,
        data.desired,
        sensitive=data.sensitive,
        image_size=data.image_size,
        fit=data.fit,
        limit=data.limit,
        cache_dir=data.cache_dir,
        cache_bytes=data.cache_bytes,
        audit_share=config.audit_share,
        by_class=config.dp.label_epsilon is None,  # ids cross: where labels are hidden, ids must not depend on them
    )
    if whole.task.blanks and config.dp.label_epsilon is not None:
        raise errors.DataError(
            f"{whole.name} lacks some of the labels, and dp.label_epsilon cannot hide which: fill them, name columns "
            "that are whole in data.desired, or leave dp.label_epsilon out"
        )
    dataset = whole if data.shard is None else shard(whole, *data.part)
    if config.dp.label_epsilon is not None:
        refuse_ordered_labels(dataset, ("train",) if config.dp.apply_to == "training" else dataset.splits)
    if get_method(config.method).has_cloud:
        refuse_ordered_hidden(dataset)
    return replace(dataset, notes=(*dataset.notes, *check_hidden(dataset)))


def open_data(config: Config, monitor: Monitor) -> DataSet:
    """The data set that the settings name. ``monitor`` gets its notes, and the number of images left out."""
    dataset = dataset_of(config)
    told = [*dataset.notes, *(f"left out {count} images: {reason}" for reason, count in dataset.skipped.items())]
    for text in told:
        monitor.update(Update("edge", "data", text=text))
    return dataset


def with_given_data(config: Config, data: object) -> Config:
    """The settings with a data set that is given in Python, which is kept in the run's directory."""
    from smartedge.data.layouts.in_python import keep_given

    named, folder = config.data.model_fields_set, config.run_dir / "data"
    if "path" in named and config.data.path != str(folder):
        raise errors.ConfigError("data.path: leave it out, since the data set itself is given (data=)")
    desired = config.data.desired if "desired" in named else "label"
    if not has_begun(config.run_dir):
        columns = (desired,) if isinstance(desired, str) else desired
        keep_given(data, folder, columns, config.data.image_size.channels)
    chosen = {"path": str(folder), "desired": desired}
    return config.model_copy(update={"data": config.data.model_copy(update=chosen)})
