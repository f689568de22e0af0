"""The images that a network's time is measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smartedge.config import Config, load_config
from smartedge.errors import DataError
from smartedge.lab.plan import images
from smartedge.lab.plan.images import sample_images


def settings(tmp_path: Path, **data: Any) -> Config:
    return load_config(
        {
            "run_dir": str(tmp_path / "run"),
            "data": {"image_size": 16, "augment": "none", **data},
            "train": {"batch_size": 4},
        }
    )


@pytest.mark.parametrize(
    ("desired", "kind", "columns", "names", "shape", "dtype"),
    [
        ("smile", "single", ("smile",), ("no", "yes"), (4,), torch.int64),
        (["a", "b", "c"], "multi", ("a", "b", "c"), ("a", "b", "c"), (4, 3), torch.float32),
    ],
)
def test_where_the_data_are_elsewhere_pixels_are_random(desired, kind, columns, names, shape, dtype, tmp_path) -> None:
    path = str(tmp_path / "gone")
    found = sample_images(settings(tmp_path, path=path, desired=desired))
    (batch,) = found.batches
    assert (batch.images_BCHW.shape, batch.images_BCHW.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert batch.images_BCHW.min() < 10 and batch.images_BCHW.max() > 245
    assert batch.ids.tolist() == [0, 1, 2, 3] and (batch.labels.shape, batch.labels.dtype) == (shape, dtype)
    assert set(batch.labels.unique().tolist()) == {0, 1}
    assert (found.task.kind, found.task.columns, found.task.names) == (kind, columns, names)
    assert (found.dataset, found.counts) == (None, {})
    assert found.what == f"random pixels: {path} is not on this machine"
    assert set(found.data.model_dump().values()) == {0.0}
    again = sample_images(settings(tmp_path, path=path, desired=desired)).batches[0]
    assert torch.equal(again.images_BCHW, batch.images_BCHW) and torch.equal(again.labels, batch.labels)


def test_labels_that_are_to_be_hidden_cannot_be_made_up(tmp_path) -> None:
    with pytest.raises(DataError):
        sample_images(settings(tmp_path, path=str(tmp_path / "gone"), sensitive="masculine"))


def test_the_images_are_those_of_the_data_set(tmp_path, drawn_faces, monkeypatch) -> None:
    data = {"cache_dir": str(drawn_faces), "limit": {"train": 16, "val": 5, "test": 3}}
    found = sample_images(settings(tmp_path, **data))
    assert found.what == "images of drawn" and found.counts == {"train": 16, "val": 5, "test": 3}
    assert found.dataset is not None and found.task == found.dataset.task
    split = found.dataset.splits["train"]
    ids = np.concatenate([batch.ids for batch in found.batches])
    assert [len(batch.ids) for batch in found.batches] == [4] * 4
    everything = split.read(np.arange(16))
    places = {id_: place for place, id_ in enumerate(everything.ids.tolist())}
    assert sorted(ids) == sorted(places) and list(ids) != list(places), "each image once, in no order"
    for batch in found.batches:
        at = [places[id_] for id_ in batch.ids.tolist()]
        assert torch.equal(batch.images_BCHW, everything.images_BCHW[at])
        assert torch.equal(batch.labels, everything.labels[at])
    turned = sample_images(settings(tmp_path, **data, augment="flip"))
    assert [batch.ids.tolist() for batch in turned.batches] == [batch.ids.tolist() for batch in found.batches]
    pairs = zip(turned.batches, found.batches, strict=True)
    assert not all(torch.equal(one.images_BCHW, other.images_BCHW) for one, other in pairs)
    few = sample_images(settings(tmp_path, **data | {"limit": {"train": 3, "val": 5, "test": 3}}))
    assert [len(batch.ids) for batch in few.batches] == [3] * 4
    asked: list[int] = []
    monkeypatch.setattr(images, "timed", lambda read, *, images, repeats: asked.append(images) or few.data)
    sample_images(settings(tmp_path, **data | {"limit": {"train": 3, "val": 5, "test": 3}}))
    assert asked == [3], "the time of an image is that of a read ÷ the images that it gives"
