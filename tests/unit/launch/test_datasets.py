"""The data set of a run: named by its settings, or given in Python."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smartedge.config import load_config
from smartedge.errors import ConfigError, DataError
from smartedge.launch.datasets import dataset_of, with_given_data

COUNT = 80


def write_splits(folder: Path, **columns: Any) -> Path:
    """Plain pictures in three equal splits; ``columns`` are those of each split, ``train_hat`` of one alone."""
    folder.mkdir()
    for split in ("train", "val", "test"):
        images = []
        for number in range(COUNT):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 100, 100)).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": f"{number}.png"})
        own = {name: columns.get(f"{split}_{name}", values) for name, values in columns.items() if "_" not in name}
        pq.write_table(pa.table({"image": images, **own}), folder / f"{split}.parquet")
    return folder


def opened(folder: Path, **settings: Any) -> Any:
    data = {"path": str(folder), "desired": "smile", "image_size": 8, "cache_dir": str(folder.parent / "cache")}
    return dataset_of(load_config({**settings, "data": {**data, **settings.get("data", {})}}))


MIXED = np.random.default_rng(0).permutation(COUNT) % 2 == 0


def test_a_column_that_is_constant_in_the_images_that_are_used_cannot_be_hidden(tmp_path: Path) -> None:
    """With ``data.limit`` or ``data.shard`` the rare class may be gone: suppression would do nothing, in silence."""
    folder = write_splits(tmp_path / "d", smile=MIXED, hat=np.arange(COUNT) == 3)
    hide = {"sensitive": ["hat"], "audit_share": 0}
    assert opened(folder, data=hide).splits["train"].sensitive_labels["hat"].sum() == 1
    parts = [{**hide, "shard": f"{part}/4"} for part in range(1, 5)]
    refused = 0
    for part in parts:
        try:
            opened(folder, data=part)
        except DataError:
            refused += 1
            with pytest.raises(DataError, match=r"all 20 training images that are used are of one class \(no\)"):
                opened(folder, data=part)
    assert refused == 3, "one part has the image that differs"
    with pytest.raises(DataError, match=r"all 4 training images that are used are of one class \(no\).*data\.limit"):
        opened(folder, data={**hide, "limit": {"train": 4}})


def test_what_training_cannot_hide_is_said(tmp_path: Path) -> None:
    kinds = np.where(MIXED, "felt", "straw")
    folder = write_splits(tmp_path / "d", smile=MIXED, hat=kinds, test_hat=np.where(MIXED, "felt", "wool"))
    notes = opened(folder, data={"sensitive": ["hat"]}).notes
    assert any(
        "some test images are of a class that no training image has" in note and "wool" in note for note in notes
    )
    assert any("column 'hat' follows from the desired label" in note for note in notes)
    half = write_splits(tmp_path / "e", smile=MIXED, hat=np.roll(MIXED, 1))
    assert not [note for note in opened(half, data={"sensitive": ["hat"]}).notes if "column 'hat'" in note]


@pytest.mark.parametrize("desired", ["smile", ["hat", "smile"]])
def test_labels_in_the_order_of_the_images_cannot_be_randomised(tmp_path: Path, desired: Any) -> None:
    """A frame names the places of its images. In a sorted data set they tell the labels."""
    dp = {"mechanism": "gaussian", "sigma": 1.0, "label_epsilon": 1.0}
    settings = {"schedule": "freeze-and-log", "dp": dp, "model": {"bottleneck": "2x2x2"}, "data": {"desired": desired}}
    folder = write_splits(tmp_path / "sorted", smile=np.sort(MIXED), hat=MIXED)
    with pytest.raises(DataError, match=r"dp\.label_epsilon: the train images of sorted stand in the order"):
        opened(folder, **settings)
    opened(folder, **{**settings, "dp": {**dp, "label_epsilon": None}})
    opened(write_splits(tmp_path / "mixed", smile=MIXED, hat=MIXED), **settings)


def test_labels_of_test_images_that_are_in_order_cannot_be_randomised_either(tmp_path: Path) -> None:
    """They are sent with their places too. Where they go without noise, nothing is said about them."""
    dp = {"mechanism": "gaussian", "sigma": 1.0, "label_epsilon": 1.0}
    settings = {"schedule": "freeze-and-log", "dp": dp, "model": {"bottleneck": "2x2x2"}}
    folder = write_splits(tmp_path / "d", smile=MIXED, test_smile=np.sort(MIXED))
    with pytest.raises(DataError, match=r"dp\.label_epsilon: the test images of d stand in the order"):
        opened(folder, **settings)
    opened(folder, **{**settings, "dp": {**dp, "apply_to": "training"}})


def test_with_randomised_labels_it_does_not_depend_on_a_label_which_images_are_used(tmp_path: Path) -> None:
    """Frames name the images. Equal classes, taken from a known permutation, tell the labels of many of them."""
    dp = {"mechanism": "gaussian", "sigma": 1.0, "label_epsilon": 1.0}
    settings = {
        "schedule": "freeze-and-log",
        "dp": dp,
        "model": {"bottleneck": "2x2x2"},
        "data": {"limit": {"train": 30}},
    }
    clear = {**settings, "dp": {**dp, "label_epsilon": None}}

    def used(folder: Path, settings: Any) -> list[list[int]]:
        return [split.ids.tolist() for split in opened(folder, **settings).splits.values()]

    folders = []
    for name, labels in (("one", MIXED), ("other", MIXED & (np.arange(COUNT) % 3 > 0))):
        folders.append(write_splits(tmp_path / name, smile=labels))
        for split in ("val", "test"):  # they are set apart from the training images
            (folders[-1] / f"{split}.parquet").unlink()
    one, other = (used(folder, settings) for folder in folders)
    assert one == other and [len(ids) for ids in one] == [30, 8, 8]
    in_clear = [used(folder, clear) for folder in folders]
    assert all(first != second for first, second in zip(*in_clear, strict=True)), "labels decide where they are sent"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_in_the_order_of_what_is_to_be_hidden_are_refused(tmp_path: Path, split: str) -> None:
    """Their places tell the column to everybody who sees the frames, whatever the front has unlearned."""
    hide = {"sensitive": ["hat"], "audit_share": 0}
    folder = write_splits(tmp_path / "d", smile=MIXED, hat=np.roll(MIXED, 1), **{f"{split}_hat": np.sort(MIXED)})
    with pytest.raises(DataError, match=rf"data\.sensitive: the {split} images of d stand in the order of 'hat'"):
        opened(folder, data=hide)
    opened(folder)  # nobody asked that it be hidden
    opened(folder, method="local", data=hide)  # nothing is sent


def test_a_given_data_set_is_kept_with_the_run(tmp_path: Path) -> None:
    arrays = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    config = load_config({"run_dir": str(tmp_path / "run")})
    known = with_given_data(config, arrays)
    assert (known.data.path, known.data.desired) == (str(tmp_path / "run" / "data"), "label")
    file = tmp_path / "run" / "data" / "train.parquet"
    assert pq.read_schema(file).names == ["image", "label"]
    named = load_config({"run_dir": str(tmp_path / "run"), "data": {"desired": "age"}})
    assert with_given_data(named, arrays).data.desired == "age"
    assert pq.read_schema(file).names == ["image", "age"]
    (tmp_path / "run" / "edge").mkdir()
    (tmp_path / "run" / "edge" / "run.json").touch()  # the run has begun
    assert with_given_data(config, arrays) == known  # a run that goes on uses what it began with
    assert pq.read_schema(file).names == ["image", "age"]
    with pytest.raises(ConfigError, match=r"data\.path: leave it out"):
        with_given_data(load_config({"data": {"path": "elsewhere"}, "run_dir": str(tmp_path / "run")}), arrays)


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
def test_images_of_another_shape_come_as_the_settings_say(tmp_path: Path, fit: str) -> None:
    """The middle half of each picture is bright, and a crop keeps nothing else."""
    picture = np.zeros((8, 32, 3), np.uint8)
    picture[:, 8:24] = 200
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    (folder := tmp_path / "d").mkdir()
    table = pa.table({"image": [{"bytes": file.getvalue(), "path": "a.png"}] * COUNT, "smile": MIXED})
    for split in ("train", "val", "test"):
        pq.write_table(table, folder / f"{split}.parquet")
    image = opened(folder, data={"fit": fit}).splits["train"].read(np.arange(1)).images_BCHW[0]
    left, top = image[0, 4, 0].item(), image[0, 0, 4].item()
    assert (left > 150) == (fit == "crop"), "a crop leaves out the dark sides"
    assert (top > 150) == (fit != "letterbox"), "a letterbox has bars above and below"
