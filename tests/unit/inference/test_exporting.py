"""Networks as ONNX."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from audit_example import JUDGED, attribute_block, example_audit
from torch import Tensor, nn

from smartedge.artifacts.attacks import KindFigures
from smartedge.artifacts.front import AuditReach, CertifiedAttribute
from smartedge.config import load_config
from smartedge.errors import FrontError
from smartedge.inference import exporting
from smartedge.inference.exporting import _difference, _to_onnx


class Halves(nn.Module):
    """Averages quarters of an image that is padded as TensorFlow does: by a number that depends on its size."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.pad(x, [0, x.shape[-1] % 2, 0, x.shape[-2] % 2]), 2)


@pytest.mark.slow
def test_what_the_older_exporter_cannot_express_the_newer_one_does() -> None:
    module, example = Halves().eval(), torch.rand(2, 3, 7, 7)
    assert _difference(_to_onnx(module, example, "x", "y"), "x", module, torch.rand(8, 3, 7, 7)) < 1e-6


def test_batches_of_any_size() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    network = onnxruntime.InferenceSession(_to_onnx(module, torch.rand(2, 3, 8, 8), "x", "y"))
    for batch in (1, 7):
        inputs = torch.rand(batch, 3, 8, 8)
        with torch.no_grad():
            np.testing.assert_allclose(network.run(None, {"x": inputs.numpy()})[0], module(inputs), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_neither_can_express_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    class Chooses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x.flatten(2) @ x.flatten(2).transpose(1, 2)).real

    with pytest.raises(FrontError, match="cannot become ONNX"):
        _to_onnx(Chooses().eval(), torch.rand(2, 3, 4, 4), "x", "y")
    assert "graph" not in capfd.readouterr().out  # the older exporter prints it by itself


def test_a_full_disk_is_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="No space left"):
        _to_onnx(nn.Conv2d(3, 2, 1), torch.rand(2, 3, 4, 4), "x", "y")


def test_a_wrong_graph_is_noticed() -> None:
    one, other = (nn.Conv2d(3, 2, 1).eval() for _ in range(2))
    assert _difference(_to_onnx(one, torch.rand(2, 3, 4, 4), "x", "y"), "x", other, torch.rand(8, 3, 4, 4)) > 1e-2


def test_a_front_says_which_attackers_finished_and_which_columns_were_left_out() -> None:
    """'identity' is hidden too, but no attacker of attributes and no certificate is about it."""

    def of_kind(finished: int | None) -> KindFigures:
        return KindFigures(balanced_accuracy=0.6, rate=0.1, seed=0, tried=2, finished=finished, **JUDGED)

    block = attribute_block(0.66).model_copy(
        update={
            "attacks": {"linear": of_kind(2), "mlp": of_kind(0), "deep": of_kind(1), "trees": of_kind(None)},
            "training_image_attacks": {"linear": of_kind(1), "mlp": of_kind(0)},
            "full_depth_needed": True,
        }
    )
    hidden = ("masculine", "hat", "glasses", "identity")
    audited = example_audit().audited.model_copy(update={"sensitive": hidden})
    audit = example_audit(attributes={"masculine": block, "hat": attribute_block(None)}, audited=audited)
    attacked = exporting._attacked(audit)
    assert attacked is not None
    said = attacked["masculine"]
    assert (said.finished, said.training_image_finished) == (("linear", "deep"), ("linear",))
    assert said.full_depth_needed is True and attacked["hat"].finished == ()
    config = load_config({"data": {"sensitive": list(hidden)}})
    assert exporting._reach(audit) == AuditReach(learned_from=8000, judged_on=2000, images_seen=None, left_out=2)
    assert exporting._left_out(config, {"masculine", "hat", "glasses"}) == 0
    assert exporting._attacked(None) is None and exporting._reach(None) is None


def test_a_bundle_says_which_certified_column_is_the_desired_one() -> None:
    """The desired label is to be read: what is certified about it bounds no attack on what is hidden."""
    bounds = {
        "smile": SimpleNamespace(bound=0.9, label_known=False),
        "hat": SimpleNamespace(bound=0.6, label_known=True),
    }
    certificate = SimpleNamespace(attributes=bounds, confidence=0.99, releases=3)
    run = SimpleNamespace(task=SimpleNamespace(columns=("smile",)))
    facts = {"confidence": 0.99, "releases": 3}
    assert exporting._certified(certificate, run) == {
        "smile": CertifiedAttribute(desired=True, bound=0.9, label_known=False, **facts),
        "hat": CertifiedAttribute(desired=False, bound=0.6, label_known=True, **facts),
    }
