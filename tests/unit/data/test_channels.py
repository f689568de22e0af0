"""Images of other channels than red, green and blue: files, arrays, .npz, and data sets given in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smartedge.config import load_config
from smartedge.data import open_dataset
from smartedge.data.layouts.in_python import keep_given
from smartedge.errors import DataError
from smartedge.images.size import ImageSize
from smartedge.launch.datasets import dataset_of, with_given_data

PIXELS = np.random.default_rng(0).integers(256, size=(24, 8, 12, 5), dtype=np.uint8)
LABELS = np.arange(24) % 2
FIVE = ImageSize(8, 12, 5)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_npz_files_of_five_channels(first: bool, deep: bool, tmp_path: Path, cache: Path) -> None:
    pixels = PIXELS.astype(np.uint16) << 8 if deep else PIXELS
    pixels = pixels.transpose(0, 3, 1, 2) if first else pixels
    arrays = {f"{split}_images": pixels for split in ("train", "val", "test")}
    np.savez(tmp_path / "m.npz", **arrays, train_labels=LABELS, val_labels=LABELS, test_labels=LABELS)
    data = open_dataset(str(tmp_path / "m.npz"), "label", image_size=FIVE, cache_dir=cache)
    found = data.splits["train"].read(np.arange(24)).images_BCHW
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1), PIXELS)
    with pytest.raises(DataError, match=r"said in data.image_size: HEIGHTxWIDTHxCHANNELS"):
        open_dataset(str(tmp_path / "m.npz"), "label", image_size=16, cache_dir=cache)


@pytest.mark.parametrize("given", [PIXELS, torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()), PIXELS / 255])
def test_arrays_of_five_channels_are_given_in_python(given: object, tmp_path: Path, cache: Path) -> None:
    keep_given({"train": (given, LABELS)}, tmp_path / "kept", ("label",), 5)
    data = open_dataset(str(tmp_path / "kept"), "label", image_size=FIVE, cache_dir=cache)
    split = data.splits["train"]
    np.testing.assert_array_equal(split.read(np.arange(len(split))).images_BCHW.permute(0, 2, 3, 1), PIXELS[split.ids])
    with pytest.raises(DataError, match=r"shape .*data.image_size"):
        keep_given({"train": (given, LABELS)}, tmp_path / "other", ("label",))


def test_the_settings_say_how_many_channels_given_arrays_have(tmp_path: Path, cache: Path) -> None:
    config = load_config({"run_dir": str(tmp_path / "run"), "data": {"image_size": "8x12x5", "cache_dir": str(cache)}})
    whole = dataset_of(with_given_data(config, {"train": (PIXELS, LABELS)}))
    assert whole.splits["train"].read(np.arange(2)).images_BCHW.shape == (2, 5, 8, 12)
