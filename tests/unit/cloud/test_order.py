"""Which frames a step uses: every image at most once in an epoch, in another order in each."""

from __future__ import annotations

import numpy as np

from smartedge.cloud.order import Shuffled, next_in_sequence
from smartedge.cloud.store import FeatureLog
from smartedge.codec import unpack_frame
from smartedge.types import FeatureBatch


def shuffled(log: FeatureLog, seed: int = 0) -> Shuffled:
    def read(key: tuple[str, int]) -> FeatureBatch:
        return unpack_frame(log.frame(key[1]), log.header_of(key[1]))

    return Shuffled({"edge": log}, read, batch_size=5, seed=seed)


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
    monkeypatch.setattr("smartedge.cloud.order._SHUFFLE_FRAMES", 2)
    order = images(shuffled(log), 0)
    assert len(order) == len(set(order)) == 20


def test_labels_stay_with_their_features(log):
    train = [seq for seq in range(log.next_seq) if log.header_of(seq).split == "train"]
    known = {
        image: (label, features)
        for seq in train
        for batch in [unpack_frame(log.frame(seq), log.header_of(seq))]
        for image, label, features in zip(batch.ids.tolist(), batch.labels.tolist(), batch.features_BF, strict=True)
    }
    for batch in shuffled(log).epoch(0):
        for image, label, features in zip(batch.ids.tolist(), batch.labels.tolist(), batch.features_BF, strict=True):
            assert label == known[image][0]
            assert np.array_equal(features, known[image][1])


def test_validation_and_test_images_come_as_they_were_sent(log):
    for split in ("val", "test"):
        assert [image for batch in shuffled(log).split(split) for image in batch.ids.tolist()] == list(range(6))


def test_a_sequence_waits_for_its_next_frame(log):
    assert [next_in_sequence(log, learned) for learned in (0, log.next_seq - 1, log.next_seq)] == [
        0,
        log.next_seq - 1,
        None,
    ]
