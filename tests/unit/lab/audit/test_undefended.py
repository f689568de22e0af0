"""A run that is named as the undefended reference: what it may differ in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smartedge.config import load_config
from smartedge.errors import ConfigError
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.undefended import _check_comparable, training_differences

PLAIN: dict[str, Any] = {"model": {"bottleneck": None}, "data": {"audit_share": 0.1}}
PROTECTED: dict[str, Any] = {
    "model": {"bottleneck": "4x1x1"},
    "data": {"sensitive": ["masculine"]},
    "adversary": {"exits": ["mlp"]},
    "dp": {"mechanism": "gaussian", "sigma": 0.4},
    "codec": {"name": "uint8"},
    "schedule": "freeze-and-log",
    "train": {"distill": {"epochs": 2}},
}
NAMED = Path("runs/plain")


def check(evidence_of: Callable[..., RunEvidence], **changes: Any) -> None:
    parts = [torch.zeros(20, 2)] * 3, [torch.arange(20) % 2] * 3
    plain = {**PLAIN, "schedule": "joint"}
    for key, value in changes.items():
        plain[key] = {**PLAIN.get(key, {}), **value} if isinstance(value, dict) else value
    _check_comparable(evidence_of(*parts, **PROTECTED), evidence_of(*parts, **plain), NAMED)


def test_protection_may_differ_and_what_else_does_is_told(evidence_of: Callable[..., RunEvidence]) -> None:
    check(evidence_of)
    check(evidence_of, train={"lr": 0.01}, data={"cache_bytes": 1})
    plain, protected = load_config({**PLAIN, "schedule": "freeze-and-log"}), load_config(PROTECTED)
    assert training_differences(protected, plain) == ()
    other = load_config({**PLAIN, "seed": 3, "train": {"lr": 0.01}, "epochs": 4})
    assert training_differences(protected, other) == (
        "seed is 3, and 0 in the audited run",
        "train.front_epochs is 4, and 6 in the audited run",  # with the schedule 'joint' its front learned for 4
        "train.lr is 0.01, and 0.001 in the audited run",
    )
    labels = load_config({**PROTECTED, "dp": {"mechanism": "gaussian", "sigma": 0.4, "label_epsilon": 2}})
    assert training_differences(labels, plain) == ("dp.label_epsilon is none, and some in the audited run",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"audit_share": 0.2}}, r"data.audit_share is 0.2, and 0.1 in the audited run"),
        ({"data": {"audit_share": None}}, r"data.audit_share is 0.0, and 0.1"),
        ({"data": {"augment": "none"}}, r"data.augment is none, and flip"),
        ({"data": {"fit": "squash"}}, r"data.fit is squash, and crop"),
        ({"data": {"shard": "1/2"}}, r"data.shard is 1/2, and None"),
        ({"data": {"mean": [0.1, 0.1, 0.1]}}, r"data.mean is \[0.1, 0.1, 0.1\], and None"),
        ({"data": {"desired": "hat"}}, r"data.desired is hat, and smile"),
        ({"model": {"cut": "layer2"}}, r"model.cut is layer2, and layer1"),
        ({"model": {"small_input": False}}, r"model.small_input is False, and True"),
        ({"model": {"exit": {"width": 8}}}, r"model.exit.width is 8, and 128"),
        ({"method": "split"}, r"method is split, and hierarchical"),
        ({"data": {"augment": "none", "fit": "squash"}}, r"data.augment is none.*; data.fit is squash"),
    ],
)
def test_other_images_and_networks_are_refused_by_name(
    changes: dict[str, Any], says: str, evidence_of: Callable[..., RunEvidence]
) -> None:
    with pytest.raises(ConfigError, match=f"--undefended {NAMED}: .*{says}"):
        check(evidence_of, **changes)
