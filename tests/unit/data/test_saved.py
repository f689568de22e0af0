"""Folders of `datasets.save_to_disk`, and other Arrow files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from smartedge.data import DataSet, open_dataset
from smartedge.errors import DataError

Picture = Callable[..., bytes]
FEATURES = {"image": {"_type": "Image"}, "animal": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


@pytest.fixture
def opened(cache: Path) -> Callable[..., DataSet]:
    """``opened(folder)`` opens a data set of small images by its column ``animal``."""
    return lambda folder: open_dataset(str(folder), "animal", image_size=8, cache_dir=cache)


def save(folder: Path, images: list[Any], *, files: int = 1, form: str = "stream") -> None:
    """As `datasets` saves one split: its rows in streams, its metadata in the schema, and a state."""
    folder.mkdir(parents=True)
    labels = [number % 2 for number in range(len(images))]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(images, kind), "animal": labels})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    for number, name in enumerate(names):
        part = table.slice(number * len(images) // files, len(images) // files)
        make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with make(str(folder / name), table.schema) as writer:
            writer.write_table(part, max_chunksize=7)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "cache-0123abc.arrow").write_bytes(b"a result that the library keeps")


def pictures(picture: Picture, count: int, first: int = 0) -> list[dict[str, object]]:
    return [{"bytes": picture(first + number), "path": None} for number in range(count)]


@pytest.mark.parametrize("form", ["stream", "file"])
def test_splits(form: str, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    save(tmp_path / "d" / "train", pictures(picture, 40), files=2, form=form)
    save(tmp_path / "d" / "test", pictures(picture, 10, 100), form=form)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = opened(tmp_path / "d")
    assert data.task.names == ("cat", "dog")
    test = data.splits["test"].read(np.arange(10))
    assert test.images_BCHW[:, 0, 4, 4].tolist() == list(range(100, 110))
    assert test.labels.tolist() == [0, 1] * 5
    assert len(data.splits["train"]) == 36


def test_one_split_and_one_file(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    save(tmp_path / "d", pictures(picture, 40))
    assert opened(tmp_path / "d").splits["train"].ids.max() >= 38
    assert len(opened(tmp_path / "d" / "data-00000-of-00001.arrow").splits["train"]) == 32


def test_images_that_are_named_by_path(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    save(tmp_path / "d", [{"bytes": None, "path": f"{number}.png"} for number in range(40)])
    for number in range(40):
        (tmp_path / "d" / f"{number}.png").write_bytes(picture(number))
    train = opened(tmp_path / "d").splits["train"]
    assert train.read(np.arange(len(train))).images_BCHW[:, 0, 4, 4].tolist() == train.ids.tolist()
    for number in range(40):
        (tmp_path / "d" / f"{number}.png").write_bytes(picture(100 + number))
    assert opened(tmp_path / "d").splits["train"].read(np.array([0])).images_BCHW[0, 0, 4, 4] >= 100


def test_a_part_that_is_missing(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    save(tmp_path / "d", pictures(picture, 40), files=2)
    (tmp_path / "d" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match="these numbers are missing: 1"):
        opened(tmp_path / "d")


def test_rows_in_an_order_of_their_own(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    save(tmp_path / "d", pictures(picture, 40))
    (tmp_path / "d" / "state.json").write_text('{"_indices_data_files": [{"filename": "indices.arrow"}]}')
    with pytest.raises(DataError, match=r"state\.json says .* flatten_indices"):
        opened(tmp_path / "d")


def test_a_damaged_file(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    save(tmp_path / "d", pictures(picture, 40))
    file = tmp_path / "d" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow is no Arrow file that can be read"):
        opened(tmp_path / "d")


def test_a_stream_of_which_a_part_would_be_lost(
    tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    save(tmp_path / "d" / "train", pictures(picture, 40))
    file = tmp_path / "d" / "train" / "data-00000-of-00001.arrow"
    whole, ends = file.read_bytes(), []
    with pa.memory_map(str(file)) as mapped:
        reader = pa.ipc.open_stream(mapped)
        for _ in reader:
            ends.append(mapped.tell())
    for content, said in [
        (whole[: ends[2]], "its end is missing: it was cut off"),
        (whole[: ends[-1]], "its end is missing"),
        (whole[: ends[2]] + b"\xff" * 4 + b"\0" * 4 + whole[ends[2] :], f"more behind its end at byte {ends[2] + 8}"),
    ]:
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            opened(tmp_path / "d")
