"""What an audit takes over from an earlier one, and what it says in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_example import RUN, attribute_block, example_audit, figures, membership, noise_test, reconstruction

from smartedge.artifacts.audit import Audit, AuditSettingsUsed, Effort, Skipped
from smartedge.lab.audit.in_words import verdict
from smartedge.lab.audit.stages import stage_of, with_earlier

EARLIER = example_audit(
    skipped=(
        Skipped(attack="mlp", reason="cut short"),
        Skipped(attack="reconstruction defended-gan", reason="no time was left"),
    )
)
AGAIN, PAINTED_ANEW = attribute_block(0.7), reconstruction(25.0)


def now(attacks: tuple[str, ...], **found: object) -> Audit:
    """An audit for which only some attacks were asked for."""
    effort = Effort(budget_seconds=5, seeds=1, undefended=None)
    settings = AuditSettingsUsed(
        **effort.model_dump(),
        attacks=attacks,
        attributes=("masculine",),
        stages=dict.fromkeys(map(stage_of, attacks), effort),
    )
    nothing: dict[str, object] = {"attributes": {"masculine": attribute_block(None)}, "reconstruction": None}
    return example_audit(**{**nothing, "settings": settings, **found})


@pytest.mark.parametrize(
    ("result", "attribute", "painted", "skipped"),
    [
        (now(("membership",), membership=membership()), EARLIER.attributes["masculine"], EARLIER.reconstruction, 2),
        (now(("linear",), attributes={"masculine": AGAIN}), AGAIN, EARLIER.reconstruction, 1),
        (now(("reconstruction",), reconstruction=PAINTED_ANEW), EARLIER.attributes["masculine"], PAINTED_ANEW, 1),
        (now(("reconstruction",)), EARLIER.attributes["masculine"], EARLIER.reconstruction, 2),  # no time for it
    ],
)
def test_stages_not_found_now_stay(
    result: Audit, attribute: object, painted: object, skipped: int, tmp_path: Path
) -> None:
    EARLIER.write(tmp_path / "audit.json")
    found = with_earlier(result, tmp_path / "audit.json")
    assert found.attributes["masculine"] == attribute
    assert found.reconstruction == painted
    assert found.membership == result.membership
    assert len(found.skipped) == skipped
    assert {"linear", "reconstruction"} <= set(found.settings.attacks)
    had = {stage: effort.budget_seconds for stage, effort in found.settings.stages.items()}
    assert had["attributes"] == (5 if attribute == AGAIN else 60), "every stage says what effort it was made with"
    assert had["reconstruction"] == (5 if painted == PAINTED_ANEW else 600)


def another_run(path: Path) -> None:
    EARLIER.model_copy(update={"audited": RUN.model_copy(update={"seed": 1})}).write(path)


def other_noise(path: Path) -> None:
    EARLIER.model_copy(update={"audited": RUN.model_copy(update={"subject": "0" * 32})}).write(path)


def another_version(path: Path) -> None:
    path.write_text(json.dumps({**EARLIER.as_json(), "schema_version": 1}))


def damaged(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize("write", [another_run, other_noise, another_version, damaged])
def test_another_runs_audit_is_not_taken_over(write, tmp_path: Path) -> None:
    write(tmp_path / "audit.json")
    result = now(("membership",))
    assert with_earlier(result, tmp_path / "audit.json") == result


def test_the_verdict_is_the_reports_about_the_sensitive_attribute_that_fares_worst():
    blocks = {
        "masculine": attribute_block(0.66),
        "young": attribute_block(0.8).model_copy(
            update={"training_image": figures(0.85, "mlp").model_copy(update={"ci95": (0.8, 0.9)})}
        ),
        "beard": attribute_block(0.9, sensitive=False),
    }
    said = verdict(example_audit(attributes=blocks))
    assert said.startswith(
        "What was sent hides young in part: the best attacker reads young with 85.0 % balanced accuracy, 20.5 points "
        "above what the desired label alone gives away (64.5 %), 28 % of the way down from the undefended front "
        "(93.0 %). young: 80.0 % balanced accuracy (95 % interval 60.0 % to 70.0 %) by 'deep', the only kind of "
        "attacker."
    )
    close = verdict(example_audit(dp=noise_test(holds=False), skipped=(Skipped(attack="mlp", reason=""),)))
    assert close.startswith("What was sent hides masculine from the attackers that were tried")
    assert "A stronger attacker may read more" in close and "A stronger attacker" not in said
    assert close.endswith(
        "The claimed epsilon is REFUTED by the mechanism's own releases. Some attacks were left out or cut short: see "
        "'skipped'."
    )
    few = attribute_block(0.7)
    unsure = few.model_copy(update={"best": few.best.model_copy(update={"ci95": (0.645, 0.8)})})
    said = verdict(example_audit(attributes={"masculine": unsure}))
    assert said.startswith("It is not shown whether what was sent hides masculine")
    assert verdict(now(())).startswith("No attack on an attribute was made")


def test_an_audit_of_version_2_is_read(tmp_path: Path) -> None:
    fields = EARLIER.as_json()
    fields |= {"schema_version": 2, "run": fields.pop("audited")}
    (tmp_path / "audit.json").write_text(json.dumps(fields))
    assert Audit.read(tmp_path / "audit.json") == EARLIER
