"""A log as ``freeze-and-log`` fills it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from headers import stream_header

from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.codec import get_codec, pack
from smartedge.privacy.release import release
from smartedge.types import Frame
from smartedge.wire.frame import serialise

SHAPE = (2, 3, 3)


@pytest.fixture
def log(tmp_path) -> Iterator[FeatureLog]:
    """Frames of 22 training, 6 validation and 6 test images, each once, as ``freeze-and-log`` sends them."""
    generator = torch.Generator().manual_seed(3)
    with contextlib.closing(FeatureLog(tmp_path / "log")) as opened:
        seq = 0
        for split, images in (("train", 22), ("val", 6), ("test", 6)):
            header = stream_header(
                feature_shape=SHAPE, epoch=2, split=split, first_seq=seq, frames=-(-images // 4), train_steps=5
            )
            opened.begin(header)
            for start in range(0, images, 4):
                ids = torch.arange(start, min(start + 4, images))
                labels = torch.randint(0, 2, (len(ids),), generator=generator)
                features = torch.randn(len(ids), *SHAPE, generator=generator) + labels[:, None, None, None]
                batch = pack(release(ids.numpy(), features.numpy(), labels.numpy()), get_codec("float32"))
                opened.append(seq, *serialise(Frame(seq, batch), header))
                seq += 1
        yield opened
