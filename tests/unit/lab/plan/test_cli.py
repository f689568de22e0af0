"""``smartedge plan`` and ``smartedge profile`` as users call them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from smartedge.artifacts.profile import Profile
from smartedge.cli import app
from smartedge.config import Config, load_config
from smartedge.lab.plan.profile import load_profile, save_profile

Call = Callable[..., int]

TINY = """
from torch import nn

def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""


@pytest.fixture
def files(config: Config, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``run.yaml`` and the profile ``bench.json``; the verbs are listed."""
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    save_profile(profile, tmp_path / "bench.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*argv: str) -> int:
        groups = {"Plan": {"profile": "", "plan": ""}}
        monkeypatch.setattr(app, "VERBS", app.VERBS | groups)
        monkeypatch.setattr(sys, "argv", ["smartedge", *argv])
        return app.main()

    return run


def test_the_table_recommends_and_gives_reasons(files: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    code = call(
        "plan", "run.yaml", "--link", "3g", "--measured", "bench.json", "--edge", "raspberry-pi-4", "--top", "3"
    )
    out = capsys.readouterr().out
    assert code == 0
    lines = out.splitlines()
    heads = "choice s/epoch edge encode link cloud s in all bytes/image MB sent edge MiB edge J depth"
    assert lines[0].split() == heads.split()
    for method in ("hierarchical", "upload", "split", "local"):
        assert any(line.startswith(method) for line in lines), method
    assert "modelled" in out and "raspberry-pi-4 was not measured" in out


def test_json_carries_everything(files: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "run.yaml", "--link", "wifi", "--edge", "bench.json", "--cloud", "bench.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["job"]["images"] == {"train": 640, "val": 64, "test": 128}
    assert len(found["ranked"]) == 41
    assert found["recommended"] == found["ranked"][0]["choice"]
    assert found["chosen"]["method"] == "hierarchical"


def test_write_gives_settings_that_load(files: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("plan", "run.yaml", "--link", "3g", "--measured", "bench.json", "--schedules", "freeze-and-log")
    assert (
        call(*arguments, "--codecs", "uint4", "--cuts", "late", "--write", "best.yaml", "--set", "train.lr=0.01") == 0
    )
    chosen = load_config("best.yaml")
    assert (chosen.schedule, chosen.model.cut, chosen.codec.name) == ("freeze-and-log", "late", "uint4")
    expected = load_config(
        "run.yaml",
        {"schedule": "freeze-and-log", "model": {"cut": "late"}, "codec": {"name": "uint4"}, "train": {"lr": 0.01}},
    )
    assert chosen == expected


def test_plot_and_constraints(files: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    limits = ("--max-edge-memory", "570M", "--max-bytes", "20M", "--min-depth", "early")
    arguments = ("plan", "run.yaml", "--link", "4g", "--measured", "bench.json", "--top", "0")
    assert call(*arguments, *limits, "--plot", "plan.png") == 0
    out = capsys.readouterr().out
    assert "not allowed: edge memory" in out and "bytes" in out and "depth" in out
    assert Path("plan.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--link", "5g"], "--link 5g"),
        (["--link", "3g", "--max-bytes", "much"], "--max-bytes much"),
        (["--link", "3g", "--images", "few"], "--images"),
        (["--link", "3g", "--methods", "magic"], "choose among hierarchical"),
        (["--link", "3g", "--cuts", "nowhere"], "--cuts: nowhere"),
        (["--link", "3g", "--codecs", "uint5"], "--codecs: uint5: not in the profile of test bench"),
        (["--link", "3g", "--images", "999999999999"], "each at most 100,000,000"),
        (["--link", "3g", "--set", "data.limit={train: 999999999999, val: 1, test: 1}"], "each at most 100,000,000"),
        (["--link", "3g", "--edge", "toaster"], "raspberry-pi-4"),
        (["--link", "3g", "--edge", "gone.json"], "gone.json"),
        (["--link", "3g", "--min-depth", "2"], "--min-depth 2"),
        (["--link", "3g", "--max-edge-memory", "1k", "--write", "x.yaml"], "nothing is written"),
        (["--link", "3g", "--plot", "x.bmp"], "--plot x.bmp"),
    ],
)
def test_what_cannot_be_is_a_setting_error(
    arguments: list[str], says: str, files: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("plan", "run.yaml", "--measured", "bench.json", *arguments) == 2
    assert says in capsys.readouterr().err
    assert not Path("x.yaml").exists()


@pytest.mark.parametrize("option", ["--write", "--plot"])
def test_a_place_that_takes_no_file_is_told_before_anything_is_measured(
    option: str, files: Path, call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartedge.cli.plan._profiles", lambda *_: pytest.fail("it was measured"))
    assert call("plan", "run.yaml", "--link", "3g", option, "bench.json/x.png") == 2
    assert "bench.json/x.png: a file is where a folder should be" in capsys.readouterr().err


def test_images_may_be_given(files: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call("plan", "run.yaml", "--link", "3g", "--measured", "bench.json", "--images", "50000", "--epochs", "2", "--json")
    job = json.loads(capsys.readouterr().out)["job"]
    assert (job["images"], job["epochs"]) == ({"train": 50000, "val": 5000, "test": 5000}, 2)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tinynet.py").write_text(TINY)
    settings: dict[str, Any] = {
        "epochs": 2,
        "run_dir": "run",
        "data": {"image_size": 16, "limit": {"train": 32, "val": 8, "test": 8}, "cache_dir": str(tmp_path / "cache")},
        "model": {"name": "tinynet:build", "cut": "1", "bottleneck": None, "exit": {"width": 8, "depth": 1}},
        "train": {"batch_size": 8},
        "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_real_profile_is_measured_and_planned_with(
    tiny: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--cuts", "1,3", "--codecs", "float32,uint8,jpeg", "--repeats", "2", "--watts", "3")
    assert call("profile", "tiny.yaml", "--out", "here.json", *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "here.json"
    profile = load_profile(Path("here.json"), load_config("tiny.yaml"))
    assert [(cut.name, cut.shape) for cut in profile.cuts] == [("1", (4, 8, 8)), ("3", (8, 4, 4))]
    assert (profile.kind, profile.threads, profile.compute_watts) == ("measured", 1, 3.0)
    assert profile.features == "images of drawn"
    assert set(profile.cuts[0].codecs) == {"float32", "uint8"} and set(profile.whole.codecs) == {"jpeg"}
    assert profile.cuts[0].codecs["float32"].bytes_per_image == 4 * 4 * 8 * 8
    assert 10**8 < profile.cuts[0].edge_peak_bytes < 10**10
    # Parameters of front and exit, twice more for AdamW.
    assert profile.cuts[0].front_state_bytes > 3 * 4 * (4 * 27 + 4)
    for timing in (profile.whole.step, profile.cuts[1].back_step, profile.cuts[0].front_step, profile.data):
        assert 0 < timing.seconds < 1
    assert call("plan", "tiny.yaml", "--link", "local", "--edge", "here.json", "--cloud", "here.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["choice"]["cut"] for row in found["ranked"]} == {"1", "3", None}


@pytest.mark.slow
def test_an_unknown_cut_is_told_before_anything_is_written(
    tiny: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("profile", "tiny.yaml", "--cuts", "7", "--out", "here.json", "--repeats", "1") == 2
    assert "--cuts: 7: no such cut; choose among 0, 1, 2, 3, 4, 5, or all" in capsys.readouterr().err
    assert not Path("here.json").exists()
