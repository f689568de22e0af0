"""Values of a label column that mean something else than they seem to: refused, or told in a note."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import DataError, list_some
from smartedge.types import Task

__all__ = ["notes_on_labels", "refuse_suspect", "refuse_twins"]

_NO, _YES = {"no", "n", "false", "f", "0"}, {"yes", "y", "true", "t", "1"}

# Small Cyrillic and Greek letters that look like Latin ones.
_LOOK_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf\u03b1\u03bd\u03c1", "aeopcyxijsoavp"
)
# Values that often stand for a label that is not known.
_MAY_LACK = frozenset(
    {"none", "nan", "null", "nil", "na", "n/a", "<na>", "inf", "-inf", "unknown", "undefined", "missing", "unlabeled"}
    | {"unlabelled", "?", "-", "--", ".", "-1", "-999", "-9999"}
)
_USUAL_IMAGES = 3  # of half of the classes, where one with a single image is odd: not of persons, who often have one
_NUMBERS = re.compile(r"\d+( \d+)*")  # such as "16 0"


def refuse_suspect(classes: Sequence[str], where: str) -> None:
    """Refuse texts that would be other classes than people mean.

    Args:
        classes: the different texts of a column.
        where: the column, for messages.

    Raises:
        DataError: two of them look like one, some hold several labels each, or yes and no are written in several ways.
    """
    refuse_twins(classes, where)
    _refuse_lists(classes, where)
    _refuse_two_ways(classes, where)


def refuse_twins(classes: Sequence[str], where: str) -> None:
    """Refuse classes that a reader takes for one: they differ in case, in spaces or in the form of a letter alone."""
    seen: dict[str, int] = {}
    for place, each in enumerate(classes):
        first = seen.setdefault(_as_read(each), place)
        if first != place:
            twin = classes[first]
            raise DataError(
                f"{where} has the classes {twin!a} and {each!a}, which differ in case, spaces, dashes or the form of "
                "a letter alone, or in a final '.0'; if they are one class, write both the same way, else rename one"
            )


def _as_read(text: str) -> str:
    """A text without what a reader does not see or does not look at."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_LOOK_ALIKE)
    # Spaces of no width (Cf) and control characters (Cc) go, but for those that are spaces.
    text = "".join(letter for letter in text if letter.isspace() or unicodedata.category(letter) not in ("Cf", "Cc"))
    text = re.sub(r"^([+-]?\d+)\.0+$", r"\1", text.strip())
    return " ".join(re.sub(r"(?<=\w)[-_]+(?=\w)", " ", text).split())


def _refuse_lists(classes: Sequence[str], where: str) -> None:
    """Refuse texts that hold several labels each, such as ``mass|nodule`` beside ``mass``, ``16 0``, ``['a', 'b']``."""
    known = set(classes)
    numbers = all(map(_NUMBERS.fullmatch, classes))
    parts = {
        mark: Counter(part for each in classes if mark in each for part in set(map(str.strip, each.split(mark))))
        for mark in "|;"
    }
    for each in classes:
        bracketed = (each[:1], each[-1:]) in (("[", "]"), ("{", "}"))
        some = any(
            part in known or parts[mark][part] > 1
            for mark in "|;"
            if mark in each
            for part in map(str.strip, each.split(mark))
        )
        # Commas and spaces are found within names, so all that they divide must be classes, or numbers.
        every = any(mark in each and known.issuperset(map(str.strip, each.split(mark))) for mark in ", ")
        if bracketed or some or every or (numbers and " " in each):
            raise DataError(
                f"{where} holds several labels in one value ({each!r}); make a yes/no column for each label, and list "
                "these columns in data.desired"
            )


def _refuse_two_ways(classes: Sequence[str], where: str) -> None:
    """Refuse yes/no values that are written in several ways, such as ``True`` in some rows and ``1`` in others."""
    words = {each.casefold() for each in classes}
    if words <= _NO | _YES and (len(words & _NO) > 1 or len(words & _YES) > 1):
        raise DataError(
            f"{where} writes yes and no in several ways ({', '.join(classes)}), which would be as many classes; write "
            "each in one way, such as yes and no"
        )


def notes_on_labels(
    data: str, task: Task, names: Mapping[str, Sequence[str]], codes: Mapping[str, NDArray[np.int64]]
) -> list[str]:
    """What a user should know about the labels of the training images.

    Args:
        data: the data set's name, for messages.
        task: what is learned.
        names: column, desired or sensitive → names of its classes.
        codes: column → int64 (N,), the classes of the training images; -1 where the label lacks.
    """
    notes = []
    for column, classes in names.items():
        if len(classes) > 2:
            notes += _on_classes(f"column {column!r} of {data}", classes, codes[column])
    if task.kind == "multi":
        notes += _on_one_hot(data, {column: codes[column] for column in task.columns})
    if task.blanks:
        notes.append(_on_blanks({column: codes[column] for column in task.columns}))
    return notes


def _on_classes(where: str, names: Sequence[str], codes_N: NDArray[np.int64]) -> list[str]:
    """Classes that may be none: words and numbers for a label that is not known, and classes of a single image."""
    notes = []
    if odd := [name for name in names if name.strip().casefold() in _MAY_LACK]:
        notes.append(
            f"{where}: {list_some(map(repr, odd))} is a class like the others; if it means that the label is not "
            "known, leave these cells empty"
        )
    counts = np.bincount(codes_N[codes_N >= 0], minlength=len(names))
    rare = [name for name, count in zip(names, counts.tolist(), strict=True) if count == 1]
    if rare and np.median(counts) >= _USUAL_IMAGES:
        notes.append(f"{where}: only one training image is of class {list_some(rare)}; look whether it is a mistake")
    return notes


def _on_one_hot(data: str, codes: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """Three or more yes/no columns of which each image has exactly one yes: perhaps they are the classes."""
    codes_CN = np.stack(list(codes.values()))
    if len(codes_CN) < 3 or not codes_CN.size or (codes_CN < 0).any() or (codes_CN.sum(axis=0) != 1).any():
        return []
    return [
        f"each training image of {data} has one yes among {list_some(codes)}, which are learned as {len(codes)} yes/no "
        "labels. If an image has one class, write one column with its name or number (argmax), and name that column "
        "in data.desired"
    ]


def _on_blanks(codes: Mapping[str, NDArray[np.int64]]) -> str:
    """How many training images have a label in each column, in words."""
    counts = [
        f"{name} {(codes_N == 1).sum()} yes, {(codes_N == 0).sum()} no, {(codes_N < 0).sum()} lacking"
        for name, codes_N in codes.items()
        if (codes_N < 0).any()
    ]
    return "labels that are lacking are left out of loss and figures" + (f": {list_some(counts, 20)}" if counts else "")
