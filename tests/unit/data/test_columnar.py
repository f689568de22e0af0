"""Hugging Face parquet files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from smartedge.data import open_dataset
from smartedge.errors import DataError

Write = Callable[..., Path]
Coins = Callable[..., list[bool]]


@pytest.fixture
def faces(tmp_path: Path, write_parquet: Write, coins: Coins) -> Path:
    """Three splits with booleans, class labels, numbers and texts."""
    folder = tmp_path / "faces"
    for seed, (split, count) in enumerate([("train", 40), ("validation", 10), ("test", 12)]):
        write_parquet(
            folder / f"{split}.parquet",
            {
                "Smiling": coins(count, seed),
                "Male": coins(count, seed + 9),
                "animal": [i % 3 for i in range(count)],
                "zero_one": [i % 2 for i in range(count)],
                "plus_minus": [1.0 if i % 2 else -1.0 for i in range(count)],
                "number": [5 + 10 * (i % 2) for i in range(count)],
                "text": [["red", "green"][i % 2] for i in range(count)],
                "fraction": [i / 2 for i in range(count)],
                "vector": [[1.0, 2.0]] * count,
            },
            {"image": {"_type": "Image"}, "animal": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}},
        )
    return folder


def test_the_hugging_face_layout(faces: Path, cache: Path, coins: Coins) -> None:
    data = open_dataset(str(faces), "Smiling", sensitive=["Male"], image_size=16, cache_dir=cache)
    assert data.name == "faces"
    assert (data.task.kind, data.task.columns, data.task.names) == ("single", ("Smiling",), ("no", "yes"))
    assert data.sensitive["Male"].names == ("no", "yes")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 40, "val": 10, "test": 12}
    assert data.skipped == {}
    assert all("are training images too" in note for note in data.notes), "each split has the same pictures"
    train = data.splits["train"]
    assert train.labels.dtype == torch.int64
    assert train.labels.tolist() == coins(40, 0)
    assert train.sensitive_labels["Male"].tolist() == coins(40, 9)
    batch = train.read(np.array([7, 3]))
    assert batch.ids.tolist() == [7, 3]
    assert batch.ids.dtype == np.int64
    assert batch.images_BCHW.shape == (2, 3, 16, 16)
    assert batch.images_BCHW.dtype == torch.uint8
    assert batch.images_BCHW[:, :, 8, 8].tolist() == [[70, 185, 7], [30, 225, 7]]
    assert batch.labels.tolist() == [train.labels[7], train.labels[3]]


@pytest.mark.parametrize(
    ("column", "names", "first"),
    [
        ("animal", ("cat", "dog", "emu"), [0, 1, 2, 0]),
        ("zero_one", ("no", "yes"), [0, 1, 0, 1]),
        ("plus_minus", ("no", "yes"), [0, 1, 0, 1]),
        ("number", ("5", "15"), [0, 1, 0, 1]),
        ("text", ("green", "red"), [1, 0, 1, 0]),
    ],
)
def test_kinds_of_labels(column: str, names: tuple[str, ...], first: list[int], faces: Path, cache: Path) -> None:
    data = open_dataset(str(faces), column, image_size=8, cache_dir=cache)
    assert data.task.names == names
    assert data.task.outputs == len(names)
    assert data.splits["train"].labels[:4].tolist() == first


def test_a_list_of_columns_is_a_multi_label_task(faces: Path, cache: Path, coins: Coins) -> None:
    data = open_dataset(str(faces), ["Smiling", "zero_one"], image_size=8, cache_dir=cache)
    assert (data.task.kind, data.task.names) == ("multi", ("Smiling", "zero_one"))
    labels = data.splits["val"].labels
    assert labels.dtype == torch.float32
    assert labels[:, 0].tolist() == coins(10, 1)
    assert labels[:4, 1].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("desired", "message"),
    [
        ("smilling", r"no column 'smilling'; did you mean 'Smiling'\? Its columns are: Male, Smiling, animal"),
        ("qqqq", r"no column 'qqqq'\. Its columns are"),
        ("Smiling, animal", r"no column 'Smiling, animal'; for several columns write a list: \[Smiling, animal\]\."),
        (["Smiling", "animal"], r"'animal' of faces has 3 classes \(cat, dog, emu\).* name it alone"),
        (["Smiling", "Smiling"], "Smiling is named more than once"),
        ([], "the list of columns is empty"),
        ("fraction", r"holds fractions such as 0\.5: measured values cannot be learned .*sort the values into classes"),
        ("vector", "of type list<.*cannot be a label"),
    ],
)
def test_columns_that_cannot_be_labels(desired: str | list[str], message: str, faces: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(str(faces), desired, image_size=8, cache_dir=cache)


def test_a_column_cannot_be_kept_and_hidden(faces: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="Male cannot be desired and sensitive at once"):
        open_dataset(str(faces), ["Smiling", "Male"], sensitive=["Male"], image_size=8, cache_dir=cache)


def test_a_column_that_a_split_lacks(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"a": [True, False], "b": [True, False]})
    write_parquet(tmp_path / "d" / "test.parquet", {"a": [True, False]})
    with pytest.raises(DataError, match="no column 'b' in its test split"):
        open_dataset(str(tmp_path / "d"), "b", image_size=8, cache_dir=cache)


def test_labels_that_are_missing_or_out_of_range_are_counted(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    folder = tmp_path / "d"
    count = 100
    kinds = {"animal": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    for split in ("train", "val", "test"):
        flags: list[bool | None] = [i % 2 == 0 for i in range(count)]
        animals = [i % 2 for i in range(count)]
        numbers = [float(i % 2) for i in range(count)]
        texts: list[str | None] = ["ab"[i % 2] for i in range(count)]
        if split == "train":
            flags[4], animals[7], animals[8], numbers[9], texts[10], texts[11] = None, -1, 2, float("nan"), " ", None
        write_parquet(
            folder / f"{split}.parquet", {"flag": flags, "animal": animals, "number": numbers, "text": texts}, kinds
        )

    def opened(desired: str, *sensitive: str) -> tuple[list[int], dict[str, int]]:
        data = open_dataset(str(folder), desired, sensitive=sensitive, image_size=8, cache_dir=cache)
        return sorted(set(range(count)) - set(data.splits["train"].ids.tolist())), dict(data.skipped)

    assert opened("flag") == ([4], {"no label in column 'flag'": 1})
    assert opened("animal") == ([7, 8], {"no label, or one outside 0..1, in column 'animal'": 2})
    assert opened("number") == ([9], {"no label in column 'number'": 1})
    assert opened("text") == ([10, 11], {"no label in column 'text'": 2})
    assert opened("flag", "number")[0] == [4, 9]


def test_too_many_missing_labels_are_an_error(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"flag": [None, None, True, False] * 5})
    with pytest.raises(DataError, match=r"10 of the 20 images in the train split.*row 0: no label in column 'flag'"):
        open_dataset(str(tmp_path / "d"), "flag", image_size=8, cache_dir=cache)


def test_a_column_without_values(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"flag": [None] * 4})
    with pytest.raises(DataError, match="'flag' of d holds no value at all"):
        open_dataset(str(tmp_path / "d"), "flag", image_size=8, cache_dir=cache)


def test_shards_in_a_data_folder(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    names = ["train-00000-of-00002", "train-00001-of-00002", "valid-00000-of-00001", "test-00000-of-00001"]
    for number, name in enumerate(names):
        write_parquet(tmp_path / "d" / "data" / f"{name}.parquet", {"x": [number % 2, 1 - number % 2, 1]})
    data = open_dataset(str(tmp_path / "d"), "x", image_size=8, cache_dir=cache)
    assert data.splits["train"].labels.tolist() == [0, 1, 1, 1, 0, 1]
    assert len(data.splits["val"]) == 3


def test_images_by_path_and_as_plain_bytes(
    tmp_path: Path, cache: Path, write_parquet: Write, picture: Callable[..., bytes]
) -> None:
    folder = tmp_path / "d"
    write_parquet(folder / "train.parquet", {"x": [0, 1]}, images=[{"bytes": None, "path": f"{n}.png"} for n in "ab"])
    for shade, name in ((10, "a"), (20, "b")):
        (folder / f"{name}.png").write_bytes(picture(shade))
    for split in ("val", "test"):
        write_parquet(folder / f"{split}.parquet", {"x": [0, 1]}, images=[picture(30), picture(40)], column="img")
    data = open_dataset(str(folder), "x", image_size=8, cache_dir=cache)
    shades = [data.splits[split].read(np.arange(2)).images_BCHW[:, 0, 4, 4].tolist() for split in ("train", "test")]
    assert shades == [[10, 20], [30, 40]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["/{outside}", "../outside.png", "data/../../outside.png"])
def test_a_row_names_a_file_outside_the_data_set(
    tmp_path: Path, cache: Path, write_parquet: Write, picture: Callable[..., bytes], *, name: str, stream: bool
) -> None:
    """A table from a stranger must not choose which files of this machine become training images."""
    (tmp_path / "outside.png").write_bytes(picture(10))
    named = name.format(outside=str(tmp_path / "outside.png").lstrip("/"))
    table = tmp_path / "d" / "train.parquet"
    write_parquet(table, {"x": [0, 1]}, images=[{"bytes": picture(1), "path": named}, {"bytes": None, "path": named}])
    with pytest.raises(DataError, match=r"train\.parquet: .* names the file '.*outside\.png', which lies outside"):
        open_dataset(str(table.parent), "x", image_size=8, cache_dir=cache, cache_bytes=0 if stream else None)


def test_a_row_names_a_file_in_another_folder_of_the_data_set(
    tmp_path: Path, cache: Path, write_parquet: Write, picture: Callable[..., bytes]
) -> None:
    images = [{"bytes": None, "path": "../images/a.png"}, {"bytes": None, "path": "../linked/b.png"}]
    write_parquet(tmp_path / "d" / "data" / "train.parquet", {"x": [0, 1] * 5}, images=images * 5)
    for folder, name in ((tmp_path / "d" / "images", "a.png"), (tmp_path / "elsewhere", "b.png")):
        folder.mkdir()
        (folder / name).write_bytes(picture(10))
    (tmp_path / "d" / "linked").symlink_to(tmp_path / "elsewhere")
    data = open_dataset(str(tmp_path / "d"), "x", image_size=8, cache_dir=cache)
    assert not data.skipped


def test_files_that_cannot_be_used(tmp_path: Path, cache: Path, write_parquet: Write) -> None:
    def message(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(str(path), "x", image_size=8, cache_dir=cache)
        return str(caught.value)

    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    broken = message(tmp_path / "broken.parquet")
    assert re.search(r"broken\.parquet is no Parquet file that can be read: .*; fetch or write it again$", broken)
    twice = pa.Table.from_arrays([pa.array([b"1"]), pa.array([1]), pa.array([2])], ["image", "x", "x"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    assert "twice.parquet has more than one column 'x'; rename one" in message(tmp_path / "twice.parquet")
    for name in ("train", "val", "valid"):
        write_parquet(tmp_path / "both" / f"{name}.parquet", {"x": [1]})
    assert "val.parquet and " in message(tmp_path / "both") and "are both the val split" in message(tmp_path / "both")
    plain = write_parquet(tmp_path / "plain.parquet", {"x": [1]}, images=["a"], column="words")
    assert "no column that is known to hold images" in message(plain)
    write_parquet(tmp_path / "odd" / "train-0.parquet", {"x": [1]})
    write_parquet(tmp_path / "odd" / "train-1.parquet", {"y": [1]})
    assert "belong to one split but differ in columns: x, y" in message(tmp_path / "odd")
    write_parquet(tmp_path / "untrained" / "test.parquet", {"x": [1]})
    assert "has no training split; it has: test" in message(tmp_path / "untrained")
