"""The page of a fleet's cloud."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from audit_example import attribute_block, example_audit
from fleet_example import NAMES, fleet_figures, write_fleet

from smartedge.cli.app import main
from smartedge.errors import RunError
from smartedge.lab.report import is_fleet, write_fleet_report


def text_of(page: Path) -> str:
    """The page without tags, in one line."""
    body = page.read_text(encoding="utf-8").split("</style>")[1]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_the_page_shows_every_edge_and_names_what_is_wrong(tmp_path: Path) -> None:
    page = write_fleet_report(write_fleet(tmp_path))
    text = text_of(page)
    for name in NAMES:
        assert text.count(name) >= 3
    assert "The run is not complete. 52.9 % of all test images" in text
    assert "50.0 % of those of bakery, the lowest share" in text
    assert "hall is in quarantine: training failed on its frame 4000." in text
    assert "gate is capped" in text and "gate lie 9.4 robust" in text
    assert "37 frames of lift were lost" in text and "not learned from evenly" in text
    assert "Not everything has come from hall." in text and "ε = 4, δ = 10⁻⁵ " in text
    assert "No edge's audit is here" in text
    assert "hall layer3 – – 1.340 not finished, in quarantine from frame 4000" in text
    assert page.stat().st_mode & 0o077 == 0


def test_a_fleet_without_trouble_says_so(tmp_path: Path) -> None:
    folder = write_fleet(tmp_path)
    whole = fleet_figures()
    fine = {
        name: each.model_copy(
            update={"quarantined": None, "capped": False, "gaps": 0, "outlier": 1.0, "closed": True, "lag": 0}
        )
        for name, each in whole.edges.items()
    }
    whole.model_copy(update={"complete": True, "jain": 1.0, "edges": fine}).write(folder / "cloud" / "fleet.json")
    text = text_of(write_fleet_report(folder))
    assert "The run is complete." in text
    assert "No edge is an outlier, none is capped, and no frame is missing." in text


def test_the_worst_audited_edge_is_marked(tmp_path: Path) -> None:
    folder = write_fleet(tmp_path)
    (folder / "audits").mkdir()
    for edge, best in (("door", 0.71), ("lift", 0.83)):
        audit = example_audit(attributes={"masculine": attribute_block(best)})
        audit.write(folder / "audits" / f"{edge}.json")
    text = text_of(write_fleet_report(folder))
    assert "masculine lift worst 83.0 %" in text and "masculine door 71.0 %" in text
    assert "Not audited: bakery, gate," in text


def test_the_verb_writes_it_and_refuses_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_fleet(tmp_path / "fleet")
    assert is_fleet(folder)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert main(["report", str(folder), str(folder)]) != 0
    assert "its report is made alone" in capsys.readouterr().err
    (folder / "edge").mkdir()
    assert not is_fleet(folder)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = write_fleet(tmp_path)
    (folder / "cloud" / "summary.json").unlink()
    with pytest.raises(RunError, match=r"summary\.json"):
        write_fleet_report(folder)
