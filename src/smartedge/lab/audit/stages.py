"""The stages of an audit, and how an audit takes over results of an earlier one."""

from __future__ import annotations

from pathlib import Path

from smartedge.artifacts.audit import Audit
from smartedge.errors import RunError
from smartedge.lab.audit.attacks import ATTACKS

__all__ = ["ATTACK_NAMES", "stage_of", "with_earlier"]

ATTACK_NAMES = (*ATTACKS, "membership", "identity", "persons", "epsilon", "certificate", "reconstruction")


def with_earlier(result: Audit, file: Path) -> Audit:
    """``result``, completed with stages of an earlier audit that this call did not ask for or had no time for.

    Args:
        result: the result of this call.
        file: ``audit.json`` of the earlier audit. Nothing is taken over if the file is missing, damaged, or of another
            run or version.
    """
    try:
        earlier = Audit.read(file)
    except RunError:
        return result
    if earlier.audited != result.audited:
        return result
    asked = {stage_of(name) for name in result.settings.attacks if getattr(result, stage_of(name))}
    kept = {stage_of(name) for name in earlier.settings.attacks} - asked
    attacks = {*result.settings.attacks, *(name for name in earlier.settings.attacks if stage_of(name) in kept)}
    settings: dict[str, object] = {
        "attacks": tuple(name for name in ATTACK_NAMES if name in attacks),
        "stages": {**result.settings.stages, **{stage: earlier.settings.stages[stage] for stage in kept}},
    }
    if "attributes" in kept:
        settings["attributes"] = earlier.settings.attributes
    skipped = [entry for entry in earlier.skipped if stage_of(entry.attack) in kept]
    return result.model_copy(
        update={
            **{stage: getattr(earlier, stage) for stage in kept},
            "settings": result.settings.model_copy(update=settings),
            "skipped": (*result.skipped, *skipped),
        }
    )


def stage_of(attack: str) -> str:
    """The key of ``audit.json`` that holds the result of an attack."""
    name = attack.split(" ")[0]
    if name == "epsilon":
        return "dp"
    return name if name in ("membership", "identity", "persons", "certificate", "reconstruction") else "attributes"
