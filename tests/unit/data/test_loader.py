"""Batches, read ahead."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartedge.data import Split, batches, open_dataset
from smartedge.errors import DataError
from smartedge.types import ImageBatch


class Gated(Split):
    """A split without files, whose reads can be counted, held up or made to fail."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.ids = np.arange(count) + 1000
        self.labels = torch.arange(count)
        self.fails_at = fails_at
        self.reads = 0

    def shuffled(self, random: np.random.Generator) -> np.ndarray:
        return random.permutation(np.arange(len(self.ids)))

    def read(self, indices: np.ndarray) -> ImageBatch:
        if self.reads == self.fails_at:
            raise OSError("the disk went away")
        self.reads += 1
        images = torch.from_numpy(indices).to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
        images[..., 0] = 255
        return ImageBatch(self.ids[indices], images, self.labels[indices])


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "smartedge-data"]


def order(split: Split, **options: object) -> list[int]:
    settings = {"batch_size": 4, "seed": 0, "epoch": 0, "shuffle": True, **options}
    return np.concatenate([batch.ids for batch in batches(split, **settings)]).tolist()  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), shuffle=st.booleans(), epoch=st.integers(0, 3))
def test_every_image_comes_once(count: int, batch_size: int, shuffle: bool, epoch: int) -> None:
    loader = batches(Gated(count), batch_size, seed=7, epoch=epoch, shuffle=shuffle)
    seen = list(loader)
    assert len(seen) == len(loader)
    assert all(len(batch.ids) == batch_size for batch in seen[:-1])
    ids = np.concatenate([batch.ids for batch in seen]) - 1000
    assert sorted(ids.tolist()) == list(range(count))
    assert shuffle or ids.tolist() == list(range(count))
    assert torch.cat([batch.labels for batch in seen]).tolist() == ids.tolist()


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    split = Gated(30)
    first = order(split)
    assert first == order(split)
    assert first == order(split, batch_size=7)
    assert first != order(split, epoch=1)
    assert first != order(split, seed=1)
    assert order(split, epoch=1) != order(split, seed=1)


def test_the_last_batch_can_be_dropped() -> None:
    loader = batches(Gated(10), 4, seed=0, epoch=0, shuffle=True, drop_last=True)
    assert [len(batch.ids) for batch in loader] == [4, 4]
    assert len(loader) == 2


@pytest.mark.parametrize("kind", ["flip", "flip-crop"])
def test_augmentation_is_a_function_of_seed_and_epoch(kind: str) -> None:
    def images(seed: int, epoch: int) -> torch.Tensor:
        loader = batches(Gated(24), 8, seed=seed, epoch=epoch, shuffle=False, augment=kind)  # type: ignore[arg-type]
        return torch.cat([batch.images_BCHW for batch in loader])

    first = images(0, 0)
    assert torch.equal(first, images(0, 0))
    assert not torch.equal(first, images(1, 0))
    assert not torch.equal(first, images(0, 1))
    thirds = [(part == 255).int() for part in first.split(8)]
    assert not torch.equal(thirds[0], thirds[1])


def test_time_is_counted() -> None:
    loader = batches(Gated(64), 8, seed=0, epoch=0, shuffle=True, augment="flip")
    assert (loader.busy_seconds, loader.wait_seconds) == (0, 0)
    list(loader)
    assert loader.busy_seconds > 0
    assert loader.wait_seconds > 0


def test_time_of_all_batches_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a second after the one before."""
    clock = itertools.count()
    monkeypatch.setattr("smartedge.data.reading.loader.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    loader = batches(Gated(64), 1, seed=0, epoch=0, shuffle=True)
    list(loader)
    assert loader.busy_seconds >= 64 and loader.wait_seconds >= 64


def test_reading_ahead_is_bounded() -> None:
    split = Gated(1000)
    with batches(split, 1, seed=0, epoch=0, shuffle=False) as loader:
        for taken, _ in enumerate(loader, start=1):
            assert split.reads <= taken + 4  # three that wait, and one in the thread's hands
            if taken == 50:
                break


def test_leaving_early_ends_the_thread() -> None:
    split = Gated(1000)
    for _ in batches(split, 1, seed=0, epoch=0, shuffle=False):
        break
    assert threads() == []
    with batches(split, 1, seed=0, epoch=0, shuffle=False) as loader:
        iterator = iter(loader)
        next(iterator)
        assert len(threads()) == 1
    assert threads() == []
    loader.close()
    assert threads() == []


def test_starting_again_starts_from_the_beginning() -> None:
    loader = batches(Gated(20), 4, seed=0, epoch=0, shuffle=True)
    first = next(iter(loader)).ids.tolist()
    assert next(batch.ids.tolist() for batch in loader) == first
    assert threads() == []


def test_an_error_in_the_thread_reaches_the_consumer() -> None:
    loader = iter(batches(Gated(20, fails_at=2), 4, seed=0, epoch=0, shuffle=False))
    assert [len(next(loader).ids) for _ in range(2)] == [4, 4]
    with pytest.raises(OSError, match="the disk went away"):
        next(loader)
    assert threads() == []


def test_an_unused_error_does_not_keep_the_thread() -> None:
    with batches(Gated(20, fails_at=1), 4, seed=0, epoch=0, shuffle=False) as loader:
        next(iter(loader))
    assert threads() == []


def test_sizes_that_give_no_batch() -> None:
    with pytest.raises(DataError, match="batch_size is 0"):
        batches(Gated(5), 0, seed=0, epoch=0, shuffle=True)
    with pytest.raises(DataError, match="5 images, fewer than one batch of 6"):
        batches(Gated(5), 6, seed=0, epoch=0, shuffle=True, drop_last=True)


def test_from_a_real_split(cache: Path) -> None:
    data = open_dataset("drawn", "beard", image_size=8, limit={"train": 50}, cache_dir=cache)
    train = data.splits["train"]
    for batch in batches(train, 16, seed=3, epoch=0, shuffle=True):
        rows = np.searchsorted(train.ids, batch.ids)
        np.testing.assert_array_equal(batch.images_BCHW, train.read(rows).images_BCHW)
        assert batch.labels.tolist() == train.labels[rows].tolist()
