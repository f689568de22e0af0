"""Features with their labels, as somebody else computed them: arrays in memory, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smartedge.data.layouts.cells import LACKING
from smartedge.errors import DataError
from smartedge.logs import plain
from smartedge.types import SPLITS, Ints, SplitName

__all__ = ["Column", "FeatureTable", "table_of"]

_MOST_CLASSES = 1000
_MOST_AXES = 4
_FEWEST_IMAGES = 60  # over all splits
_BOOLEAN = ("no", "yes")
_SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
_LACKING = ("", *LACKING, "None", "<NA>", "NaT")  # texts that libraries write for a value that is not there
_LONGEST = 1000  # characters of a label or name
_LARGEST = 2.0**53  # float64 has every whole number up to this one

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Column:
    """A label of each image."""

    name: str
    classes: tuple[str, ...]
    codes_N: Ints  # index of the class; −1 where an image has no label


@dataclass(frozen=True)
class FeatureTable:
    """Features of N images and what is known about them.

    Attributes:
        features_NF: float32 (N, *F), finite.
        sensitive: the columns that attackers try to read.
        desired: the label to keep; None where there is none.
        persons_N: number of the person in each image, int64 (N,); None where persons are not known.
        splits: split → positions of its images, ascending.
        made: how the splits were made; None where they were given.
        rounded: the features had more digits than float32 holds.
    """

    features_NF: NDArray[np.float32]
    sensitive: tuple[Column, ...]
    desired: Column | None
    persons_N: Ints | None
    splits: Mapping[SplitName, Ints]
    made: str | None
    rounded: bool

    def copies(self) -> int:
        """How many images of the split ``test`` have exactly the features of an image of another split."""
        others = {self._bytes(row) for row in np.concatenate([self.splits["train"], self.splits["val"]])}
        return sum(self._bytes(row) in others for row in self.splits["test"])

    def _bytes(self, row: int) -> bytes:
        """A digest of the features of an image."""
        return hashlib.sha256(self.features_NF[row] + np.float32(0)).digest()  # −0 becomes 0

    def digest(self) -> str:
        """A digest of features, labels, persons and splits."""
        found = hashlib.sha256(np.ascontiguousarray(self.features_NF).data)
        columns = [*self.sensitive, *([self.desired] if self.desired else [])]
        arrays = [column.codes_N for column in columns] + [self.splits[name] for name in SPLITS]
        arrays += [] if self.persons_N is None else [self.persons_N]
        found.update(repr([(column.name, column.classes) for column in columns]).encode())
        for array in arrays:
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()[:32]


def table_of(
    features: ArrayLike,
    *,
    sensitive: Mapping[str, ArrayLike],
    labels: ArrayLike | None = None,
    persons: ArrayLike | None = None,
    splits: ArrayLike | None = None,
    seed: int = 0,
) -> FeatureTable:
    """Check arrays, and make splits where none are given.

    Args:
        features: numbers (N, *F).
        sensitive: column → (N,): booleans, whole numbers or texts. A missing label is NaN, None, −1 (beside other
            numbers than 1), or a text that is empty or a word such as ``nan``.
        labels: the desired label (N,), as a sensitive column.
        persons: who is in each image, (N,): whole numbers or texts. An image without a name (as a missing label) is a
            person of its own.
        splits: ``train``, ``val`` or ``test`` for each image, (N,), or 0, 1 and 2.
        seed: seed of the splits that are made here: 50, 20 and 30 % of the persons, or of the images.

    Raises:
        DataError: says what is wrong with which array, and what to do.
    """
    features_NF, rounded = _features(features)
    count = len(features_NF)
    if not sensitive:
        raise DataError(
            "there is no sensitive column, so attackers have nothing to read; add an array with one label for each "
            "image, such as 'glasses'"
        )
    columns = tuple(_column(name, values, count) for name, values in sensitive.items())
    desired = None if labels is None else _column("labels", labels, count)
    if desired is not None and (desired.codes_N < 0).any():
        missing = int((desired.codes_N < 0).sum())
        raise DataError(f"labels: {missing} of {count} images have no label; leave these images out")
    persons_N = None if persons is None else _persons(persons, count)
    given = splits is not None
    places = _given_splits(splits, count) if given else _made_splits(count, persons_N, seed)
    if given and persons_N is not None:
        _check_persons(places, persons_N)
    made = None if given else f"made by {'images' if persons_N is None else 'persons'}"
    return FeatureTable(features_NF, columns, desired, persons_N, places, made, rounded)


def _features(features: ArrayLike) -> tuple[NDArray[np.float32], bool]:
    """The features in float32, and whether they had more digits than that."""
    array = _array("features", features)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise DataError(f"features: must be numbers, not {array.dtype}")
    if not 2 <= array.ndim <= _MOST_AXES or 0 in array.shape[1:]:
        raise DataError(
            f"features: has shape {array.shape}; expected (images, numbers), or (images, channels, height, width) for "
            "maps" + ("; one number for each image is (images, 1)" if array.ndim == 1 else "")
        )
    if len(array) < _FEWEST_IMAGES:
        raise DataError(
            f"features: {len(array)} images are too few to train and judge attackers; give at least {_FEWEST_IMAGES}, "
            "and some thousands for figures to rely on"
        )
    with np.errstate(over="ignore"):
        array_NF = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(array_NF.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise DataError(
            f"features: {len(bad)} of {len(array)} images hold NaN, or numbers that are infinite or too large for "
            f"float32, the first at position {bad[0]}; leave these images out, or scale the features. Where such "
            "numbers are sent, their places may tell something: then put another number there, and add numbers that "
            "are 1 in these places and 0 elsewhere"
        )
    return array_NF, bool((array_NF != array).any())


def _column(name: str, values: ArrayLike, count: int) -> Column:
    if plain(name) != name:  # it would break the lines in which it is told, or speak to the terminal
        raise DataError(f"{plain(name)}: the name of a column holds characters that cannot be printed; rename it")
    array, known = _one_for_each(name, values, count)
    if array.dtype.kind in "iuf":
        numbers = array.astype(np.float64)
        if len(odd := numbers[known & (numbers != np.round(numbers))]):
            raise DataError(
                f"{name}: holds fractions such as {odd[0]:g}; a label is a class: turn it into whole numbers or texts"
            )
        if len(odd := numbers[known & (np.abs(numbers) > _LARGEST)]):
            raise DataError(f"{name}: holds {odd[0]:g}, which is no class; turn it into small numbers or texts")
        array = np.where(known, array, 0).astype(np.int64)
        if set(np.unique(array[known]).tolist()) == {-1, 1}:
            array = array > 0  # as CelebA writes yes/no
        else:
            known = known & (array != -1)
            if len(odd := array[known & (array < 0)]):
                raise DataError(
                    f"{name}: holds {odd[0]}. A number below 0 is no class, and -1 means that there is no label; count "
                    "the classes from 0, or use texts"
                )
    classes = np.unique(array[known])
    if len(classes) < 2:
        only = f"the same {name!r} ({classes[0]})" if len(classes) else f"no {name!r}"
        raise DataError(f"{name}: all images have {only}, so there is nothing to read; leave this column out")
    if len(classes) > _MOST_CLASSES or 2 * len(classes) > count:
        raise DataError(
            f"{name}: has {len(classes)} different values for {count} images, so it is not a label that attackers can "
            "learn; leave this column out (--attributes names the columns to read)"
        )
    codes_N = np.where(known, np.searchsorted(classes, array), -1).astype(np.int64)
    yes_no = array.dtype.kind == "b" or set(classes.tolist()) <= {0, 1}
    return Column(name, _BOOLEAN if yes_no else tuple(plain(str(each)) for each in classes.tolist()), codes_N)


def _one_for_each(name: str, values: ArrayLike, count: int) -> tuple[NDArray[Any], Bools]:
    """Booleans, numbers or texts without spaces around them, (N,), and which images have one."""
    array = _array(name, values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{name}: has shape {array.shape}; expected one value for each image, ({count},)")
    if len(array) != count:
        raise DataError(f"{name}: has {len(array)} values, but there are features of {count} images")
    known = np.ones(count, dtype=bool)
    if array.dtype == object:
        listed = array.tolist()
        # The one value that is not equal to itself is NaN.
        known = np.array([value is not None and bool(value == value) for value in listed], dtype=bool)
        given = [value for value, there in zip(listed, known, strict=True) if there]
        kinds = {type(value) for value in given}
        if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
            raise DataError(f"{name}: holds Python objects; use booleans, whole numbers or texts")
        if str in kinds and (longest := max(map(len, given))) > _LONGEST:  # an array gives each text as much room
            raise DataError(f"{name}: holds a text of {longest} characters; a label or name has {_LONGEST} at most")
        blank = kinds.pop()() if kinds else ""
        array = np.array([value if there else blank for value, there in zip(listed, known, strict=True)])
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: holds bytes that are no text in UTF-8 ({error})") from error
    if array.dtype.kind not in "biufU":
        raise DataError(f"{name}: is of type {array.dtype}; use booleans, whole numbers or texts")
    if array.dtype.kind == "U":
        array = np.char.strip(array)
        return array, known & ~np.isin(array, _LACKING)
    return array, known & np.isfinite(array)


def _array(name: str, values: ArrayLike) -> NDArray[Any]:
    """Any sequence of values as an array.

    Raises:
        DataError: it has no rectangular shape, or is masked, or its library does not give it to NumPy.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(f"{name}: some values are masked; leave these images out, or give NaN for a missing label")
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: cannot be turned into a NumPy array: {error}; give a rectangular array, of float32 where its "
            "library has kinds of numbers that NumPy has not"
        ) from error


def _persons(persons: ArrayLike, count: int) -> Ints:
    array, known = _one_for_each("persons", persons, count)
    if array.dtype.kind in "if":
        known = known & (array != -1)
    codes_N = np.unique(array, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return np.asarray(np.where(known, codes_N, codes_N.max() + 1 + np.arange(count)), dtype=np.int64)


def _given_splits(splits: ArrayLike | None, count: int) -> dict[SplitName, Ints]:
    assert splits is not None
    array, known = _one_for_each("splits", splits, count)
    if not known.all():
        raise DataError(f"splits: {(~known).sum()} images are in no split; leave these images out")
    names: dict[object, SplitName] = {**{name: name for name in SPLITS}, **dict(enumerate(SPLITS))}
    found = {value: names.get(value) for value in np.unique(array).tolist()}
    if unknown := [value for value, name in found.items() if name is None]:
        raise DataError(f"splits: {unknown[0]!r} is not a split; use train, val and test, or 0, 1 and 2")
    if missing := sorted(set(SPLITS) - {name for name in found.values() if name}):
        raise DataError(
            f"splits: no image is in {' and '.join(missing)}. Attackers learn from train, are chosen by val and are "
            "judged on test; leave the splits out and they are made"
        )
    return {name: np.flatnonzero(np.isin(array, [v for v, n in found.items() if n == name])) for name in SPLITS}


def _made_splits(count: int, persons_N: Ints | None, seed: int) -> dict[SplitName, Ints]:
    """Whole persons at random, or images where persons are not known."""
    units_N = np.arange(count) if persons_N is None else np.unique(persons_N, return_inverse=True)[1].reshape(-1)
    order_U = np.random.default_rng(seed).permutation(units_N.max() + 1)
    # Images of the persons before each person: where the shares are reached, a split ends.
    before_U = np.bincount(units_N)[order_U].cumsum() / count
    ends = np.cumsum([_SHARES[name] for name in SPLITS])
    split_U = np.empty(len(order_U), dtype=np.int64)
    split_U[order_U] = np.searchsorted(ends[:-1], before_U, side="left")
    places = {name: np.flatnonzero(split_U[units_N] == place) for place, name in enumerate(SPLITS)}
    if empty := [name for name, rows in places.items() if not len(rows)]:
        raise DataError(
            f"persons: too few persons ({len(order_U)}) to divide their images into three splits without anybody in "
            f"two of them ({', '.join(empty)} would be empty); give more persons, or splits of your own"
        )
    return places


def _check_persons(places: Mapping[SplitName, Ints], persons_N: Ints) -> None:
    for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
        both = np.intersect1d(persons_N[places[first]], persons_N[places[second]])  # type: ignore[index]
        if len(both):
            raise DataError(
                f"splits: {len(both)} persons have images in both {first} and {second}. An attacker could then "
                "recognise persons instead of reading the attribute; divide the images by persons, or leave the splits "
                "out and they are made so"
            )
