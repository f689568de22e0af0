"""Divides a data set: into splits by a column, into subsets of equal classes, and images set apart for an audit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from smartedge.data.dataset import Split
from smartedge.data.raw import SPLIT_NAMES, RawData, split_in, split_of, words
from smartedge.errors import DataError, list_some
from smartedge.types import Ints, SplitName, Task

__all__ = ["SPLIT_COLUMNS", "balanced", "divide", "set_apart", "stratified"]

SPLIT_COLUMNS = ("split", "partition", "subset", "data_split", "dataset_split")  # of a column that divides a data set
# Words in the name of a column that divides it if it holds splits, and words in the name of a yes/no column (is_test).
_MAY_DIVIDE = frozenset({"split", "partition", "subset", "set", "phase", "usage", "fold", "dataset", "mode", "type"})
_ABOUT = frozenset({"is", "in", "for", "set", "split", "data", "image", "img"})
_YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_NUMBERED: dict[str, SplitName] = {"0": "train", "1": "val", "2": "test"}  # as CelebA has it


def divide(
    data: RawData, task: Task, rows: dict[SplitName, Ints], origin: dict[SplitName, SplitName], notes: list[str]
) -> None:
    """Divide a data set whose files do not divide it by a column that names splits, where it has one.

    Raises:
        DataError: a column ``split`` holds splits beside other values, or no training images.
    """
    whole = rows["train"]
    for column, named_so in _columns(data, task):
        if len(data.splits) > 1:
            if named_so:
                _note_unused(data, column, notes)
            continue
        given = _values(data, "train", column)
        named = _splits_named(column, given, numbered=named_so)
        splits = {split for split in named.values() if split is not None}
        if splits and None not in named.values() and (named_so or {"train"} < splits):
            if "train" not in splits:
                raise DataError(f"column {column!r} of {data.name} gives no image to the training split")
            place = np.array([named[value] for value in given])[whole]
            for split in splits:
                rows[split], origin[split] = whole[place == split], "train"
            notes.append(f"{data.name} was divided by its column {column!r}")
            return
        unknown = list_some(sorted(value for value, split in named.items() if split is None))
        if splits and named_so:
            raise DataError(
                f"column {column!r} of {data.name} holds {unknown} beside {list_some(sorted(splits))}, so it cannot be "
                "told which images train. Call each split train, val or test, or leave out the other rows"
            )
        if (splits and unknown) or named_so:
            notes.append(
                f"column {column!r} of {data.name} does not divide it, because it holds {unknown} beside or instead of "
                "train, val and test"
            )


def _columns(data: RawData, task: Task) -> list[tuple[str, bool]]:
    """Columns that may name splits, and whether they are called so; these come first."""
    found = {}
    for name in dict.fromkeys(name for raw in data.splits.values() for name in raw.columns):
        simple = re.sub(r"\W+", "_", name.lower())
        if name not in task.columns and (simple in SPLIT_COLUMNS or _MAY_DIVIDE & {*words(name)} or _flag(name)):
            found[name] = simple in SPLIT_COLUMNS
    return sorted(found.items(), key=lambda each: not each[1])


def _values(data: RawData, split: SplitName, column: str) -> list[str]:
    values = data.splits[split].read([column])[column].to_pylist()
    return ["nothing" if value is None else str(value).strip() for value in values]


def _splits_named(column: str, values: Sequence[str], *, numbered: bool) -> dict[str, SplitName | None]:
    """Value → the split that it names, or None. ``numbered``: whether 0, 1 and 2 may name them."""
    counts = Counter(values)
    if (flag := _flag(column)) is not None:
        other: SplitName = "test" if flag == "train" else "train"
        return {each: {True: flag, False: other, None: None}[_YES_NO.get(each.lower())] for each in counts}
    if numbered and counts.keys() == _NUMBERED.keys() and counts["0"] > max(counts["1"], counts["2"]):
        return dict(_NUMBERED)
    return {each: split_of(each) for each in counts}


def _flag(column: str) -> SplitName | None:
    """The split of which a yes/no column says whether an image is in it (``is_test``), by the column's name."""
    first, *others = [*words(column), ""]
    return split_in(column) if first in ("is", "in") and {*others} - {*SPLIT_NAMES, ""} <= _ABOUT else None


def _note_unused(data: RawData, column: str, notes: list[str]) -> None:
    """Say where a column gives an image to another split than its file or folder does."""
    for split, raw in data.splits.items():
        if column in raw.columns:
            named = _splits_named(column, _values(data, split, column), numbered=True).values()
            if others := {each for each in named if each not in (None, split)}:
                notes.append(
                    f"column {column!r} of {data.name} is not used, since its files or folders divide it: it names "
                    f"{list_some(sorted(others))} images in the {split} split"
                )


def set_apart(
    name: str, train: Split, share: float, rng: np.random.Generator, notes: list[str]
) -> tuple[Split, Split | None]:
    """The training images without a share of them, and this share: whole persons, where the data set names them.

    Raises:
        DataError: nothing would be left to train on.
    """
    if share == 0:
        return train, None
    person_N = train.persons
    order = rng.permutation(person_N.max() + 1)
    images_P = np.bincount(person_N)[order].cumsum()
    persons = max(1, int(np.searchsorted(images_P, share * len(train), side="right")))
    apart_N = np.isin(person_N, order[:persons])
    if apart_N.all():
        raise DataError(f"{name}: with data.audit_share no training image is left; the data set is too small")
    notes.append(f"{apart_N.sum()} training images were set apart for the audit's attackers")
    return train.subset(np.flatnonzero(~apart_N)), train.subset(np.flatnonzero(apart_N))


def balanced(classes: Ints, size: int, rng: np.random.Generator) -> Ints:
    """``size`` positions, ascending, with equally many of every class. A class with too few gives all that it has."""
    order = rng.permutation(len(classes))
    return np.sort(order[np.argsort(_place_in_class(classes[order]), kind="stable")[:size]])


def stratified(classes: Ints, size: int, rng: np.random.Generator) -> Ints:
    """``size`` positions, ascending, in which each class has the share that it has in the whole."""
    order = rng.permutation(len(classes))
    share = (_place_in_class(classes[order]) + 0.5) / np.bincount(classes)[classes[order]]
    return np.sort(order[np.argsort(share, kind="stable")[:size]])


def _place_in_class(classes: Ints) -> Ints:
    """For each element, how many of the same class come before it."""
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], classes[order])
    places = np.empty(len(classes), np.int64)
    places[order] = np.arange(len(classes)) - starts
    return places
