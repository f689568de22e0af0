"""The settings of a small cloud, and the headers of what one edge sends to it first."""

from __future__ import annotations

import dataclasses
import json

from headers import stream_header

from smartedge.config import load_config

__all__ = ["CONFIG", "HEADER", "VAL"]

CONFIG = load_config(
    {
        "epochs": 2,
        "data": {"image_size": 32},
        "model": {"name": "narrow:build", "cut": "layer3", "bottleneck": None},
        "train": {"batch_size": 4},
        "hardware": {"cloud_device": "cpu"},
    }
)
HEADER = stream_header(
    agreement=json.dumps(CONFIG.agreement()), codec="uint8", feature_shape=(256, 2, 2), frames=2, train_steps=2
)
VAL = dataclasses.replace(HEADER, split="val", first_seq=2, frames=1)
