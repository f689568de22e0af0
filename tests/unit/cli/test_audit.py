"""The budget of ``smartedge audit`` counts from the verb's start to the report's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from smartedge.cli import audit as verb
from smartedge.cli.app import parse
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
