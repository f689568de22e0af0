"""Chooses which images of a data set each split has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from smartedge.data.dataset import Split
from smartedge.data.dividing import balanced, divide, stratified
from smartedge.data.labels import Column, Labels, labels_of, person_names
from smartedge.data.raw import PERSON_COLUMN, Images, RawData
from smartedge.data.reading.images import ImageStore
from smartedge.data.suspect import notes_on_labels
from smartedge.errors import DataError, list_some
from smartedge.types import SPLITS, Ints, SplitName, Task

__all__ = ["MOST_SKIPPED", "Selection"]

MOST_SKIPPED = 0.05  # share of a split's images that may be left out; more means a mistake in the data set
CARVED = 0.1  # share of the training images that is set apart for a split that the data set lacks


class Selection:
    """Which images each split has. The methods choose, one step after the other, as :func:`open_dataset` calls them.

    Attributes:
        rows: split → rows of the raw split that has its images, ascending.
        origin: split → that raw split.
        skipped: reason → how many images were left out for it.
        notes: what else the user should know.

    Args:
        data: all images. Those without a label that can be used are left out.
        labels: the labels that the run uses.
        by_class: look at the labels when images are chosen.
        seed: of what is chosen at random.

    Raises:
        DataError: too many images have no label that can be used.
    """

    def __init__(self, data: RawData, labels: Labels, *, by_class: bool, seed: int) -> None:
        self._data, self._labels, self._seed = data, labels, seed
        self.skipped: Counter[str] = Counter()
        self.notes = list(data.notes)
        self.rows = {split: self._labelled(split, raw.images) for split, raw in data.splits.items()}
        self.origin = {split: split for split in self.rows}
        self._balances = by_class and labels.task.kind == "single"

    def divide(self) -> None:
        """Divide a data set that lies in one piece by its column of splits, where it has one."""
        divide(self._data, self._labels.task, self.rows, self.origin, self.notes)

    def set_apart_what_lacks(self) -> None:
        """Set training images apart for a validation or test split that the data set lacks."""
        name, rows = self._data.name, self.rows
        for split in ("val", "test"):
            if split not in rows:
                size = max(round(CARVED * self._data.splits["train"].images.count), 1)
                random = np.random.default_rng((self._seed, len(rows)))
                take = stratified(self._classes("train"), size, random)
                rows[split], rows["train"] = rows["train"][take], np.delete(rows["train"], take)
                self.origin[split] = "train"
                self.notes.append(
                    f"{name} has no {split} split: {len(take)} of its training images were set apart for it"
                )

    def check_labels(self) -> None:
        """Refuse labels that cannot be learned or hidden; note what the user should know about them.

        Raises:
            DataError: a column has one class alone, or a class that no training image has.
        """
        labels, name = self._labels, self._data.name
        places = {split: (self.origin[split], self.rows[split]) for split in self.rows}
        _check_classes(name, labels.columns, labels.task, places, self.notes)
        source, rows = places["train"]
        trained = {column.column: column.codes[source][rows] for column in labels.columns}
        names = {column.column: column.names for column in labels.columns}
        self.notes += notes_on_labels(name, labels.task, names, trained)

    def limit(self, limit: Mapping[SplitName, int]) -> None:
        """Keep so many images of each of these splits, with equally many of every class as far as there are enough."""
        for split, most in limit.items():
            if most > len(self.rows[split]):
                self.notes.append(
                    f"{most} {split} images were asked for; {self._data.name} has {len(self.rows[split])}"
                )
            kept = balanced(self._classes(split), most, np.random.default_rng((self._seed, 0)))
            self.rows[split] = self.rows[split][kept]

    def decode(self, decoding: Callable[..., ImageStore]) -> dict[SplitName, Split]:
        """The splits, with their images decoded and without those that cannot be.

        ``decoding`` is :func:`~smartedge.data.reading.images.open_images` with what is the same for all splits.

        Raises:
            DataError: too many cannot be decoded, or no image of a split is left.
        """
        stores = {source: self._decode(source, decoding) for source in self._data.splits}
        splits: dict[SplitName, Split] = {}
        for split in SPLITS:
            chosen, source = self.rows[split], self.origin[split]
            if not len(chosen):
                others = ", ".join(f"{len(rows)} {other}" for other, rows in self.rows.items() if other != split)
                raise DataError(
                    f"{self._data.name}: no image is left for the {split} split beside {others} image(s). The data set "
                    "is too small: add images, or say in a column 'split' which of them train (train, val or test)"
                )
            splits[split] = Split(
                stores[source],
                chosen,
                labels_of(self._labels.task, self._labels.desired, source, chosen),
                {c.column: labels_of(self._labels.task_of(c), [c], source, chosen) for c in self._labels.hidden},
                _persons(self._data, source, chosen),
            )
        return splits

    def _decode(self, source: SplitName, decoding: Callable[..., ImageStore]) -> ImageStore:
        """The chosen images of one raw split. Rows that cannot be decoded are removed from the splits."""
        name, images = self._data.name, self._data.splits[source].images
        splits = [split for split in self.rows if self.origin[split] == source]
        wanted = np.zeros(images.count, bool)  # a mask needs no sorting of 10⁷ numbers
        for split in splits:
            wanted[self.rows[split]] = True
        needed = np.flatnonzero(wanted)
        part = needed if len(needed) < (1 - MOST_SKIPPED) * images.count else None
        store = decoding(images, name=f"{name}-{source}", rows=part)
        usable = self._without(source, images, needed, store.bad)
        wanted[:] = False
        wanted[usable] = True
        for split in splits:
            self.rows[split] = self.rows[split][wanted[self.rows[split]]]
        return store

    def _labelled(self, split: SplitName, images: Images) -> Ints:
        """The rows of a split that have all labels, or one at least where labels may lack.

        Raises:
            DataError: too many have not.
        """
        columns = self._labels.columns
        if self._labels.task.blanks:
            known = np.any([column.codes[split] >= 0 for column in columns], axis=0)
            if not known.any():
                named = f"{self._data.name}: no image of the {split} split"
                raise DataError(f"{named} has a label in any of the columns of data.desired")
            if not known.all():
                self.skipped["no label in any desired column"] += int((~known).sum())
            return np.flatnonzero(known)
        reasons: dict[int, str] = {}
        for column in columns:
            for row in np.flatnonzero(column.codes[split] < 0):
                reasons.setdefault(int(row), column.unusable)
        return self._without(split, images, np.arange(images.count), reasons)

    def _without(self, split: SplitName, images: Images, rows: Ints, reasons: Mapping[int, str]) -> Ints:
        """``rows`` without those for which there is a reason. These are counted, and the first ones named.

        Raises:
            DataError: they are too many.
        """
        found = {row: reasons[row] for row in rows.tolist() if row in reasons} if reasons else {}
        if not found:
            return rows
        first = "; ".join(f"{images.name_of(row)}: {found[row]}" for row in sorted(found)[:3])
        if len(found) > MOST_SKIPPED * len(rows) or len(found) == len(rows):
            raise DataError(
                f"{self._data.name}: {len(found)} of the {len(rows)} images in the {split} split cannot be used "
                f"({first}). Up to {MOST_SKIPPED:.0%} would be left out and counted; mend or remove these"
            )
        self.skipped.update(found.values())
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        self.notes.append(f"{self._data.name}: left out of the {split} split: {first}{more}")
        return rows[~np.isin(rows, list(found))]

    def _classes(self, split: SplitName) -> Ints:
        """What subsets are balanced by: the class of each row, or nothing (one class for all)."""
        rows = self.rows[split]
        if not self._balances:
            return np.zeros(len(rows), np.int64)
        return self._labels.desired[0].codes[self.origin[split]][rows]


def _persons(data: RawData, source: SplitName, chosen: Ints) -> Ints:
    """A number for the person in each image. An image without a name is a person of its own."""
    if PERSON_COLUMN not in data.splits[source].columns:
        return np.arange(len(chosen))
    names = person_names(data, source, PERSON_COLUMN).take(chosen).to_pylist()
    number: dict[object, int] = {}
    keys = [("nobody", place) if name is None else name for place, name in enumerate(names)]
    return np.array([number.setdefault(key, len(number)) for key in keys])


def _check_classes(
    name: str,
    columns: Sequence[Column],
    task: Task,
    places: Mapping[SplitName, tuple[SplitName, Ints]],
    notes: list[str],
) -> None:
    """Refuse a column that cannot be learned or hidden; note classes that a split lacks.

    ``places`` says of every split which rows of which raw split it has.

    Raises:
        DataError: the training images are all of one class, or lack a class of the desired column that others have.
    """
    constant: list[str] = []
    for column in columns:
        named = f"column {column.column!r} of {name}"
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
        raise DataError(f"{name}: each column of data.desired has one value alone on all training images")
    if constant:
        notes.append(f"nothing can be learned of {list_some(constant)}: all training images of {name} are alike")


def _occurring(codes: Ints) -> list[int]:
    found: list[int] = np.flatnonzero(np.bincount(codes[codes >= 0])).tolist()
    return found
