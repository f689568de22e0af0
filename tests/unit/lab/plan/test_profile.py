from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartedge.artifacts.profile import Profile
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError
from smartedge.lab.plan.profile import load_profile, save_profile
from smartedge.lab.plan.published import device_names, load_device, scale
from smartedge.lab.plan.survey import _start, thin


def test_a_profile_survives_being_carried(profile: Profile, config: Config, tmp_path: Path) -> None:
    file = tmp_path / "somewhere" / "edge.json"
    save_profile(profile, file)
    assert load_profile(file, config) == profile


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data.pop("whole"), "whole"),
        (lambda data: data.update(schema_version=2), "is of version 2, and this program knows 1"),
        (lambda data: data["cuts"][0]["front_step"].update(seconds=-1.0), "front_step"),
        (lambda data: data.update(extra=1), "extra"),
        (lambda data: data["whole"].update(state_bytes=-1), "state_bytes"),
        (lambda data: data["whole"]["step"].update(seconds=float("inf")), "seconds"),
        (lambda data: data["cuts"][0].update(edge_peak_bytes=-1), "edge_peak_bytes"),
        (lambda data: data["cuts"][0].update(shape=[]), "shape"),
        (lambda data: data["cuts"][0].update(shape=[8, -4, 4]), "shape"),
        (lambda data: data["cuts"][0].update(index=2), "stem: 'index' is not the place among all_cuts"),
        (lambda data: data.update(all_cuts=[]), "stem, early, late: 'index'"),
        (lambda data: data["cuts"].append(data["cuts"][0]), "one is given twice"),
        (lambda data: data.update(outputs=0), "outputs"),
        (lambda data: data.update(compute_watts=-5.0), "compute_watts"),
        (lambda data: data.update(slowdown=float("inf")), "slowdown"),
    ],
)
def test_a_damaged_profile_names_what_is_wrong(
    spoil: Callable[[dict[str, Any]], Any], says: str, profile: Profile, config: Config, tmp_path: Path
) -> None:
    data = profile.model_dump(mode="json")
    spoil(data)
    (tmp_path / "edge.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=says):
        load_profile(tmp_path / "edge.json", config)


def test_a_profile_that_is_not_there_says_how_to_make_one(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smartedge profile"):
        load_profile(tmp_path / "edge.json", config)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "resnet34"}},
        {"model": {"bottleneck": "8x4x4"}},
        {"train": {"batch_size": 32}},
        {"data": {"image_size": 32}},
        {"dp": {"mechanism": "gaussian", "clip": 1.0, "sigma": 1.0}},
    ],
)
def test_a_profile_of_another_network_is_refused(
    change: dict[str, Any], profile: Profile, config: Config, tmp_path: Path
) -> None:
    save_profile(profile, tmp_path / "edge.json")
    with pytest.raises(ConfigError, match="other settings"):
        load_profile(tmp_path / "edge.json", load_config(config, change))


def test_what_does_not_change_a_step_does_not_matter(profile: Profile, config: Config, tmp_path: Path) -> None:
    save_profile(profile, tmp_path / "edge.json")
    changes = {"epochs": 99, "model": {"cut": "late"}, "schedule": "freeze-and-log", "train": {"lr": 0.5}}
    load_profile(tmp_path / "edge.json", load_config(config, changes))


def test_thinning_keeps_the_narrowest_of_each_stretch_and_what_was_asked_for() -> None:
    cuts = {f"c{i}": (i, 100 - i, 10 if i % 10 == 7 else 100) for i in range(100)}
    kept = thin(cuts, 10, keep="c42")
    assert kept == ["c7", "c17", "c27", "c37", "c42", "c57", "c67", "c77", "c87", "c97"]
    assert thin({"a": (1, 2, 3), "b": (2, 1, 3)}, 10, keep="a") == ["a", "b"]


@pytest.mark.parametrize("name", device_names())
def test_every_machine_that_ships_loads_and_scales(name: str, profile: Profile) -> None:
    device = load_device(name)
    assert device.name == name and device.sources
    scaled = scale(profile, device)
    assert scaled.kind == "scaled" and name in scaled.notes[-1] and scaled.compute_watts == device.watts
    # 300 MFLOP forward, three times that in a step of 7 ms.
    factor = 3 * 3e8 / 7e-3 / (device.peak_gflops * 1e9 * device.utilisation)
    assert scaled.cuts[1].front_step.seconds == pytest.approx(3e-3 * factor, rel=1e-9)
    assert scaled.cuts[1].codecs["uint8"].bytes_per_image == profile.cuts[1].codecs["uint8"].bytes_per_image
    host = factor if device.computes_on == "cpu" else 1.0
    assert scaled.cuts[1].codecs["uint8"].encode.seconds == pytest.approx(2e-5 * host, rel=1e-9)
    on_host = [(scaled.data, 5e-5), (scaled.cuts[1].release, 3e-5), (scaled.whole.release, 2e-5)]
    on_host += [(scaled.cuts[1].codecs["uint8"].decode, 1e-5), (scaled.whole.codecs["jpeg"].decode, 1e-4)]
    steps = [(scaled.cuts[1].back_step_gradient, 4.4e-3), (scaled.cuts[1].split_backward, 1.5e-3)]
    steps += [(scaled.whole.step, 7e-3), (scaled.whole.forward, 2.3e-3), (scaled.cuts[1].back_forward, 4e-3 / 3)]
    for timings, by in ((on_host, host), (steps, factor)):
        for timing, seconds in timings:
            assert (timing.seconds, timing.cpu_seconds) == pytest.approx((seconds * by, seconds * by), rel=1e-9)
    assert scaled.whole.step.first_seconds == pytest.approx(0.4 * factor, rel=1e-9)
    assert scaled.cuts[1].build_seconds == pytest.approx(0.5 * host, rel=1e-9)
    assert scaled.whole.build_seconds == pytest.approx(0.4 * host, rel=1e-9)
    assert (
        scaled.name == name and f"the times of test bench × {factor:.3g}, from {3 * 0.3 / 7e-3:.3g} " in scaled.notes[0]
    )


def test_there_are_edges_and_clouds() -> None:
    assert {load_device(name).role for name in device_names()} == {"edge", "cloud"}


def test_an_unknown_machine_lists_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="raspberry-pi-4"):
        load_device("toaster")


@pytest.mark.skipif(not hasattr(os, "getsid"), reason="no sessions there")
def test_ctrl_c_reaches_no_measuring_process() -> None:
    with _start() as child:
        child.kill()  # it would import torch
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
