"""A made-up profile with round figures: resnet-like, three cuts, each codec's time and size by its elements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartedge.artifacts.plan import Job
from smartedge.artifacts.profile import Profile
from smartedge.config import Config, load_config
from smartedge.lab.plan.job import Setting, job_of
from smartedge.lab.plan.links import parse_link
from smartedge.lab.plan.profile import network_of


def timing(milliseconds: float, *, first: float = 0.0) -> dict[str, float]:
    seconds = milliseconds / 1000
    return {"seconds": seconds, "cpu_seconds": seconds, "spread": 0.02, "first_seconds": first}


def codecs(elements: int) -> dict[str, Any]:
    sizes = {"float32": 4.0, "uint8": 0.5, "uint4": 0.25}
    return {
        name: {
            "encode": timing(0.02),
            "decode": timing(0.01),
            "bytes_per_image": size * elements,
            "rmse": 0.0 if name == "float32" else 0.01 / size,
        }
        for name, size in sizes.items()
    }


def cut(name: str, index: int, shape: tuple[int, int, int], front_ms: float, back_ms: float) -> dict[str, Any]:
    elements = shape[0] * shape[1] * shape[2]
    return {
        "name": name,
        "index": index,
        "shape": shape,
        "front_flops": int(1e6 * front_ms),
        "back_flops": int(1e6 * back_ms),
        "front_step": timing(front_ms, first=0.3),
        "front_forward": timing(front_ms / 3),
        "split_forward": timing(front_ms / 3),
        "split_backward": timing(front_ms / 2),
        "release": timing(0.03),
        "back_step": timing(back_ms, first=0.2),
        "back_step_gradient": timing(1.1 * back_ms),
        "back_forward": timing(back_ms / 3),
        "build_seconds": 0.5,
        "edge_peak_bytes": 500 * 10**6 + int(20e6 * front_ms),
        "front_state_bytes": int(4e6 * front_ms),
        "back_state_bytes": int(30e6 * back_ms),
        "codecs": codecs(elements),
    }


def profile_of(config: Config, **changes: Any) -> Profile:
    image = {"encode": timing(0.1), "decode": timing(0.1), "rmse": 0.0}
    values = {
        "schema_version": 1,
        "kind": "measured",
        "name": "test bench",
        "notes": (),
        "date": "2026-01-01T00:00:00+00:00",
        "machine": {"cores": 2},
        "versions": {},
        "device": "cpu",
        "threads": 1,
        "cores": 2,
        "network": network_of(config).model_dump(),
        "features": "images of nothing",
        "outputs": 2,
        "all_cuts": ("stem", "early", "late", "pool"),
        "left_out": {},
        "cuts": (
            cut("stem", 1, (64, 16, 16), 1.0, 6.0),
            cut("early", 2, (64, 8, 8), 3.0, 4.0),
            cut("late", 3, (128, 4, 4), 5.0, 2.0),
        ),
        "whole": {
            "step": timing(7.0, first=0.4),
            "forward": timing(2.3),
            "flops": 300_000_000,
            "build_seconds": 0.4,
            "peak_bytes": 800 * 10**6,
            "baseline_bytes": 400 * 10**6,
            "state_bytes": 130 * 10**6,
            "release": timing(0.02),
            "codecs": {"image": image | {"bytes_per_image": 9000.0}, "jpeg": image | {"bytes_per_image": 2500.0}},
        },
        "data": timing(0.05),
        "transport": {
            "seconds_per_frame": 1e-3,
            "seconds_per_byte": 2e-9,
            "cpu_seconds_per_frame": 1e-3,
            "cpu_seconds_per_byte": 2e-9,
        },
        "checkpoint": {"seconds": 0.01, "seconds_per_byte": 2e-9},
        "slowdown": 1.2,
        "compute_watts": 5.0,
    }
    return Profile.model_validate(values | changes)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(
        {
            "epochs": 6,
            "run_dir": str(tmp_path / "run"),
            "data": {"image_size": 64, "limit": {"train": 640, "val": 64, "test": 128}},
            "model": {"cut": "early"},
            "train": {"batch_size": 64},
            "hardware": {"threads": 1},
        }
    )


@pytest.fixture
def make_profile(config: Config) -> Callable[..., Profile]:
    return lambda **changes: profile_of(config, **changes)


@pytest.fixture
def profile(config: Config) -> Profile:
    return profile_of(config)


@pytest.fixture
def job(config: Config) -> Job:
    return job_of(config, {"train": 640, "val": 64, "test": 128}, 2)


@pytest.fixture
def make_setting(profile: Profile) -> Callable[..., Setting]:
    def make(link: str, **changes: Any) -> Setting:
        edge, cloud = changes.pop("edge", profile), changes.pop("cloud", profile)
        return Setting(edge, cloud, parse_link(link), **changes)

    return make
