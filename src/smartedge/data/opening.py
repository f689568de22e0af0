"""Opens a data set for a run: its labels, the images of each split, and these decoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from smartedge.data.dataset import DataSet
from smartedge.data.dividing import set_apart
from smartedge.data.labels import read_labels
from smartedge.data.raw import RawData
from smartedge.data.reading.images import ImageStore, default_cache_dir, open_images
from smartedge.data.reading.repeated import repeated
from smartedge.data.reading.shades import darkness
from smartedge.data.reading.streaming import open_streamed
from smartedge.data.selection import Selection
from smartedge.data.sources import open_raw
from smartedge.errors import DataError
from smartedge.images.decode import Fit
from smartedge.images.size import ImageSize
from smartedge.types import SplitName, Task

__all__ = ["check_columns", "open_dataset"]


def open_dataset(  # noqa: PLR0913 - public: one argument for each setting of a data set
    path: str,
    desired: str | Sequence[str],
    *,
    sensitive: Sequence[str] = (),
    image_size: int | ImageSize,
    fit: Fit = "crop",
    limit: Mapping[SplitName, int] | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    cache_bytes: int | None = None,
    audit_share: float = 0.0,
    by_class: bool = True,
) -> DataSet:
    """Open a data set.

    Where the data set lacks a validation or test split, a tenth of the training images is set apart for it, stratified
    by class; ``notes`` say so.

    Args:
        path: ``"drawn"`` (the embedded faces), ``"cifar10"`` (from the cache folder, or fetched), ``"hf:user/name"``,
            or where the data lies: a folder of Parquet, Arrow or tar files, of images, of CelebA, of CIFAR's batches;
            a ``.parquet``, ``.arrow``, ``.tar`` or MedMNIST ``.npz`` file. ``docs/data.md`` describes them.
        desired: the column to learn; a list of yes/no columns makes a multi-label task. Images may lack some of its
            labels, if nothing is sensitive: what is hidden is compared among images of equal desired labels.
        sensitive: columns to hide.
        image_size: height, width and channels of the images; a number is the side of a square of three channels.
        fit: what becomes of an image of another shape: its middle (``crop``), all of it squeezed (``squash``), or all
            of it with black bars (``letterbox``).
        limit: split → the number of images to use. They are a fixed subset with equally many images of every class,
            as far as there are enough; of a multi-label task, any images. More drawn faces than the default can be
            asked for.
        seed: decides the subset of ``limit`` and which images are set apart. Drawn faces do not depend on it.
        cache_dir: where decoded images are kept; default ``$XDG_CACHE_HOME/smartedge`` or ``~/.cache/smartedge``.
        cache_bytes: how much that folder may hold; what was not used for the longest time gives way. None: no limit.
            0: nothing decoded is kept; images are decoded each time they are read
            (:mod:`smartedge.data.reading.streaming`).
        audit_share: share of the training images that become ``DataSet.audit``, at most a half. Where there is a column
            ``identity``, it is the images of so many persons, so that nobody is in both parts.
        by_class: look at the labels when images are chosen for ``limit``, or set apart for validation and test. False:
            at random, so that it does not depend on any label which images are used, and for what.

    Raises:
        DataError: the data set is not there or in no known layout, a column is unknown or cannot be a label, or more
            than a twentieth of the images of a split cannot be used.
    """
    limit = dict(limit or {})
    for split, most in limit.items():
        if most < 1:
            raise DataError(f"limit: {most} {split} images are asked for; at least 1 is needed")
    cache_dir = cache_dir or default_cache_dir()
    image_size = ImageSize.of(image_size)
    data = open_raw(path, image_size, limit, cache_dir)
    labels = read_labels(data, desired, sensitive)
    chosen = Selection(data, labels, by_class=by_class, seed=seed)
    chosen.divide()
    chosen.set_apart_what_lacks()
    chosen.check_labels()
    chosen.limit(limit)
    decoding: Callable[..., ImageStore] = partial(
        open_images, image_size=image_size, fit=fit, cache_dir=cache_dir, cache_bytes=cache_bytes
    )
    if cache_bytes == 0:
        decoding = partial(open_streamed, image_size=image_size, fit=fit, cache_dir=cache_dir)
    splits = chosen.decode(decoding)
    others = {"val": splits["val"], "test": splits["test"]}
    notes = [*chosen.notes, *darkness(data.name, splits["train"]), *repeated(data.name, splits["train"], others)]
    splits["train"], audit = set_apart(data.name, splits["train"], audit_share, np.random.default_rng((seed, 1)), notes)
    if audit is not None:
        notes += repeated(data.name, splits["train"], {"audit": audit})
    return DataSet(
        data.name,
        labels.task,
        splits,
        {column.column: labels.task_of(column) for column in labels.hidden},
        dict(chosen.skipped),
        tuple(notes),
        audit,
    )


def check_columns(data: RawData, desired: str | Sequence[str], sensitive: Sequence[str]) -> Task:
    """Look for the columns of a data set, and return the task. Decodes nothing, and needs no torch: errors come early.

    Raises:
        DataError: as :func:`open_dataset`, but for what only the images show.
    """
    return read_labels(data, desired, sensitive).task
