"""The stages of an audit, and what an audit takes over from an earlier one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smartedge.lab.audit.attacks import ATTACKS

__all__ = ["ATTACK_NAMES", "keep_earlier", "stage_of"]

ATTACK_NAMES = (*ATTACKS, "membership", "epsilon", "reconstruction")


def keep_earlier(result: dict[str, Any], file: Path) -> None:
    """Take over what an earlier audit found in the stages that this call did not ask for or had no time for."""
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if earlier.get("schema_version") != result["schema_version"] or earlier["run"] != result["run"]:
        return
    asked = {stage_of(name) for name in result["settings"]["attacks"] if result[stage_of(name)]}
    kept = {stage_of(name) for name in earlier["settings"]["attacks"]} - asked
    stages = result["settings"]["stages"]
    for stage in kept:
        result[stage] = earlier[stage]
        stages[stage] = earlier["settings"]["stages"][stage]
    if "attributes" in kept:
        result["settings"]["attributes"] = earlier["settings"]["attributes"]
    result["skipped"] += [entry for entry in earlier["skipped"] if stage_of(entry["attack"]) in kept]
    attacks = {*result["settings"]["attacks"], *(a for a in earlier["settings"]["attacks"] if stage_of(a) in kept)}
    result["settings"]["attacks"] = [name for name in ATTACK_NAMES if name in attacks]


def stage_of(attack: str) -> str:
    """The key of ``audit.json`` under which an attack's result stands."""
    names = {"membership": "membership", "epsilon": "dp", "reconstruction": "reconstruction"}
    return names.get(attack.split(" ")[0], "attributes")
