"""The budget of ``smartedge audit`` counts from the verb's start to the report's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from untrained_run import edge_summary

from smartedge.artifacts.task import TaskFacts
from smartedge.cli import audit as verb
from smartedge.cli.app import parse
from smartedge.config import load_config
from smartedge.errors import RunError
from smartedge.lab.audit import suite
from smartedge.lab.audit.clock import Clock
from smartedge.runs.progress import Quiet


@pytest.mark.parametrize(
    ("start", "audited", "report"),
    [(40.0, 220.0, True), (40.0, 261.0, False)],  # the audit ends in time, or goes on past the whole budget
)
def test_the_start_counts_and_time_is_kept_for_the_report(
    start: float, audited: float, report: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    now = [0.0]
    clock = Clock(300.0, lambda: now[0])
    given: list[float] = []

    def audit(*_: object, clock: Clock) -> object:
        given.append(clock.remaining())
        now[0] += audited
        return None

    monkeypatch.setattr(suite, "audit", create_autospec(suite.audit, side_effect=audit))
    written = create_autospec(verb.write_report_where_possible, side_effect=lambda run_dir: run_dir / "report.html")
    monkeypatch.setattr(verb, "write_report_where_possible", written)
    (tmp_path / "results.json").touch()
    now[0] = start  # torch was imported meanwhile
    _, files = verb._of_run(parse(["audit", str(tmp_path), "--budget", "5m"]), clock, Quiet())
    assert given == [240.0], "20 of the 260 seconds that are left are kept for the report"
    assert (tmp_path / "report.html" in files) == report
    assert ("no time was left for report.html" in capsys.readouterr().err) == (not report)


def test_a_small_budget_keeps_a_tenth_for_the_report() -> None:
    assert verb._without_report(Clock(50.0, lambda: 0.0)).remaining() == 45.0
    unlimited = Clock(None)
    assert verb._without_report(unlimited) is unlimited


@pytest.mark.parametrize("method", ["hierarchical", "local"])
def test_half_of_a_run_is_refused_before_anything_is_read(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = create_autospec(suite.audit, side_effect=RunError("audited"))
    monkeypatch.setattr(suite, "audit", audited)
    (tmp_path / "edge").mkdir()
    task = TaskFacts(kind="single", columns=("smile",), names=("no", "yes"))
    edge_summary(task, (2,)).write(tmp_path / "edge" / "summary.json")
    (tmp_path / "config.yaml").write_text(load_config({"method": method}).to_yaml())
    with pytest.raises(RunError, match="there is no cloud/" if method == "hierarchical" else "audited"):
        verb.run(parse(["audit", str(tmp_path)]))
    assert audited.called == (method == "local")
