"""Splits, subsets, and places where there is nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smartedge.data import open_dataset
from smartedge.errors import DataError


@pytest.fixture
def uneven(tmp_path: Path, write_parquet: Callable[..., Path]) -> Path:
    """One file: 60 of class 0, 30 of class 1, 10 of class 2."""
    classes = np.random.default_rng(0).permutation([0] * 60 + [1] * 30 + [2] * 10).tolist()
    flags = [c == 0 for c in classes]
    return write_parquet(tmp_path / "uneven.parquet", {"kind": classes, "flag": flags, "all": [True] * 99 + [False]})


def counts(labels: torch.Tensor) -> list[int]:
    return torch.bincount(labels, minlength=3).tolist()


def test_missing_splits_are_carved_out(uneven: Path, cache: Path) -> None:
    data = open_dataset(str(uneven), "kind", image_size=8, cache_dir=cache)
    assert {split: counts(part.labels) for split, part in data.splits.items()} == {
        "train": [48, 24, 8],
        "val": [6, 3, 1],
        "test": [6, 3, 1],
    }
    ids = np.concatenate([part.ids for part in data.splits.values()])
    assert sorted(ids.tolist()) == list(range(100))
    assert [note.split(":")[0] for note in data.notes] == ["uneven has no val split", "uneven has no test split"]
    val = data.splits["val"]
    assert val.read(np.arange(10)).images_BCHW[:, 0, 0, 0].tolist() == [10 * i % 256 for i in val.ids]


def test_the_seed_decides(uneven: Path, cache: Path) -> None:
    def ids(seed: int, split: str = "val") -> list[int]:
        limit = {"train": 20}
        data = open_dataset(str(uneven), "kind", image_size=8, limit=limit, seed=seed, cache_dir=cache)  # type: ignore[arg-type]
        return data.splits[split].ids.tolist()  # type: ignore[index]

    for split in ("train", "val"):
        assert ids(1, split) == ids(1, split)
        assert ids(1, split) != ids(2, split)


def test_the_seed_decides_a_limit_of_splits_that_are_there(
    tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]
) -> None:
    for split in ("train", "val", "test"):
        write_parquet(tmp_path / "d" / f"{split}.parquet", {"x": [0, 1] * 12})

    def ids(seed: int) -> list[int]:
        data = open_dataset(str(tmp_path / "d"), "x", image_size=8, limit={"train": 8}, seed=seed, cache_dir=cache)
        return data.splits["train"].ids.tolist()

    assert ids(1) == ids(1) != ids(2)


@pytest.mark.parametrize(("limit", "expected"), [(3, [1, 1, 1]), (24, [8, 8, 8]), (40, [16, 16, 8]), (75, [43, 24, 8])])
def test_a_limit_balances_the_classes(limit: int, expected: list[int], uneven: Path, cache: Path) -> None:
    data = open_dataset(str(uneven), "kind", image_size=8, limit={"train": limit}, cache_dir=cache)
    train = data.splits["train"]
    assert counts(train.labels) == expected
    assert (np.diff(train.ids) > 0).all()
    assert counts(data.splits["val"].labels) == [6, 3, 1]


def test_a_limit_of_a_multi_label_task_takes_any(uneven: Path, cache: Path) -> None:
    data = open_dataset(str(uneven), ["flag", "all"], image_size=8, limit={"train": 20, "test": 5}, cache_dir=cache)
    assert data.splits["train"].labels.shape == (20, 2)
    assert len(data.splits["test"]) == 5


def test_a_limit_above_what_there_is(uneven: Path, cache: Path) -> None:
    data = open_dataset(str(uneven), "kind", image_size=8, limit={"val": 500}, cache_dir=cache)
    assert len(data.splits["val"]) == 10
    assert "500 val images were asked for; uneven has 10" in data.notes


def test_a_limit_of_nothing(uneven: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="limit: 0 train images are asked for"):
        open_dataset(str(uneven), "kind", image_size=8, limit={"train": 0}, cache_dir=cache)


def test_too_few_to_divide(tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]) -> None:
    path = write_parquet(tmp_path / "two.parquet", {"x": [0, 1]})
    with pytest.raises(DataError, match=r"no image is left for the train split beside 1 val, 1 test image\(s\)"):
        open_dataset(str(path), "x", image_size=8, cache_dir=cache)


def test_drawn_faces(cache: Path) -> None:
    limit = {"train": 40, "val": 20, "test": 1100}
    data = open_dataset("drawn", "smile", sensitive=["masculine"], image_size=8, limit=limit, cache_dir=cache)  # type: ignore[arg-type]
    assert counts(data.splits["train"].labels)[:2] == [20, 20]
    assert len(data.splits["test"]) == 1100
    other = open_dataset("drawn", "smile", image_size=8, seed=5, cache_dir=cache)
    assert {split: len(part) for split, part in other.splits.items()} == {"train": 4000, "val": 500, "test": 1000}
    row = int(data.splits["train"].ids[0])
    np.testing.assert_array_equal(
        other.splits["train"].read(np.array([row])).images_BCHW, data.splits["train"].read(np.array([0])).images_BCHW
    )


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("drown", r"no data set at .*drown; did you mean drawn\?"),
        ("there", r"did you mean there\.parquet\?"),
        ("qqqqqqqq", r"known by name are drawn, cifar10 and hf:user/name"),
        ("nowhere/at/all", "no data set at"),
        ("words.txt", r"a file of an unknown kind for a data set; it may end in \.arrow, \.feather, \.parquet"),
    ],
)
def test_nothing_there(place: str, message: str, tmp_path: Path, cache: Path) -> None:
    for name in ("there.parquet", "words.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=message):
        open_dataset(str(tmp_path / place), "x", image_size=8, cache_dir=cache)


def test_a_share_is_set_apart_for_the_audit(uneven: Path, cache: Path) -> None:
    whole = open_dataset(str(uneven), "kind", image_size=8, cache_dir=cache)
    data = open_dataset(str(uneven), "kind", sensitive=["flag"], image_size=8, cache_dir=cache, audit_share=0.25)
    assert whole.audit is None and data.audit is not None
    train, apart = data.splits["train"], data.audit
    assert (len(train), len(apart)) == (60, 20) and data.notes[-1].startswith("20 training images were set apart")
    assert sorted([*train.ids, *apart.ids]) == whole.splits["train"].ids.tolist(), "nothing is lost, nothing twice"
    for split in ("val", "test"):
        assert data.splits[split].ids.tolist() == whole.splits[split].ids.tolist()
    batch = apart.read(np.arange(20))
    assert batch.images_BCHW[:, 0, 0, 0].tolist() == [10 * i % 256 for i in apart.ids]
    assert torch.equal(batch.sensitive["flag"], (batch.labels == 0).long())
    again = open_dataset(str(uneven), "kind", image_size=8, cache_dir=cache, audit_share=0.25)
    assert again.audit is not None and again.audit.ids.tolist() == apart.ids.tolist()


def test_nobody_is_in_both_parts(tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]) -> None:
    rng = np.random.default_rng(1)
    persons = [f"person {number}" if number else None for number in rng.integers(40, size=200)]
    file = write_parquet(tmp_path / "faces.parquet", {"kind": rng.integers(2, size=200).tolist(), "identity": persons})
    data = open_dataset(str(file), "kind", image_size=8, cache_dir=cache, audit_share=0.2)
    assert data.audit is not None
    parts = data.splits["train"], data.audit
    named = [{persons[row] for row in part.ids} - {None} for part in parts]
    assert named[0] and named[1] and not named[0] & named[1]
    assert 0.1 < len(data.audit) / 160 <= 0.2
    pairs = [each for part in parts for each in zip(part.ids.tolist(), part.persons.tolist(), strict=True)]
    nameless = [person for row, person in pairs if persons[row] is None]
    assert len(set(nameless)) == len(nameless) > 1, "nobody knows that two of them are one person"


def test_a_person_is_the_same_one_with_spaces_around_the_name(
    tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]
) -> None:
    """As in the audit, which says how many persons the front has seen."""
    names = ["Ada", " Ada ", "Bo", "Bo\t", "", " "] * 10
    file = write_parquet(tmp_path / "faces.parquet", {"kind": [0, 1] * 30, "identity": names})
    data = open_dataset(str(file), "kind", image_size=8, cache_dir=cache)
    train = data.splits["train"]
    named = {(names[row].strip(), int(person)) for row, person in zip(train.ids, train.persons, strict=True)}
    nameless = [person for name, person in named if not name]
    assert len(named) == len(nameless) + 2
    assert len(set(nameless)) == sum(not names[row].strip() for row in train.ids)


def test_a_column_of_lists_names_no_persons(tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]) -> None:
    file = write_parquet(tmp_path / "faces.parquet", {"kind": [0, 1] * 30, "identity": [[1], [2, 3]] * 30})
    with pytest.raises(DataError, match="column 'identity' of faces does not name persons"):
        open_dataset(str(file), "kind", image_size=8, cache_dir=cache)


def test_labels_that_are_lacking(tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]) -> None:
    x, y = [1, 0, None, 1] * 20, [None, 0, 1, 0] * 20
    x[7] = y[7] = None
    write_parquet(tmp_path / "d" / "train.parquet", {"x": x, "y": y, "z": [0, 1] * 40})
    data = open_dataset(str(tmp_path / "d"), ["x", "y"], image_size=8, cache_dir=cache)
    assert data.task.blanks
    assert data.skipped == {"no label in any desired column": 1}
    assert sum(len(split) for split in data.splits.values()) == 79
    train = data.splits["train"]
    for column, given in enumerate((x, y)):
        expected = [np.nan if given[row] is None else given[row] for row in train.ids]
        np.testing.assert_array_equal(train.labels[:, column].numpy(), expected)
    yes = [sum(labels[row] == 1 for row in train.ids) for labels in (x, y)]
    (note,) = (note for note in data.notes if "lacking" in note)
    assert f"x {yes[0]} yes" in note and f"y {yes[1]} yes" in note
    assert not open_dataset(str(tmp_path / "d"), ["z"], image_size=8, cache_dir=cache).task.blanks


def test_labels_that_are_lacking_beside_sensitive_ones(
    tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]
) -> None:
    columns = {"x": [1, 0, None, 1] * 20, "y": [1, 0] * 40, "z": [0, 1] * 40}
    write_parquet(tmp_path / "d" / "train.parquet", columns)
    with pytest.raises(DataError, match=r"20 of the 80 images in the train split .*no label in column 'x'"):
        open_dataset(str(tmp_path / "d"), ["x", "y"], sensitive=["z"], image_size=8, cache_dir=cache)


@pytest.mark.parametrize("values", [list(range(100)), [float(number) for number in range(100)]])
def test_numbers_that_measure_or_name_are_no_classes(
    values: list[float], tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]
) -> None:
    path = write_parquet(tmp_path / "d.parquet", {"x": values, "y": [number // 2 for number in range(100)]})
    with pytest.raises(DataError, match=r"100 different values on 100 images, .*sort the values into classes"):
        open_dataset(str(path), "x", image_size=8, cache_dir=cache)
    assert open_dataset(str(path), "y", image_size=8, cache_dir=cache).task.outputs == 50  # two images of each
