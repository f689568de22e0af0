"""What files say beyond their fields: sums, ends, checksums, and what is left out."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from audit_example import attribute_block, example_audit, reconstruction
from untrained_run import edge_summary

from smartedge.artifacts.base import Part, json_checksum
from smartedge.artifacts.fleet import EdgeEntry, Issued
from smartedge.artifacts.metrics import EpochFigures, read_metrics
from smartedge.artifacts.profile import CheckpointCost, Profile
from smartedge.artifacts.results import StageSeconds
from smartedge.artifacts.store_copy import CopiedLog, StoreCopy
from smartedge.artifacts.summary import EdgeSummary, Session, has_finished, refuse_unfinished
from smartedge.artifacts.sweep import Spread
from smartedge.artifacts.task import TaskFacts
from smartedge.errors import RunError

FIGURES = {"loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None, "base_rate": 0.5, "seconds": None}
TASK = TaskFacts(kind="single", columns=("kind",), names=("a", "b"))


def test_a_line_of_metrics_holds_what_was_given_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_metrics(file) == []
    row = EpochFigures.model_validate({"side": "edge", "epoch": 2, "split": "val", "lambda": 0.25, **FIGURES})
    assert row.line().endswith("}\n") and row.weight == 0.25
    said = json.loads(row.line())
    assert said == {"schema_version": row.schema_version, "side": "edge", "epoch": 2, "split": "val"} | FIGURES | {
        "lambda": 0.25
    }
    file.write_text(2 * row.line())
    assert read_metrics(file) == [row, row]


def test_a_torn_last_line_is_an_error_where_a_file_is_written_in_one_piece(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    row = EpochFigures.model_validate({"side": "edge", "epoch": 2, "split": "val", **FIGURES})
    file.write_text(row.line() + "{")
    assert read_metrics(file) == [row]
    with pytest.raises(RunError, match=r"(?s)metrics\.jsonl, line 2: is not a line of metrics .*; remove it"):
        read_metrics(file, whole=True)


@pytest.mark.parametrize(
    ("values", "spread"), [([1.0, 3.0, 5.0], (3.0, 2.0)), ([4.0], (4.0, None)), ([], None), ([1.0, None], None)]
)
def test_a_spread_is_that_of_a_sample_and_of_all_seeds(values: list[float | None], spread: object) -> None:
    found = Spread.of(values)
    assert (None if found is None else (found.mean, found.sd)) == spread


def test_the_order_of_keys_does_not_change_a_checksum() -> None:
    assert json_checksum({"a": 1, "b": 2}) == json_checksum({"b": 2, "a": 1}) != json_checksum({"a": 2, "b": 1})


def test_the_checksum_of_a_copy_covers_all_but_itself() -> None:
    log = CopiedLog(log="0f", generation=1, frames=3, streams=1, headers=None, segments=())
    other = log.model_copy(update={"frames": 4})
    made = StoreCopy.of({"door": log, "gate": other}, complete=True)
    assert made.sha256 == made.checksum() and len(made.sha256) == 64
    assert made.edges == {"door": log, "gate": other} and made.complete is True
    assert StoreCopy.of({"gate": other, "door": log}, complete=True).sha256 == made.sha256
    others = [{"edges": {"door": other, "gate": log}}, {"complete": False}]
    assert all(made.model_copy(update=change).checksum() != made.sha256 for change in others)


def test_a_session_is_as_long_as_the_clock_that_nobody_sets_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartedge.artifacts.summary.time", SimpleNamespace(monotonic=lambda: 17.0))
    assert Session.ending(started=1000.0, begun=5.0, epochs=3) == Session(started=1000.0, ended=1012.0, epochs=3)


def test_a_front_that_will_change_is_not_audited(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no edge/; .*: 'smartedge collect' brings cloud/ there"):
        refuse_unfinished(tmp_path)
    (tmp_path / "edge").mkdir()
    file = tmp_path / "edge" / "summary.json"
    for finished in (None, False):
        if finished is not None:
            edge_summary(TASK, (2,), finished=finished).write(file)
        assert not has_finished(tmp_path / "edge")
        with pytest.raises(RunError, match=r"the edge has not finished this run, .*; finish it with --resume"):
            refuse_unfinished(tmp_path)
    edge_summary(TASK, (2,)).write(file)
    assert has_finished(tmp_path / "edge")
    refuse_unfinished(tmp_path)
    with pytest.raises(RunError, match=r"there is no cloud/; edge/ and cloud/ must be in one"):
        refuse_unfinished(tmp_path, sides=("edge", "cloud"))
    assert EdgeSummary.read_if_there(file) == edge_summary(TASK, (2,))
    (tmp_path / "cloud").mkdir()
    file.rename(tmp_path / "cloud" / "summary.json")
    assert not has_finished(tmp_path / "cloud"), "that of the other side"


def test_an_edge_is_of_the_fleet_until_its_last_certificate_ends() -> None:
    def ends(day: int) -> datetime:
        return datetime(2030, 1, day, tzinfo=timezone.utc)

    issued = [Issued.model_construct(until=ends(day), revoked=day == 9) for day in (3, 5, 9, 4)]
    entry = EdgeEntry.model_construct(shows="certificate", certificates=tuple(issued), token_until=ends(8))
    assert entry.until == ends(5)
    assert entry.model_copy(update={"shows": "token"}).until == ends(8)
    assert entry.model_copy(update={"certificates": (issued[2],)}).until is None


def test_figures_that_are_computed_from_others() -> None:
    assert CheckpointCost(seconds=2.0, seconds_per_byte=0.5).of(6) == 5.0
    stages = StageSeconds(edge=1.0, link=3.0, cloud=4.0)
    assert list(stages.known.items()) == [("edge", 1.0), ("link", 3.0), ("cloud", 4.0)]
    cuts = tuple(SimpleNamespace(name=name) for name in ("layer1", "layer2"))
    profile = Profile.model_construct(cuts=cuts)
    assert profile.cut("layer2") is cuts[1]
    with pytest.raises(KeyError, match="layer3"):
        profile.cut("layer3")
    found = reconstruction()
    assert found.attacks == {"decoder": found.decoder}
    both = found.model_copy(update={"gan": found.decoder, "white_box": Part()})
    assert list(both.attacks) == ["decoder", "gan", "white_box"]


def test_columns_on_which_no_attack_was_made_are_named_in_their_order() -> None:
    audited = example_audit().audited.model_copy(update={"sensitive": ("hat", "masculine", "identity", "glasses")})
    blocks = {"masculine": attribute_block(0.66), "glasses": attribute_block(None)}
    assert example_audit(attributes=blocks, audited=audited).unread == ("hat", "glasses")
