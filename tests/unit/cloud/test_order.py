"""Which frames a step uses: every image at most once in an epoch, in another order in each."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.codec import unpack
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch


def shuffled(log: FeatureLog, seed: int = 0, batch_size: int = 5, threads: int = 0) -> Shuffled:
    def read(key: tuple[str, int]) -> FeatureBatch:
        return unpack(log.frame(key[1]).batch, log.header_of(key[1]))

    return Shuffled({"edge": log}, read, batch_size=batch_size, seed=seed, threads=threads)


def images(frames: Shuffled, epoch: int) -> list[int]:
    return [image for batch in frames.epoch(epoch) for image in batch.ids.tolist()]


def test_every_epoch_shuffles_and_takes_each_image_at_most_once(log):
    frames = shuffled(log)
    assert frames.steps == 4  # of 22 images
    orders = []
    for epoch in range(3):
        assert [len(batch.ids) for batch in frames.epoch(epoch)] == [5, 5, 5, 5]
        orders.append(images(frames, epoch))
        assert len(set(orders[-1])) == 20
    assert orders[0] != orders[1] != orders[2]


def test_the_order_depends_on_seed_and_epoch_alone(log):
    assert images(shuffled(log), 2) == images(shuffled(log), 2) != images(shuffled(log, seed=1), 2)


def test_a_pool_smaller_than_the_data_still_mixes_everything(log, monkeypatch):
    monkeypatch.setattr("smartedge.cloud.order.shuffled._SHUFFLE_FRAMES", 2)
    order = images(shuffled(log), 0)
    assert len(order) == len(set(order)) == 20


def of_second_shard(frames: Shuffled) -> list[FeatureBatch]:
    return [step.shards[1] for step in frames.sharded_epoch(1, shards=2, own=range(2))]


@pytest.mark.parametrize("frames", [2, 64])
def test_what_is_read_ahead_is_the_same(log, frames, monkeypatch):
    monkeypatch.setattr("smartedge.cloud.order.shuffled._SHUFFLE_FRAMES", frames)
    one, several = shuffled(log), shuffled(log, threads=3)
    for mine, theirs in (
        (several.epoch(1), one.epoch(1)),
        (several.split("val"), one.split("val")),
        (of_second_shard(several), of_second_shard(one)),
    ):
        for ahead, plain in zip(mine, theirs, strict=True):
            assert np.array_equal(ahead.ids, plain.ids) and np.array_equal(ahead.labels, plain.labels)
            assert np.array_equal(ahead.features_BF, plain.features_BF)


def test_every_frame_is_passed_on_in_the_order_in_which_it_is_used(log):
    passed: list[tuple[str, int]] = []

    def read(key: tuple[str, int]) -> FeatureBatch:
        return unpack(log.frame(key[1]).batch, log.header_of(key[1]))

    orders = []
    for threads in (0, 3):
        frames = Shuffled(
            {"edge": log}, read, batch_size=5, seed=0, threads=threads, passed=lambda key, _: passed.append(key)
        )
        list(frames.epoch(0))
        orders.append(passed.copy())
        passed.clear()
    assert orders[0] == orders[1] and len(set(orders[0])) == 6, "22 images in frames of 4"


def test_labels_stay_with_their_features(log):
    train = [seq for seq in range(log.next_seq) if log.header_of(seq).split == "train"]
    known = {
        image: (label, features)
        for seq in train
        for batch in [unpack(log.frame(seq).batch, log.header_of(seq))]
        for image, label, features in zip(batch.ids.tolist(), batch.labels.tolist(), batch.features_BF, strict=True)
    }
    for batch in shuffled(log).epoch(0):
        for image, label, features in zip(batch.ids.tolist(), batch.labels.tolist(), batch.features_BF, strict=True):
            assert label == known[image][0]
            assert np.array_equal(features, known[image][1])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_the_images_of_an_epoch(log, workers, monkeypatch):
    """Three shards of steps of seven images: whoever computes a shard gets the same images, none of them twice."""
    monkeypatch.setattr("smartedge.cloud.order.shuffled._SHUFFLE_FRAMES", 6)
    whole = list(shuffled(log, batch_size=7).sharded_epoch(1, shards=3, own=range(3)))
    assert [{number: len(part.ids) for number, part in step.shards.items()} for step in whole] == [
        {0: 3, 1: 2, 2: 2}
    ] * 3
    used = [image for step in whole for part in step.shards.values() for image in part.ids.tolist()]
    assert len(used) == len(set(used)) == 21
    own = np.array_split(np.arange(3), workers)
    shared = [
        list(shuffled(log, batch_size=7).sharded_epoch(1, shards=3, own=range(part[0], part[-1] + 1))) for part in own
    ]
    for step, steps in zip(whole, zip(*shared, strict=True), strict=True):
        found = {number: batch for each in steps for number, batch in each.shards.items()}
        assert list(found) == [0, 1, 2] and {each.images for each in steps} == {7}
        for number, batch in step.shards.items():
            assert np.array_equal(batch.ids, found[number].ids)
            assert np.array_equal(batch.features_BF, found[number].features_BF)


def test_every_shard_of_every_epoch_has_random_numbers_of_its_own(log, monkeypatch):
    seeds = Mock(wraps=derive_seed)
    monkeypatch.setattr("smartedge.cloud.order.shuffled.derive_seed", seeds)
    frames = shuffled(log, batch_size=7, seed=3)
    for epoch in range(2):
        list(frames.sharded_epoch(epoch, shards=3, own=range(3)))
    assert [call.args for call in seeds.call_args_list] == [
        (3, "log", epoch, *shard) for epoch in range(2) for shard in ((), (0,), (1,), (2,))
    ]


def test_a_worker_decodes_the_frames_of_its_own_shards_only(log):
    read: list[tuple[str, int]] = []

    def counting(key: tuple[str, int]) -> FeatureBatch:
        read.append(key)
        return unpack(log.frame(key[1]).batch, log.header_of(key[1]))

    frames = Shuffled({"edge": log}, counting, batch_size=6, seed=0)
    for own in (range(1), range(1, 2), range(2, 3)):
        list(frames.sharded_epoch(0, shards=3, own=own))
    assert len(set(read)) >= 5, "18 images are used, and a frame has 4"
    assert len(read) <= 6 + 2, "a frame is decoded twice only where two shards meet in it"


def test_fewer_images_than_a_step_are_one_step(log):
    (step,) = shuffled(log, batch_size=40).sharded_epoch(0, shards=4, own=range(4))
    assert step.images == 22 and [len(part.ids) for part in step.shards.values()] == [6, 6, 5, 5]


def test_validation_and_test_images_come_as_they_were_sent(log):
    for split in ("val", "test"):
        assert [image for batch in shuffled(log).split(split) for image in batch.ids.tolist()] == list(range(6))
