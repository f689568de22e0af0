"""Training from frames: a function of settings and frames, resumable, and with every image once per epoch."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from headers import stream_header
from torch import nn

from smartedge.cloud.store import FeatureLog
from smartedge.cloud.trainer import BackTrainer
from smartedge.codec import get_codec, pack, unpack_frame
from smartedge.config import load_config
from smartedge.privacy.release import release
from smartedge.runs.progress import Quiet
from smartedge.types import Frame
from smartedge.wire.frame import receive, serialise

SHAPE = (2, 3, 3)


def back() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 2))


@pytest.fixture
def log(tmp_path):
    """Frames of 22 training, 6 validation and 6 test images, each once, as ``freeze-and-log`` sends them."""
    generator = torch.Generator().manual_seed(3)
    with contextlib.closing(FeatureLog(tmp_path / "log")) as opened:
        seq = 0
        for split, images in (("train", 22), ("val", 6), ("test", 6)):
            header = stream_header(
                feature_shape=SHAPE, epoch=2, split=split, first_seq=seq, frames=-(-images // 4), train_steps=5
            )
            opened.add_stream(header)
            for start in range(0, images, 4):
                ids = torch.arange(start, min(start + 4, images))
                labels = torch.randint(0, 2, (len(ids),), generator=generator)
                features = torch.randn(len(ids), *SHAPE, generator=generator) + labels[:, None, None, None]
                batch = pack(release(ids.numpy(), features.numpy(), labels.numpy()), get_codec("float32"))
                opened.append(receive(serialise(Frame(seq, batch), header), header))
                seq += 1
        yield opened


def trainer(folder, *, resume: bool = False, **changes) -> BackTrainer:
    folder.mkdir(exist_ok=True)
    config = load_config({"epochs": 4, "schedule": "freeze-and-log", "train": {"batch_size": 5, "lr": 0.01}, **changes})
    return BackTrainer(config, back(), device=torch.device("cpu"), folder=folder, monitor=Quiet(), resume=resume)


def test_the_same_log_gives_the_same_weights(log, tmp_path):
    trained = []
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)  # what others drew does not matter
        one = trainer(tmp_path / name)
        one.train_from_log(log)
        trained.append(one.back.state_dict())
        assert one.finished
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_stopped_and_resumed_gives_the_same_weights(log, tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.train_from_log(log)
    broken = trainer(tmp_path / "broken")

    class StopInThirdEpoch:
        def is_set(self) -> bool:
            return broken.step >= 10

    broken.train_from_log(log, stop=StopInThirdEpoch())
    assert not broken.finished
    resumed = trainer(tmp_path / "broken", resume=True)
    assert 0 < resumed.epoch < 4
    resumed.train_from_log(log)
    assert resumed.test == whole.test
    for name, tensor in whole.back.state_dict().items():
        assert torch.equal(tensor, resumed.back.state_dict()[name])


def test_every_epoch_shuffles_and_takes_each_image_at_most_once(log, tmp_path):
    one = trainer(tmp_path / "run")
    train = [seq for seq in range(log.next_seq) if log.header_of(seq).split == "train"]
    orders = []
    for one.epoch in range(3):
        batches = list(one._shuffled(log, train, steps=4))
        assert [len(batch.ids) for batch in batches] == [5, 5, 5, 5]
        order = [image for batch in batches for image in batch.ids.tolist()]
        assert len(set(order)) == 20
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]


def test_a_pool_smaller_than_the_data_still_mixes_everything(log, tmp_path, monkeypatch):
    monkeypatch.setattr("smartedge.cloud.trainer._SHUFFLE_FRAMES", 2)
    one = trainer(tmp_path / "run")
    train = [seq for seq in range(log.next_seq) if log.header_of(seq).split == "train"]
    order = [image for batch in one._shuffled(log, train, steps=4) for image in batch.ids.tolist()]
    assert len(order) == len(set(order)) == 20


def test_labels_stay_with_their_features(log, tmp_path):
    one = trainer(tmp_path / "run")
    train = [seq for seq in range(log.next_seq) if log.header_of(seq).split == "train"]
    known = {
        image: (label, features)
        for seq in train
        for batch in [unpack_frame(log.frame(seq), log.header_of(seq))]
        for image, label, features in zip(batch.ids.tolist(), batch.labels.tolist(), batch.features_BF, strict=True)
    }
    for batch in one._shuffled(log, train, steps=4):
        for image, label, features in zip(batch.ids.tolist(), batch.labels.tolist(), batch.features_BF, strict=True):
            assert label == known[image][0]
            assert np.array_equal(features, known[image][1])
