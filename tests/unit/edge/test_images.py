"""The batches in which an edge goes through its images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from smartedge.config import load_config
from smartedge.data import DataSet
from smartedge.data.dataset import Split
from smartedge.edge.images import Images
from smartedge.errors import ConfigError
from smartedge.types import Task

TASK = Task("single", ("smile",), ("no", "yes"))


class Store:
    """Images that differ at every place, so that augmented ones are no image of the store."""

    streamed = False

    def shuffled(self, indices: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return random.permutation(len(indices))

    def read(self, indices: np.ndarray) -> Tensor:
        places = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
        return torch.stack([places + int(index) for index in indices])


@pytest.fixture
def images_of() -> Callable[..., Images]:
    """``images_of(train=7, method=...)``: of so many training images, in batches of four."""

    def make(train: int = 7, test: int = 5, **changes: object) -> Images:
        counts = {"train": train, "val": 1, "test": test}
        splits = {
            name: Split(Store(), np.arange(count), torch.zeros(count, dtype=torch.int64), {})  # type: ignore[arg-type]
            for name, count in counts.items()
            if count
        }
        config = load_config({"train": {"batch_size": 4}, "data": {"path": "faces"}, "seed": 3}, changes)
        return Images(config, DataSet("faces", TASK, splits))  # type: ignore[arg-type]

    return make


def ids(batches: object) -> list[list[int]]:
    return [batch.ids.tolist() for batch in batches]  # type: ignore[attr-defined]


def as_stored(batches: object) -> list[bool]:
    return [torch.equal(batch.images_BCHW, Store().read(batch.ids)) for batch in batches]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("train", "sizes"), [(3, [3]), (4, [4]), (7, [4]), (8, [4, 4]), (11, [4, 4])])
def test_a_last_batch_that_is_not_full_is_left_out_unless_it_is_the_only_one(
    images_of: Callable[..., Images], train: int, sizes: list[int]
) -> None:
    images = images_of(train)
    assert [len(batch) for batch in ids(images.training(0))] == sizes and images.steps == len(sizes)


def test_training_images_are_shuffled_by_seed_and_epoch_and_others_keep_their_order(
    images_of: Callable[..., Images],
) -> None:
    orders = [ids(images_of(12, seed=seed).training(epoch)) for seed in (3, 4) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4 and ids(images_of(12).training(1)) == orders[1]
    assert ids(images_of().whole("test")) == [[0, 1, 2, 3], [4]]


def test_images_are_augmented_where_the_edge_learns_from_them_alone(images_of: Callable[..., Images]) -> None:
    assert not any(as_stored(images_of().training(0)))
    assert all(as_stored(images_of(data={"augment": "none"}).training(0)))
    assert all(as_stored(images_of(method="upload").training(0))), "the cloud augments them"
    assert all(as_stored(images_of().whole("train")))


@pytest.mark.parametrize(("counts", "split"), [({"train": 1}, "train"), ({"test": 0}, "test")])
def test_too_few_images_are_an_error(images_of: Callable[..., Images], counts: dict[str, int], split: str) -> None:
    images_of(train=2, test=1)
    with pytest.raises(ConfigError, match=rf"data\.path: faces has too few images in its split '{split}'"):
        images_of(**counts)
