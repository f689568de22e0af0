"""Runs with both sides on a GPU, beside the same on the CPU. CI has no GPU: run this file where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import PROTECTED, share_key

from smartedge.artifacts.results import Results
from smartedge.config import Config
from smartedge.lab.audit import suite
from smartedge.lab.audit.certificate.run import certify
from smartedge.lab.audit.certificate.settings import CertifySettings
from smartedge.lab.audit.settings import AuditSettings
from smartedge.lab.plan.survey import measure_here
from smartedge.runs.progress import Quiet, Update
from smartedge.training import train

DEVICE = "cuda"
DEVICES = {"cpu": "cpu", "gpu": DEVICE}
WITHOUT_DROPOUT: dict[str, Any] = {"model": {"args": {"dropout": 0.0}}}  # each device draws numbers of its own

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA knows")


def on(device: str) -> dict[str, Any]:
    return {"hardware": {"edge_device": device, "cloud_device": device}}


def losses(run_dir: Path) -> np.ndarray:
    """All losses of both sides, in the order in which they were written."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["loss"] for row in sorted(rows, key=lambda row: (row["side"], row["epoch"], row["split"]))])


PLAIN: dict[str, dict[str, Any]] = {
    "joint": {},
    "two-stage": {"schedule": "two-stage"},
    "split": {"method": "split"},
    "images once": {"method": "upload", "schedule": "freeze-and-log", "data": {"augment": "flip-crop"}},
    "once, in shards": {"schedule": "freeze-and-log", "cloud": {"shards": 2}},
    "on the edge": {"method": "local"},
}


@pytest.mark.parametrize("changes", PLAIN.values(), ids=PLAIN)
def test_a_gpu_learns_what_the_cpu_learns(tiny_config: Callable[..., Config], changes: dict[str, Any]) -> None:
    runs = [tiny_config(name, **{**WITHOUT_DROPOUT, **changes, **on(device)}) for name, device in DEVICES.items()]
    for config in runs:
        train(config, single_process=True, monitor=Quiet())
    cpu, gpu = (losses(config.run_dir) for config in runs)
    assert cpu == pytest.approx(gpu, rel=0.01), "18 updates of a small network in float32"


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "freeze-and-log", "train": {"precision": "bfloat16", "channels_last": True}},
        {"codec": {"name": "learned", "bytes": 60}, "train": {"precision": "bfloat16"}},
        PROTECTED["taught"],
        PROTECTED["codewords"],
    ],
    ids=["bfloat16", "learned codec", "taught", "codewords"],
)
def test_other_ways_train_on_a_gpu(tiny_config: Callable[..., Config], changes: dict[str, Any]) -> None:
    """Their random numbers or their rounding differ from the CPU's, so the losses do too."""
    runs = [tiny_config(name, **{**changes, **on(device)}) for name, device in DEVICES.items()]
    share_key(*(config.run_dir for config in runs))
    for config in runs:
        train(config, single_process=True, monitor=Quiet())
    cpu, gpu = (losses(config.run_dir) for config in runs)
    assert cpu == pytest.approx(gpu, rel=0.3)


class Broken(Exception):
    """Ends a run in its second epoch."""


class Breaks(Quiet):
    def update(self, update: Update) -> None:
        if (update.side, update.phase, update.done) == ("cloud", "train", 8):
            raise Broken


@pytest.mark.parametrize("schedule", ["joint", "freeze-and-log"])
def test_a_resumed_run_ends_as_one_that_went_through(tiny_config: Callable[..., Config], schedule: str) -> None:
    """With dropout: a random state that is not restored shows. A GPU adds in no fixed order, so not bit for bit."""
    whole, broken = (tiny_config(name, schedule=schedule, **on(DEVICE)) for name in ("whole", "broken"))
    train(whole, single_process=True, monitor=Quiet())
    with pytest.raises(Broken):
        train(broken, single_process=True, monitor=Breaks())
    train(broken, resume=True, single_process=True, monitor=Quiet())
    assert losses(broken.run_dir) == pytest.approx(losses(whole.run_dir), rel=1e-3)


def test_a_protected_run_is_audited_certified_and_planned(tiny_config: Callable[..., Config]) -> None:
    """The attackers run on the cloud's device."""
    data = {"limit": {"train": 128, "val": 20, "test": 60}, "audit_share": 0.25}
    protected = {**PROTECTED["gaussian"], "schedule": "freeze-and-log", "train": {"precision": "bfloat16"}}
    config = tiny_config("protected", epochs=1, data=data, **protected, **on(DEVICE))
    results = train(config, single_process=True, monitor=Quiet())
    assert isinstance(results, Results) and np.isfinite(losses(config.run_dir)).all()
    asked = AuditSettings(attacks=("linear", "mlp", "deep", "membership"), seeds=1)
    found = suite.audit(config.run_dir, asked, Quiet())
    best = found.attributes["masculine"].best
    assert best is not None and 0 <= best.balanced_accuracy <= 1
    bound = certify(config.run_dir, CertifySettings(label_known=False), Quiet())
    assert 0.5 <= bound.attributes["masculine"].bound <= 1
    profile, _ = measure_here(config, monitor=Quiet(), cuts=("stage1",), repeats=1)
    assert profile.device == DEVICE and profile.cuts[0].back_step.seconds > 0
