"""Labels that mean something else than they seem to: an error, or a note, and never a class without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartedge.data import DataSet, open_dataset
from smartedge.errors import DataError

Write = Callable[..., Path]
COUNT = 24
NAMED = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


@pytest.fixture
def labelled(tmp_path: Path, cache: Path, write_parquet: Write) -> Callable[..., DataSet]:
    """``labelled(values, features=None)`` opens a data set whose labels repeat these values."""

    def write(values: list[Any], features: dict[str, Any] | None = None) -> DataSet:
        labels = [values[number % len(values)] for number in range(COUNT)]
        path = write_parquet(tmp_path / "d.parquet", {"label": labels}, features)
        return open_dataset(str(path), "label", image_size=8, cache_dir=cache)

    return write


@pytest.mark.parametrize(
    "values",
    [
        ["16 0", "0", "16"],
        ["16 0", "7 1 2", "5"],
        ["scab", "scab rust", "rust"],
        ["a|b", "b|c", "a|c"],
        ["x; y", "y; z", "x; z"],
    ],
)
def test_several_labels_in_one_value(values: list[str], labelled: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match="holds several labels in one value"):
        labelled(values)


@pytest.mark.parametrize(
    "values",
    [["hot dog", "cold dog", "cat"], ["a|b", "c|d", "e"], ["1.5 mm", "2 mm", "3 mm"], ["red, car", "blue, car", "bus"]],
)
def test_names_of_several_words_are_classes(values: list[str], labelled: Callable[..., DataSet]) -> None:
    assert labelled(values).task.names == tuple(sorted(values))


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("-2", "-2.00")])
def test_numbers_with_and_without_a_point(one: str, other: str, labelled: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match=r"a final '\.0'"):
        labelled([one, other, "7"])


def test_versions_are_no_twins(labelled: Callable[..., DataSet]) -> None:
    assert labelled(["1.1", "1.10", "1"]).task.names == ("1", "1.1", "1.10")


@pytest.mark.parametrize("values", [["1", "0"], ["1", "-1"]])
def test_numbers_written_as_texts_are_yes_and_no(values: list[str], labelled: Callable[..., DataSet]) -> None:
    data = labelled(values)
    assert data.task.names == ("no", "yes")
    labels = {
        int(i): int(label) for part in data.splits.values() for i, label in zip(part.ids, part.labels, strict=True)
    }
    assert [labels[number] for number in range(4)] == [1, 0, 1, 0]


@pytest.mark.parametrize("word", ["None", "nan", "?", "unknown", -1])
def test_words_for_an_unknown_label_are_told(word: Any, labelled: Callable[..., DataSet]) -> None:
    values = [0, 1, word] if word == -1 else ["ant", "bee", word]
    assert any(f"'{word}' is a class like the others; if it means" in note for note in labelled(values).notes)


def test_yes_and_no_as_minus_one_and_one_are_no_unknown_labels(labelled: Callable[..., DataSet]) -> None:
    assert not any("like the others" in note for note in labelled([-1, 1]).notes)


def test_a_class_of_one_image_is_told(labelled: Callable[..., DataSet]) -> None:
    data = labelled(["ant", "bee", "wasp"] * 7 + ["wsap", "ant", "bee"])
    assert any("only one training image is of class wsap" in note for note in data.notes)
    assert not any("only one training" in note for note in labelled(["ant", "bee", "wasp"]).notes)


def test_persons_of_whom_there_is_one_image_are_usual(labelled: Callable[..., DataSet]) -> None:
    persons = [f"person {number}" for number in range(12)]
    assert not any("only one training" in note for note in labelled([*persons, *persons, *persons[:2] * 8]).notes)


def test_names_in_place_of_the_numbers_that_metadata_name(labelled: Callable[..., DataSet]) -> None:
    data = labelled(["dog", "cat"], NAMED)
    assert data.task.names == ("cat", "dog")
    labels = {
        int(i): int(label) for part in data.splits.values() for i, label in zip(part.ids, part.labels, strict=True)
    }
    assert [labels[number] for number in range(4)] == [1, 0, 1, 0]


def test_names_that_the_metadata_do_not_have(labelled: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match="no label, or one that is no class of the metadata, in column 'label'"):
        labelled(["dog", "cat", "cow"], NAMED)


def test_one_hot_columns_of_a_table(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    columns = {name: [number % 3 == place for number in range(COUNT)] for place, name in enumerate("xyz")}
    path = write_parquet(tmp_path / "d.parquet", columns)
    data = open_dataset(str(path), ["x", "y", "z"], image_size=8, cache_dir=cache)
    assert any("one yes among x, y, z, which are learned as 3 yes/no labels" in note for note in data.notes)
    data = open_dataset(str(path), ["x", "y"], image_size=8, cache_dir=cache)
    assert not any("one yes among" in note for note in data.notes)
