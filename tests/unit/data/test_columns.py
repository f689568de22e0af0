"""Further columns of an open data set: who is in each image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from smartedge.data import open_dataset
from smartedge.data.columns import persons_of, read_columns
from smartedge.data.sources import open_raw
from smartedge.errors import DataError
from smartedge.images.size import ImageSize

Parts = dict[str, object]


@pytest.fixture
def persons(write_parquet: Callable[..., Path], tmp_path: Path, cache: Path) -> Callable[[Parts], object]:
    """Split → column of persons (None: there is none) to what :func:`persons_of` gives, numbered as they come."""

    def read(parts: Parts) -> object:
        for split, values in parts.items():
            columns = {"yes": [True, False, True, False]}
            write_parquet(tmp_path / "d" / f"{split}.parquet", columns | ({} if values is None else {"who": values}))
        dataset = open_dataset(str(tmp_path / "d"), "yes", image_size=8, cache_dir=cache)
        found = persons_of(open_raw(str(tmp_path / "d"), ImageSize.of(8), cache_dir=cache), dataset, "who")
        if found is None:
            return None
        numbers = {-1: -1}
        for split in parts:
            for code in found[split].tolist():  # type: ignore[index]
                numbers.setdefault(code, len(numbers) - 1)
        return {split: [numbers[code] for code in found[split].tolist()] for split in parts}  # type: ignore[index]

    return read


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["a", "b", None, " "], ["b ", "c", "B", ""]),  # b and B may be two persons: nobody is made one of two
        ([5, 6, None, None], [6, 7, 8, None]),
        ([5.0, 6.0, None, float("nan")], [6, 7, 8, None]),
        (pa.array(["a", "b", None, None]).dictionary_encode(), ["b", "c", "x|y", None]),
    ],
)
def test_a_person_has_one_number_in_all_splits(persons: Callable[[Parts], object], train: object, test: object) -> None:
    val = [9, 9, None, None] if isinstance(test[1], int) else ["9", "9", None, None]  # type: ignore[index]
    assert persons({"train": train, "val": val, "test": test}) == {
        "train": [0, 1, -1, -1],
        "val": [2, 2, -1, -1],
        "test": [1, 3, 4, -1],
    }


def test_persons_that_only_some_splits_name_are_refused(persons: Callable[[Parts], object]) -> None:
    named = ["a", "a", "b", "b"]
    with pytest.raises(DataError, match="has a column 'who', but not in its val split"):
        persons({"train": named, "val": None, "test": named})


def test_a_data_set_without_the_column_names_nobody(persons: Callable[[Parts], object]) -> None:
    assert persons({"train": None, "val": None, "test": None}) is None


def test_lists_name_nobody(persons: Callable[[Parts], object]) -> None:
    lists = [[1], [2], [3], [4]]
    with pytest.raises(DataError, match="column 'who' of d does not name persons"):
        persons({"train": lists, "val": lists, "test": lists})


def test_images_that_are_set_apart_have_persons_of_their_own(
    write_parquet: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    names = [f"person {place // 2}" for place in range(40)]  # two images of each
    for split in ("train", "test"):
        columns = {
            "yes": [True, False] * 20,
            "identity": names if split == "train" else [f"new {name}" for name in names],
        }
        write_parquet(tmp_path / "d" / f"{split}.parquet", columns)
    dataset = open_dataset(str(tmp_path / "d"), "yes", image_size=8, cache_dir=cache, audit_share=0.25)
    assert dataset.audit is not None
    found = persons_of(open_raw(str(tmp_path / "d"), ImageSize.of(8), cache_dir=cache), dataset, "identity")
    assert found is not None
    shown = {"train": dataset.splits["train"].ids, "audit": dataset.audit.ids}
    codes_and_names = {
        (code, names[place])
        for split, ids in shown.items()
        for code, place in zip(found[split].tolist(), ids, strict=True)
    }
    assert len(codes_and_names) == 20, "one number for each person"
    assert set(found["audit"].tolist()).isdisjoint(found["train"].tolist())


def test_further_columns_are_those_of_the_images_of_each_split(
    write_parquet: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    """The test split has a file of its own; validation images were set apart from the training ones."""
    values = {"train": ["a", "b", None, "c"] * 10, "test": ["c", "a", "b", "b"]}
    for split, column in values.items():
        write_parquet(tmp_path / "d" / f"{split}.parquet", {"yes": [True, False] * (len(column) // 2), "kind": column})
    dataset = open_dataset(str(tmp_path / "d"), "yes", image_size=8, cache_dir=cache)
    raw = open_raw(str(tmp_path / "d"), ImageSize.of(8), cache_dir=cache)
    found, names = read_columns(raw, dataset, ["kind", "yes"])
    assert names == {"kind": ("a", "b", "c"), "yes": ("no", "yes")}
    for split, part in dataset.splits.items():
        source = values["test" if split == "test" else "train"]
        expected = [-1 if source[row] is None else "abc".index(source[row]) for row in part.ids.tolist()]
        assert found[split]["kind"].tolist() == expected and len(expected) == len(part) > 0
        assert found[split]["yes"].tolist() == part.labels.tolist()
