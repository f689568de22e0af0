"""The header of a stream: every fact of the settings, the method and the schedule in its place."""

from __future__ import annotations

import json

import pytest

from smartedge.config import load_config
from smartedge.edge.streams import Streams
from smartedge.types import Task

TASK = Task("multi", ("smile", "hat", "beard"), ("smile", "hat", "beard"))


@pytest.mark.parametrize(
    ("settings", "split", "dtype", "codec", "answered", "joined"),
    [
        ({"codec": {"name": "uint4"}}, "train", "float32", "uint4", False, 2),
        ({"schedule": "freeze-and-log"}, "val", "float32", "uint8", False, 40),
        ({"method": "split"}, "train", "float32", "float32", True, 2),
        ({"method": "split"}, "val", "float32", "float32", False, 2),
        ({"method": "upload"}, "train", "uint8", "image", False, 2),
    ],
)
def test_every_fact_is_in_its_place(settings, split, dtype, codec, answered, joined) -> None:
    config = load_config({"train": {"batch_size": 5}}, settings)
    header = Streams(config, "a run", TASK, (2, 3, 4), 7).header(6, split, 100, 40)
    assert (header.run, header.epoch, header.split, header.train_steps) == ("a run", 6, split, 7)
    assert (header.first_seq, header.frames, header.end_seq, header.batch_size) == (100, 40, 140, 5)
    assert (header.task_kind, header.outputs, header.labels) == ("multi", 3, True)
    assert (header.feature_shape, header.feature_dtype, header.codec) == ((2, 3, 4), dtype, codec)
    assert header.answer_shape == ((2, 3, 4) if answered else None) and header.joined_frames == joined
    assert json.loads(header.agreement) == json.loads(json.dumps(config.agreement()))
