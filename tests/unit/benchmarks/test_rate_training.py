"""One front's log, sent by a codec: what benchmarks/rate_accuracy.py trains a back on."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from rate_tasks import Sent
from rate_training import run_edge, train_back

from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.config import load_config

LIMIT = {"train": 32, "val": 16, "test": 16}


@pytest.mark.parametrize(("key", "codec"), [("2x2x2", "uint4"), ("8x2x2+20", "learned-20")])
def test_a_front_is_logged_as_it_is_and_sent_by_its_codec(
    tmp_path: Path, drawn_faces: Path, key: str, codec: str
) -> None:
    data: dict[str, Any] = {"path": "drawn", "desired": "smile", "image_size": 16, "limit": LIMIT}
    data["cache_dir"] = str(drawn_faces)
    base = {
        "schedule": "freeze-and-log",
        "epochs": 1,
        "data": data,
        "model": {"name": "narrow:build", "cut": "layer1", "exit": {"width": 8, "depth": 1}},
        "train": {"batch_size": 8},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }
    config = load_config(load_config(base), Sent(key).changes)
    run_edge(config, tmp_path)
    with contextlib.closing(FeatureLog(tmp_path / "log")) as log:
        assert {header.codec for header in log.streams} == {"float32"}
        sending = load_config(config, {"codec": {"name": codec, "bytes": None}})
        figures = train_back(sending, log, tmp_path / "back", Sent(key))
    assert 0 < figures["bytes_up_per_image"] < 200
    assert 0 <= figures["test"]["balanced_accuracy"] <= 1  # it learned from what was sent
