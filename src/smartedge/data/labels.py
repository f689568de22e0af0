"""Columns to labels: what a column means as a task, and which rows have a label that can be used."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smartedge.data.raw import RawData
from smartedge.data.suspect import refuse_suspect, refuse_twins
from smartedge.errors import DataError, list_some
from smartedge.logs import plain
from smartedge.types import Ints, SplitName, Task

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BOOLEAN", "Column", "Labels", "labels_of", "person_names", "read_column", "read_labels", "read_task"]

BOOLEAN = ("no", "yes")
# Texts that are yes/no values.
_YES_NO = ({"no", "yes"}, {"n", "y"}, {"false", "true"}, {"f", "t"}, {"0", "1"}, {"-1", "1"})

_WORDS = {pa.bool_(): "yes/no values", pa.int64(): "whole numbers", pa.string(): "texts"}

_MOST_VALUES = 20  # so many different values may be classes of a very small data set


@dataclass(frozen=True)
class Column:
    """One label column over all splits."""

    column: str
    names: tuple[str, ...]  # of its classes
    codes: Mapping[SplitName, Ints]  # int64 (N,), places in ``names``; -1 where a row has no label that can be used
    unusable: str  # why not


@dataclass(frozen=True)
class Labels:
    """The columns that a run uses.

    Attributes:
        task: what is learned.
        desired: its columns.
        hidden: the columns to hide.
    """

    task: Task
    desired: Sequence[Column]
    hidden: Sequence[Column]

    @property
    def columns(self) -> list[Column]:
        """All of them."""
        return [*self.desired, *self.hidden]

    def task_of(self, column: Column) -> Task:
        """What the labels of a hidden column mean."""
        return Task("single", (column.column,), column.names)


def read_labels(data: RawData, desired: str | Sequence[str], sensitive: Sequence[str]) -> Labels:
    """Read the columns to learn and those to hide.

    Raises:
        DataError: a column is unknown or cannot be a label, one is desired and sensitive, or there is nothing to train
            with.
    """
    if "train" not in data.splits:
        raise DataError(f"{data.name} has no training split; it has: {', '.join(data.splits)}")
    if empty := [split for split, raw in data.splits.items() if not raw.images.count]:
        raise DataError(f"{data.name}: the {empty[0]} split holds no images")
    task, columns = read_task(data, desired, blanks=not sensitive)
    hidden = [read_column(data, name) for name in sensitive]
    if both := sorted(set(sensitive) & set(task.columns)):
        raise DataError(f"{', '.join(both)} cannot be desired and sensitive at once")
    return Labels(task, columns, hidden)


def read_task(data: RawData, desired: str | Sequence[str], *, blanks: bool) -> tuple[Task, list[Column]]:
    """The task of a column (single label), or of a list or group of columns (multi-label).

    With ``blanks``, images of a multi-label task may lack some labels.

    Raises:
        DataError: a column is unknown or named twice, cannot be a label, or is not yes/no in a multi-label task.
    """
    if isinstance(desired, str) and desired not in data.groups:
        column = read_column(data, desired)
        if desired not in data.class_names:
            _refuse_measured(column, data)
        return Task("single", (desired,), column.names), [column]
    names = data.groups[desired] if isinstance(desired, str) else tuple(desired)
    if not names:
        raise DataError("desired: the list of columns is empty; name at least one")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"desired: {', '.join(repeated)} is named more than once")
    columns = [read_column(data, name) for name in names]
    for column in columns:
        if column.names != BOOLEAN:
            raise DataError(
                f"desired: column {column.column!r} of {data.name} has {len(column.names)} classes "
                f"({list_some(column.names)}), and a list of columns needs yes/no columns; name it alone, not in a list"
            )
    lacking = any((codes < 0).any() for column in columns for codes in column.codes.values())
    return Task("multi", names, names, blanks=blanks and lacking), columns


def _refuse_measured(column: Column, data: RawData) -> None:
    """Refuse values that nearly all differ: they measure, name or describe the images."""
    classes, images = len(column.names), sum(int((codes >= 0).sum()) for codes in column.codes.values())
    if classes > _MOST_VALUES and classes > 0.9 * images:
        raise DataError(
            f"column {column.column!r} of {data.name} holds {classes} different values on {images} images, so it "
            "names, describes or measures them and is no class. Measured values cannot be learned (regression); choose "
            "another column, or sort the values into classes, such as 'low', 'medium' and 'high'"
        )


def labels_of(task: Task, columns: Sequence[Column], split: SplitName, rows: Ints) -> Tensor:
    """The labels of some rows of a split, as :class:`~smartedge.types.Task` describes them."""
    import torch  # not above: to check columns needs none

    codes = np.stack([column.codes[split][rows] for column in columns], axis=1)
    if task.kind == "single":
        return torch.from_numpy(codes[:, 0].copy())
    return torch.from_numpy(np.where(codes < 0, np.nan, codes).astype(np.float32))


def read_column(data: RawData, name: str) -> Column:
    """Read one column of every split and find its classes.

    Boolean columns and numbers in {0, 1} or {-1, 1} are yes/no; integers with class names (Hugging Face metadata)
    have those names; other whole numbers and texts have their sorted distinct values as classes, over all splits.

    Raises:
        DataError: the column is unknown, missing in a split, or of a type that cannot be a label; or its name cannot
            be printed.
    """
    if plain(name) != name:  # tables and reports are full of it
        raise DataError(f"{data.name}: the name of column {name!r} holds characters that cannot be printed; rename it")
    if lacking := [split for split, raw in data.splits.items() if name not in raw.columns]:
        raise DataError(_unknown(data, lacking, name))
    parts = _alike(
        {split: _plain(raw.read([name])[name], data, name) for split, raw in data.splits.items()}, data, name
    )
    whole = pa.chunked_array(
        [chunk for part in parts.values() for chunk in part.chunks], next(iter(parts.values())).type
    )
    if name in data.class_names:
        return _named(name, data, parts)
    unusable = f"no label in column {name!r}"
    values = pc.unique(pc.drop_null(whole)).sort()
    if len(values) == 0:
        raise DataError(f"column {name!r} of {data.name} holds no value at all; choose another column")
    known = values.to_pylist()
    if pa.types.is_boolean(whole.type) or set(known) <= {0, 1} or set(known) == {-1, 1}:
        codes = {split: np.minimum(_integers(pc.equal(part, _true(whole.type))), 1) for split, part in parts.items()}
        return Column(name, BOOLEAN, codes, unusable)
    if pa.types.is_string(whole.type):
        refuse_suspect(known, f"column {name!r} of {data.name}")
        if {each.casefold() for each in known} in _YES_NO:
            yes = next(each for each in known if each[0] in "yYtT1")
            codes = {split: _integers(pc.equal(part, yes)) for split, part in parts.items()}
            return Column(name, BOOLEAN, codes, unusable)
    codes = {split: _integers(pc.index_in(part, values)) for split, part in parts.items()}
    return Column(name, tuple(map(str, known)), codes, unusable)


def person_names(data: RawData, split: SplitName, column: str) -> pa.ChunkedArray:
    """The persons in the images of a split, as texts (N,) without spaces around them; null where none is named.

    Raises:
        DataError: the values cannot be names.
    """
    values = data.splits[split].read([column])[column]
    try:
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_finite(values), values, None)
            if pc.all(pc.equal(values, pc.round(values)), min_count=0).as_py():
                values = values.cast(pa.int64())  # one split may hold 5 and another one 5.0
        names = pc.utf8_trim_whitespace(values.cast(pa.string()))
        return pc.if_else(pc.equal(names, ""), None, names)
    except pa.ArrowException as error:
        raise DataError(f"column {column!r} of {data.name} does not name persons: {error}") from error


def _named(name: str, data: RawData, parts: Mapping[SplitName, pa.ChunkedArray]) -> Column:
    """A column whose classes have names in the metadata. It holds their numbers, or the names themselves."""
    names = data.class_names[name]
    refuse_twins(names, f"column {name!r} of {data.name}")
    if any(pa.types.is_string(part.type) for part in parts.values()):
        codes = {split: _integers(pc.index_in(part, pa.array(names))) for split, part in parts.items()}
        return Column(name, names, codes, f"no label, or one that is no class of the metadata, in column {name!r}")
    codes = {split: _bounded(_integers(part), len(names)) for split, part in parts.items()}
    return Column(name, names, codes, f"no label, or one outside 0..{len(names) - 1}, in column {name!r}")


def _alike(parts: dict[SplitName, pa.ChunkedArray], data: RawData, name: str) -> dict[SplitName, pa.ChunkedArray]:
    """The column of all splits in one type. One that holds no value at all takes the type of the others.

    Raises:
        DataError: the types differ.
    """
    kinds = {split: part.type for split, part in parts.items() if part.null_count < len(part)}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{_WORDS.get(kind, kind)} in {split}" for split, kind in sorted(kinds.items()))
        raise DataError(f"column {name!r} of {data.name} holds {said}; write every split with the same type")
    kind = next(iter(kinds.values()), pa.int64())
    return {
        split: part if split in kinds else pa.chunked_array([pa.nulls(len(part), kind)])
        for split, part in parts.items()
    }


def _true(kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(True if pa.types.is_boolean(kind) else 1, kind)


def _plain(column: pa.ChunkedArray, data: RawData, name: str) -> pa.ChunkedArray:
    """The column as booleans, int64 or texts, with every kind of missing value as null."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_boolean(kind):
        return column
    if pa.types.is_integer(kind):
        return _whole(column, data, name)
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        column = column.cast(pa.float64())
        kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, None)
        if pc.all(pc.equal(column, pc.round(column)), min_count=0).as_py():
            return _whole(column, data, name)
        raise DataError(
            f"column {name!r} of {data.name} holds fractions such as "
            f"{next(v for v in column.to_pylist() if v is not None and v != round(v))}: "
            "measured values cannot be learned (regression), only classes and yes/no attributes; choose another "
            "column, or sort the values into classes, such as 'low', 'medium' and 'high'"
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.string())
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
    if pa.types.is_null(kind):
        return column.cast(pa.int64())
    several = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    remedy = (
        "make a yes/no column for each label, and list these columns in data.desired"
        if several
        else "choose another column, or write it as texts"
    )
    raise DataError(
        f"column {name!r} of {data.name} is of type {kind}, which cannot be a label: "
        f"booleans, whole numbers and texts can; {remedy}"
    )


def _whole(column: pa.ChunkedArray, data: RawData, name: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"column {name!r} of {data.name} holds numbers beyond 64 bits ({error}): no class has such a number; "
            "choose another column, or write it as texts"
        ) from error


def _integers(column: pa.ChunkedArray) -> Ints:
    """int64, with -1 for null."""
    return np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy(), np.int64)


def _bounded(codes: Ints, classes: int) -> Ints:
    return np.where((codes >= 0) & (codes < classes), codes, -1)


def _unknown(data: RawData, lacking: Sequence[SplitName], name: str) -> str:
    where = "" if len(lacking) == len(data.splits) else f" in its {' and '.join(lacking)} split"
    columns = sorted({*data.splits[lacking[0]].columns, *data.groups})
    by_small_letters = {column.casefold(): column for column in columns}
    near = [by_small_letters[key] for key in difflib.get_close_matches(name.casefold(), by_small_letters, n=3)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    if set(several := [part.strip() for part in name.split(",")]) <= set(columns):
        hint = f"; for several columns write a list: [{', '.join(several)}]."
    found = f" Its columns are: {', '.join(columns) or 'none'}"
    return f"{data.name} has no column {name!r}{where}{hint}{found}" + (
        ". If the images of that split have no labels, move it elsewhere" if where and not near else ""
    )
