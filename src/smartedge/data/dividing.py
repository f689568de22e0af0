"""Divides a data set: into splits by a column, into subsets of equal classes, and images set apart for an audit."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from smartedge.data.dataset import Split
from smartedge.data.raw import RawData, list_some, split_of
from smartedge.errors import DataError
from smartedge.types import SplitName, Task

__all__ = ["SPLIT_COLUMNS", "balanced", "divide", "set_apart", "stratified"]

SPLIT_COLUMNS = (
    "split",
    "partition",
    "subset",
    "data_split",
    "dataset_split",
)  # names of a column that divides a data set
_MAY_DIVIDE = ("set", "phase", "usage", "fold", "dataset")  # those of a column that divides it if it holds splits
_FLAGS: dict[str, tuple[SplitName, SplitName]] = {  # column of yes/no values → split of yes, split of no
    "is_train": ("train", "test"),
    "is_training": ("train", "test"),
    "is_test": ("test", "train"),
    "is_val": ("val", "train"),
    "is_valid": ("val", "train"),
    "is_validation": ("val", "train"),
}

Indices = NDArray[np.int64]


def divide(
    data: RawData, task: Task, rows: dict[SplitName, Indices], origin: dict[SplitName, SplitName], notes: list[str]
) -> None:
    """Divide a data set that is not divided by its column ``split``, where it has one that names splits."""
    known = (*SPLIT_COLUMNS, *_MAY_DIVIDE, *_FLAGS)
    columns = {re.sub(r"\W+", "_", name.lower()): name for name in reversed(data.splits["train"].columns)}
    simple = next((name for name in known if name in columns), None)
    if simple is None or len(data.splits) > 1 or columns[simple] in task.columns:
        return
    column = columns[simple]
    given = [
        "nothing" if value is None else str(value).strip()
        for value in data.splits["train"].read([column])[column].to_pylist()
    ]
    named = {value: _split_named(simple, value) for value in set(given)}
    if unknown := sorted(value for value, split in named.items() if split is None):
        apart = sorted(value for value, split in named.items() if split in ("val", "test"))
        if apart and simple in SPLIT_COLUMNS:
            raise DataError(
                f"column {column!r} of {data.name} holds {list_some(unknown)} beside {list_some(apart)}, so it "
                "cannot be told which images train. Call each split train, val or test, or leave out the other rows"
            )
        if simple in SPLIT_COLUMNS or len(unknown) < len(named):
            notes.append(
                f"column {column!r} of {data.name} does not divide it, because it holds {list_some(unknown)} beside or "
                "instead of train, val and test"
            )
        return
    place = np.array([named[value] for value in given])[rows["train"]]
    whole = rows["train"]
    for split in dict.fromkeys(named.values()):
        assert split is not None
        rows[split], origin[split] = whole[place == split], "train"
    if "train" not in named.values():
        raise DataError(f"column {column!r} of {data.name} gives no image to the training split")
    notes.append(f"{data.name} was divided by its column {column!r}")


def _split_named(column: str, value: str) -> SplitName | None:
    """The split that a value of a column names."""
    if column in _FLAGS:
        places = {"true": 0, "1": 0, "yes": 0, "false": 1, "0": 1, "no": 1}
        return _FLAGS[column][places[value.lower()]] if value.lower() in places else None
    return split_of(value)


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


def balanced(classes: Indices, size: int, rng: np.random.Generator) -> Indices:
    """``size`` positions, ascending, with equally many of every class. A class with too few gives all that it has."""
    order = rng.permutation(len(classes))
    return np.sort(order[np.argsort(_place_in_class(classes[order]), kind="stable")[:size]])


def stratified(classes: Indices, size: int, rng: np.random.Generator) -> Indices:
    """``size`` positions, ascending, in which each class has the share that it has in the whole."""
    order = rng.permutation(len(classes))
    share = (_place_in_class(classes[order]) + 0.5) / np.bincount(classes)[classes[order]]
    return np.sort(order[np.argsort(share, kind="stable")[:size]])


def _place_in_class(classes: Indices) -> Indices:
    """For each element, how many of the same class come before it."""
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], classes[order])
    places = np.empty(len(classes), np.int64)
    places[order] = np.arange(len(classes)) - starts
    return places
