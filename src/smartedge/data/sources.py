"""Opens a data set by name or path: finds its layout, its labels, its splits, and decodes its images once."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smartedge.data.dataset import DataSet, Split
from smartedge.data.dividing import balanced, divide, set_apart, stratified
from smartedge.data.drawn.faces import DEFAULT_COUNTS, open_drawn
from smartedge.data.labels import Column, labels_of, read_column, read_task
from smartedge.data.layouts.celeba import is_celeba, open_celeba
from smartedge.data.layouts.cifar import download_cifar10, find_cifar, open_cifar
from smartedge.data.layouts.columnar import find_tables, open_tables
from smartedge.data.layouts.folder import open_folder
from smartedge.data.layouts.foreign import recognise
from smartedge.data.layouts.hub import open_hub
from smartedge.data.layouts.medmnist import open_medmnist
from smartedge.data.layouts.stored import ARROW, PARQUET
from smartedge.data.layouts.webdataset import TAR, find_webdataset, open_webdataset
from smartedge.data.raw import PERSON_COLUMN, Images, RawData, list_some
from smartedge.data.reading.images import ImageStore, default_cache_dir, open_images
from smartedge.data.reading.shades import darkness
from smartedge.data.reading.streaming import open_streamed
from smartedge.data.suspect import notes_on_labels
from smartedge.decode import Fit
from smartedge.errors import DataError
from smartedge.image_size import ImageSize
from smartedge.types import SplitName, Task

__all__ = ["check_columns", "may_be_fetched", "open_dataset", "open_raw"]

CIFAR = "cifar10"  # this path means CIFAR-10, which is fetched where it is not there
HUB = "hf:"  # a path that begins so names a data set of the Hugging Face hub
MOST_SKIPPED = 0.05  # share of a split's images that may be left out; more means a mistake in the data set
CARVED = 0.1  # share of the training images that is set apart for a split that the data set lacks
_FILES = (*sorted(PARQUET | ARROW | TAR), ".npz")  # endings of a data set in one file

Indices = NDArray[np.int64]


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
    task, columns, hidden = _labels(data, desired, sensitive)

    skipped: Counter[str] = Counter()
    rows = {
        split: _labelled(data.name, split, raw.images, task, [*columns, *hidden], skipped)
        for split, raw in data.splits.items()
    }

    def classes_of(source: SplitName, chosen: Indices) -> Indices:
        """What the subsets are balanced by: the class, or nothing (one class for all)."""
        balances = by_class and task.kind == "single"
        return columns[0].codes[source][chosen] if balances else np.zeros(len(chosen), np.int64)

    notes = list(data.notes)
    origin = {split: split for split in rows}
    divide(data, task, rows, origin, notes)
    for split in ("val", "test"):
        if split not in rows:
            size = max(round(CARVED * data.splits["train"].images.count), 1)
            take = stratified(classes_of("train", rows["train"]), size, np.random.default_rng((seed, len(rows))))
            rows[split], rows["train"], origin[split] = rows["train"][take], np.delete(rows["train"], take), "train"
            notes.append(f"{data.name} has no {split} split: {len(take)} of its training images were set apart for it")
    _check_classes(data, [*columns, *hidden], task, {split: (origin[split], rows[split]) for split in rows}, notes)
    trained = {column.column: column.codes[origin["train"]][rows["train"]] for column in [*columns, *hidden]}
    notes += notes_on_labels(data.name, task, {column.column: column.names for column in [*columns, *hidden]}, trained)
    for split, most in limit.items():
        if most > len(rows[split]):
            notes.append(f"{most} {split} images were asked for; {data.name} has {len(rows[split])}")
        rng = np.random.default_rng((seed, 0))
        rows[split] = rows[split][balanced(classes_of(origin[split], rows[split]), most, rng)]
    decoding: Callable[..., ImageStore] = partial(
        open_images, image_size=image_size, fit=fit, cache_dir=cache_dir, cache_bytes=cache_bytes
    )
    if cache_bytes == 0:
        decoding = partial(open_streamed, image_size=image_size, fit=fit, cache_dir=cache_dir)
    stores = _decode(data, rows, origin, skipped, decoding)

    splits: dict[SplitName, Split] = {}
    for split in ("train", "val", "test"):
        chosen, source = rows[split], origin[split]
        if not len(chosen):
            raise DataError(f"{data.name}: no image is left for the {split} split; the data set is too small")
        splits[split] = Split(
            stores[source],
            chosen,
            labels_of(task, columns, source, chosen),
            {c.column: labels_of(Task("single", (c.column,), c.names), [c], source, chosen) for c in hidden},
            _persons(data, source, chosen),
        )
    notes += darkness(data.name, splits["train"])
    splits["train"], audit = set_apart(data.name, splits["train"], audit_share, np.random.default_rng((seed, 1)), notes)
    return DataSet(
        data.name,
        task,
        splits,
        {column.column: Task("single", (column.column,), column.names) for column in hidden},
        dict(skipped),
        tuple(notes),
        audit,
    )


def check_columns(data: RawData, desired: str | Sequence[str], sensitive: Sequence[str]) -> None:
    """Look for the columns of a data set, and decode nothing. Needs no torch, so a wrong name is told at once.

    Raises:
        DataError: as :func:`open_dataset`, but for what only the images show.
    """
    _labels(data, desired, sensitive)


def may_be_fetched(path: str) -> bool:
    """Whether :func:`open_raw` may have to fetch this data set from elsewhere, which takes a while."""
    return path == CIFAR or path.startswith(HUB)


def open_raw(
    path: str, image_size: ImageSize, limit: Mapping[SplitName, int] | None = None, cache_dir: Path | None = None
) -> RawData:
    """Find the layout of a data set, without decoding images or choosing columns. Arguments as :func:`open_dataset`.

    Raises:
        DataError: the data set is not there, or in no known layout.
    """
    limit, cache_dir = limit or {}, cache_dir or default_cache_dir()
    if path == "drawn":
        return open_drawn(image_size, {s: max(count, limit.get(s, 0)) for s, count in DEFAULT_COUNTS.items()})
    if path == CIFAR:
        kept = cache_dir / CIFAR
        return open_cifar(find_cifar(kept) or download_cifar10(kept))
    if path.startswith(HUB):
        return open_hub(path.removeprefix(HUB), cache_dir)
    if "://" in path:
        raise DataError(f"{path} is an address, and no folder: fetch the data set, and give its path on this machine")
    try:
        place = Path(path).expanduser()
        if not place.exists():
            raise DataError(_absent(place))
        return _open_file(place, cache_dir, image_size.channels) if place.is_file() else _open_folder(place, cache_dir)
    except (OSError, RuntimeError, ValueError) as error:  # no right to read, no such user after ~, no name of a file
        raise DataError(f"the data set {path!r} cannot be read: {error}") from error


def _open_file(place: Path, cache_dir: Path, channels: int) -> RawData:
    ending = place.suffix.lower()
    if ending == ".npz":
        return open_medmnist(place, channels)
    if ending in PARQUET | ARROW:
        return open_tables(place.stem, place.parent, {"train": [place]})
    if ending in TAR:
        return open_webdataset(place.stem, {"train": [place]}, (), cache_dir)
    hint = recognise([place]) or f"it may end in {', '.join(_FILES)}"
    raise DataError(f"{place} is a file of an unknown kind for a data set; {hint}")


def _open_folder(place: Path, cache_dir: Path) -> RawData:
    if is_celeba(place):
        return open_celeba(place)
    if found := find_cifar(place):
        return open_cifar(found)
    name = place.resolve().name
    files, notes = find_tables(place)
    if files:
        return open_tables(name, place, files, notes)
    files, notes = find_webdataset(place)
    if files:
        return open_webdataset(name, files, notes, cache_dir)
    return open_folder(place)


def _labels(
    data: RawData, desired: str | Sequence[str], sensitive: Sequence[str]
) -> tuple[Task, list[Column], list[Column]]:
    """The task, its columns, and the columns to hide."""
    if "train" not in data.splits:
        raise DataError(f"{data.name} has no training split; it has: {', '.join(data.splits)}")
    if empty := [split for split, raw in data.splits.items() if not raw.images.count]:
        raise DataError(f"{data.name}: the {empty[0]} split holds no images")
    task, columns = read_task(data, desired, blanks=not sensitive)
    hidden = [read_column(data, name) for name in sensitive]
    if both := sorted(set(sensitive) & set(task.columns)):
        raise DataError(f"{', '.join(both)} cannot be desired and sensitive at once")
    return task, columns, hidden


def _absent(place: Path) -> str:
    known = {"drawn": "drawn", "cifar10": "cifar10"}
    for child in sorted(place.parent.iterdir()) if place.parent.is_dir() else ():
        known[child.name] = known[child.stem] = child.name
    near = {known[name]: None for name in difflib.get_close_matches(place.name, known, n=3)}
    hint = f"; did you mean {' or '.join(near)}?" if near else "; known by name are drawn, cifar10 and hf:user/name"
    return f"there is no data set at {place}{hint}"


def _labelled(
    name: str,
    split: SplitName,
    images: Images,
    task: Task,
    columns: Sequence[Column],
    skipped: Counter[str],
) -> Indices:
    """The rows of a split that have all labels, or one at least where labels may lack. ``skipped`` counts the others.

    Raises:
        DataError: too many have not.
    """
    reasons: dict[int, str] = {}
    if task.blanks:
        known = np.any([column.codes[split] >= 0 for column in columns], axis=0)
        if not known.any():
            raise DataError(f"{name}: no image of the {split} split has a label in any of the columns of data.desired")
        if not known.all():
            skipped["no label in any desired column"] += int((~known).sum())
        return np.flatnonzero(known)
    for column in columns:
        for row in np.flatnonzero(column.codes[split] < 0):
            reasons.setdefault(int(row), column.unusable)
    return _without(name, split, images, np.arange(images.count), reasons, skipped)


def _decode(
    data: RawData,
    rows: dict[SplitName, Indices],
    origin: Mapping[SplitName, SplitName],
    skipped: Counter[str],
    decoding: Callable[..., ImageStore],
) -> dict[SplitName, ImageStore]:
    """The images of ``rows``, decoded, by the split of ``data`` that has them. Rows that cannot be decoded are removed.

    ``decoding`` is :func:`open_images` with what is the same for all splits.

    Raises:
        DataError: too many cannot be decoded.
    """
    stores: dict[SplitName, ImageStore] = {}
    for source, raw in data.splits.items():
        splits = [split for split in rows if origin[split] == source]
        wanted = np.zeros(raw.images.count, bool)  # a mask needs no sorting of 10⁷ numbers
        for split in splits:
            wanted[rows[split]] = True
        needed = np.flatnonzero(wanted)
        part = needed if len(needed) < (1 - MOST_SKIPPED) * raw.images.count else None
        stores[source] = decoding(raw.images, name=f"{data.name}-{source}", rows=part)
        usable = _without(data.name, source, raw.images, needed, stores[source].bad, skipped)
        wanted[:] = False
        wanted[usable] = True
        for split in splits:
            rows[split] = rows[split][wanted[rows[split]]]
    return stores


def _without(
    name: str, split: SplitName, images: Images, rows: Indices, reasons: Mapping[int, str], skipped: Counter[str]
) -> Indices:
    """``rows`` without those for which there is a reason. These are counted in ``skipped``.

    Raises:
        DataError: they are too many.
    """
    found = {row: reasons[row] for row in rows.tolist() if row in reasons} if reasons else {}
    if len(found) > MOST_SKIPPED * len(rows) or (found and len(found) == len(rows)):
        first = "; ".join(f"{images.name_of(row)}: {found[row]}" for row in sorted(found)[:3])
        raise DataError(
            f"{name}: {len(found)} of the {len(rows)} images in the {split} split cannot be used ({first}). "
            f"Up to {MOST_SKIPPED:.0%} would be left out and counted; mend or remove these"
        )
    skipped.update(found.values())
    return rows[~np.isin(rows, list(found))] if found else rows


def _persons(data: RawData, source: SplitName, chosen: Indices) -> Indices:
    """A number for the person in each image. An image without a name is a person of its own."""
    if PERSON_COLUMN not in data.splits[source].columns:
        return np.arange(len(chosen))
    names = data.splits[source].read([PERSON_COLUMN]).column(PERSON_COLUMN).take(chosen).to_pylist()
    number: dict[object, int] = {}
    keys = [("nobody", place) if name is None else name for place, name in enumerate(names)]
    return np.array([number.setdefault(key, len(number)) for key in keys])


def _check_classes(
    data: RawData,
    columns: Sequence[Column],
    task: Task,
    places: Mapping[SplitName, tuple[SplitName, Indices]],
    notes: list[str],
) -> None:
    """Refuse a column that cannot be learned or hidden; note classes that a split lacks.

    ``places`` says of every split which rows of which split of ``data`` it has.

    Raises:
        DataError: the training images are all of one class, or lack a class of the desired column that others have.
    """
    constant: list[str] = []
    for column in columns:
        named = f"column {column.column!r} of {data.name}"
        found = {
            split: {column.names[code] for code in _occurring(column.codes[source][rows])}
            for split, (source, rows) in places.items()
        }
        desired = column.column in task.columns
        if len(found["train"]) < 2 and len(places["train"][1]):
            if task.kind == "single" or not desired:
                raise DataError(
                    f"{named}: all training images are of one class ({', '.join(found['train'])}), so there is nothing "
                    "to learn or to hide; choose another column, or mend the labels"
                )
            constant.append(column.column)
            continue
        for split, classes in found.items() if found["train"] else ():
            unseen, lacking = sorted(classes - found["train"]), sorted(found["train"] - classes)
            if unseen and desired:
                raise DataError(
                    f"{named}: some {split} images are of a class that no training image has: {list_some(unseen)}; "
                    "mend the labels, or remove these images"
                )
            if lacking and not unseen:
                notes.append(f"{named}: no {split} image is of class {list_some(lacking)}")
    if len(constant) == len(task.columns):
        raise DataError(f"{data.name}: each column of data.desired has one value alone on all training images")
    if constant:
        notes.append(f"nothing can be learned of {list_some(constant)}: all training images of {data.name} are alike")


def _occurring(codes: Indices) -> list[int]:
    found: list[int] = np.flatnonzero(np.bincount(codes[codes >= 0])).tolist()
    return found
