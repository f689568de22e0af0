"""An ``audit.json`` in which every stage was asked for and found something."""

from __future__ import annotations

import math
from typing import Any

from results_example import PRIVACY

from smartedge.artifacts.attacks import AttributeBlock, KindFigures, Membership, MembershipFigures, NamedFigures
from smartedge.artifacts.audit import Audit, AuditedRun, AuditSettingsUsed, Effort, NoiseTest
from smartedge.artifacts.reconstruction import (
    ImageIntervals,
    Likeness,
    Perceptual,
    ReadFromImages,
    Reconstruction,
    ReconstructionAttack,
    ReconstructionTraining,
)

JUDGED = {
    "auroc": 0.7,
    "ci95": (0.6, 0.7),
    "val_balanced_accuracy": 0.66,
    "val_auroc": 0.7,
    "base_rate": 0.6,
    "images": 2000,
}
RUN = AuditedRun(
    method="hierarchical",
    schedule="joint",
    model="resnet18",
    cut="layer1",
    feature_shape=(8, 4, 4),
    codec="uint8",
    seed=0,
    desired=("smile",),
    sensitive=("masculine",),
    undefended=False,
    noise_on_audited_releases=True,
    images={"train": 8000, "val": 1000, "test": 2000},
)


def figures(value: float, attack: str = "deep") -> NamedFigures:
    return NamedFigures(balanced_accuracy=value, attack=attack, **JUDGED)


def attribute_block(best: float | None, *, sensitive: bool = True) -> AttributeBlock:
    found = None if best is None else figures(best)
    return AttributeBlock(
        best=found,
        by_validation=found,
        training_image=None,
        undefended=figures(0.93),
        floor=figures(0.645, "table"),
        prediction_floor=None,
        chance=0.5,
        dp_bound=None,
        attacks={}
        if best is None
        else {"deep": KindFigures(balanced_accuracy=best, rate=0.1, seed=0, tried=1, **JUDGED)},
        classes=("no", "yes"),
        desired=False,
        sensitive=sensitive,
    )


def privacy_block(**changes: Any) -> dict[str, Any]:
    """The block ``privacy`` of results.json, of a Gaussian release with ε = 4 (docs/results-schema.md)."""
    bound = (math.exp(4) + 1e-5) / (1 + math.exp(4))
    return {**PRIVACY, "attribute_bound": bound, "randomised_response_baseline": 0.913, **changes}


def attribute(best: float, *, floor: float = 0.645, undefended: float | None = 0.928, **changes: Any) -> dict[str, Any]:
    """An attribute of audit.json whose best attacker is ``deep`` with ``best``."""

    def figures(value: float, attack: str | None = None) -> dict[str, Any]:
        low, high = value - 0.021, value + 0.021
        found = {"balanced_accuracy": value, "auroc": min(1.0, value + 0.04), "ci95": [low, high], "images": 2000}
        found |= {"val_balanced_accuracy": value, "base_rate": 0.6}
        return {**found, "attack": attack} if attack else found

    others = {"linear": best - 0.061, "trees": best - 0.037, "mlp": best - 0.02, "deep": best}
    kind = {"rate": 1e-3, "seed": 0, "tried": 2}
    block = {
        "best": figures(best, "deep"),
        "by_validation": figures(best - 0.004, "mlp"),
        "training_image": None,
        "attacks": {name: {**figures(value), **kind} for name, value in others.items()},
        "undefended": figures(undefended, "deep") if undefended else None,
        "floor": figures(floor, "table"),
        "prediction_floor": figures(floor - 0.006, "table"),
        "chance": 0.5,
        "dp_bound": None,
        "classes": ["no", "yes"],
        "desired": False,
        "sensitive": True,
    }
    return {**block, **changes}


def membership(auroc: float = 0.8) -> Membership:
    found = MembershipFigures(auroc=auroc, balanced_accuracy=0.7, ci95=(0.6, 0.8), statistic="likelihood", pairs=4000)
    return Membership(any=found, same_label=None)


def noise_test(**changes: object) -> NoiseTest:
    nothing = {"mechanism": "none", "granularity": "vector", "delta": 0.0, "releases_max": 1, "apply_to": "always"}
    names = ("epsilon_claimed", "vector_epsilon", "label_epsilon", "attribute_bound", "noise_bound")
    return NoiseTest.model_validate({**nothing, **dict.fromkeys(names), **changes})


def reconstruction(psnr: float = 19.2) -> Reconstruction:
    read = {
        "images": 2000,
        "sensitive_balanced_accuracy": {"masculine": 0.6},
        "sensitive_auroc": {"masculine": 0.7},
        "desired_balanced_accuracy": 0.8,
        "ci95": ImageIntervals(sensitive_balanced_accuracy={"masculine": (0.5, 0.7)}, desired_balanced_accuracy=None),
    }
    alike = {"psnr": psnr, "ssim": 0.4, "perceptual": Perceptual(name="LPIPS", value=0.3)}
    decoder = ReconstructionAttack(
        **read,
        **alike,
        sensitive_balanced_accuracy_adapted={"masculine": 0.61},
        training=ReconstructionTraining(share=1.0, seconds=None),
        undefended=None,
    )
    return Reconstruction(decoder=decoder, originals=ReadFromImages(**read), mean_image=Likeness(**alike))


def example_audit(**changes: object) -> Audit:
    """An audit of ``RUN`` in which attribute inference and reconstruction were asked for; ``changes`` are fields."""
    effort = {"seeds": 2, "undefended": None}
    stages = {
        "attributes": Effort(budget_seconds=60, **effort),
        "reconstruction": Effort(budget_seconds=600, **effort),
    }
    settings = AuditSettingsUsed(
        budget_seconds=600,
        attributes=("masculine",),
        attacks=("linear", "mlp", "reconstruction"),
        stages=stages,
        **effort,
    )
    fields: dict[str, object] = {
        "audited": RUN,
        "settings": settings,
        "attributes": {"masculine": attribute_block(0.66)},
        "reconstruction": reconstruction(),
        "membership": None,
        "dp": noise_test(),
        "skipped": (),
        "verdict": "",
    }
    return Audit.model_validate({**fields, **changes})
