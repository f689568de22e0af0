"""The examples, and the files that `smartedge init` writes, hold settings that exist."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from smartedge.config import Config, load_config
from smartedge.data.drawn.parts import ATTRIBUTES

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_loads_and_says_what_it_is_for(path: Path) -> None:
    config = load_config(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"smartedge train examples/{path.name}" in text
    assert config.run_dir != Config().run_dir


def test_examples_do_not_share_run_directories() -> None:
    folders = [load_config(path).run_dir for path in EXAMPLES]
    assert len(set(folders)) == len(folders)


def test_the_examples_cover_the_methods_schedules_and_tasks() -> None:
    configs = [load_config(path) for path in EXAMPLES]
    assert {config.schedule for config in configs} == {"joint", "two-stage", "freeze-and-log"}
    assert {type(config.data.desired) for config in configs} == {str, tuple}
    assert any(config.model.bottleneck for config in configs)
    assert {config.dp.mechanism for config in configs} >= {"none", "gaussian", "randomised-response"}
    assert any(config.adversary.exits for config in configs)
    baselines = next(path for path in EXAMPLES if path.stem == "baselines")
    for method in ("upload", "split", "local"):
        assert load_config(baselines, [f"method={method}"]).method == method


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_columns_to_learn_exist_in_the_data(path: Path, request: pytest.FixtureRequest) -> None:
    data = load_config(path).data
    if data.path == "drawn":
        known = set(ATTRIBUTES)
    elif path.stem == "medical-npz":
        known = {"label"}
    elif path.stem == "medical-pair":
        known = {"label_0", "label_1"}
    else:
        folder: Path = request.getfixturevalue("shared_data")
        known = set(pq.read_schema(folder / Path(data.path).name / "train.parquet").names)
    wanted = {data.desired} if isinstance(data.desired, str) else set(data.desired)
    assert wanted | set(data.sensitive) <= known


def test_a_loop_of_ones_own_runs(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what it sends goes through the gate: no codec is called past it."""
    text = (repo_root / "examples" / "own_loop.py").read_text(encoding="utf-8")
    assert ".encode(" not in text
    assert "smartedge.pack(released, codec)" in text
    monkeypatch.setattr(sys, "argv", ["own_loop.py", "--images", "100", "--epochs", "1"])
    runpy.run_path(str(repo_root / "examples" / "own_loop.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "epoch 1: loss at the exit" in printed
    assert "% right" in printed


@pytest.mark.slow
def test_the_medical_pair_is_drawn_trained_audited_and_certified(repo_root: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "medical"
    how = ["--images", "240", "--epochs", "1", "--budget", "8", "--quiet", "--run-dir", str(run_dir)]
    command = [sys.executable, str(repo_root / "examples" / "medical_pair.py"), *how]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    for said in ("finding, learned in the cloud:", "sex, read from what was sent:", "no attacker exceeds"):
        assert said in found.stdout
    with np.load(run_dir.with_suffix(".npz"), allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        finding, sex = arrays["train_labels"].T
    assert shapes["train_images"] == (240, 28, 28) and shapes["test_labels"] == (120, 2)
    # 60 and 40 %: of 120 images each, 26 points are four deviations of the difference.
    assert 0.2 - 0.26 < finding[sex == 0].mean() - finding[sex == 1].mean() < 0.2 + 0.26
