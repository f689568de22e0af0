"""What an audit takes over from an earlier one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smartedge.lab.audit.stages import keep_earlier, stage_of
from smartedge.lab.audit.suite import SCHEMA_VERSION

EARLIER = {
    "schema_version": SCHEMA_VERSION,
    "run": {"seed": 0},
    "settings": {
        "attacks": ["linear", "mlp", "reconstruction"],
        "attributes": ["masculine"],
        "stages": {"attributes": {"budget_seconds": 60}, "reconstruction": {"budget_seconds": 600}},
    },
    "attributes": {"masculine": "read"},
    "reconstruction": {"decoder": "painted"},
    "membership": None,
    "dp": {"delta": 0.0},
    "skipped": [
        {"attack": "mlp", "reason": "cut short"},
        {"attack": "reconstruction defended-gan", "reason": "no time was left"},
    ],
}


def now(attacks: list[str], **found: Any) -> dict[str, Any]:
    nothing = {"attributes": {"masculine": None}, "reconstruction": None, "membership": None, "dp": {"delta": 0.0}}
    stages = {stage: {"budget_seconds": 5} for stage in map(stage_of, attacks)}
    settings = {"attacks": attacks, "attributes": ["masculine"], "stages": stages}
    common = {"schema_version": SCHEMA_VERSION, "run": {"seed": 0}, "settings": settings, "skipped": []}
    return {**common, **nothing, **found}


@pytest.mark.parametrize(
    ("result", "attributes", "reconstruction", "skipped"),
    [
        (now(["membership"], membership={"any": 1}), "read", {"decoder": "painted"}, 2),
        (now(["linear"], attributes={"masculine": "again"}), "again", {"decoder": "painted"}, 1),
        (now(["reconstruction"], reconstruction={"decoder": "new"}), "read", {"decoder": "new"}, 1),
        (now(["reconstruction"], reconstruction={}), "read", {"decoder": "painted"}, 2),  # no time for it
    ],
)
def test_stages_not_found_now_stay(
    result: dict[str, Any], attributes: str, reconstruction: dict[str, str], skipped: int, tmp_path: Path
) -> None:
    (tmp_path / "audit.json").write_text(json.dumps(EARLIER))
    keep_earlier(result, tmp_path / "audit.json")
    assert result["attributes"]["masculine"] == attributes
    assert result["reconstruction"] == reconstruction
    assert len(result["skipped"]) == skipped
    assert {"linear", "reconstruction"} <= set(result["settings"]["attacks"])
    had = {stage: effort["budget_seconds"] for stage, effort in result["settings"]["stages"].items()}
    assert had["attributes"] == (5 if attributes == "again" else 60), "every stage says what effort it was made with"
    assert had["reconstruction"] == (5 if reconstruction == {"decoder": "new"} else 600)


@pytest.mark.parametrize("change", [{"run": {"seed": 1}}, {"schema_version": 0}])
def test_another_runs_audit_is_not_taken_over(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(json.dumps({**EARLIER, **change}))
    result = now(["membership"])
    keep_earlier(result, tmp_path / "audit.json")
    assert result["attributes"] == {"masculine": None} and result["reconstruction"] is None
