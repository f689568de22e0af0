"""Every kept result names machine, date, commit and command; a table has a JSON file beside it that does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
KEYS = {"machine", "date", "commit", "command"}
BY_PART = {"front_edge.json", "workers.json"}  # each part was measured at a time of its own
# Profiles are files of the package: they name machine and date. The mutants are found by make mutants.
OTHERS = {"profiles", "mutants.json"}
FILES = [file for file in sorted(RESULTS.rglob("*.json")) if not OTHERS & set(file.relative_to(RESULTS).parts)]
# From before tables had a JSON file beside them. It was kept with the commit that git names.
ALONE = {"fleet-remedies.csv"}


def lacking(found: dict[str, Any]) -> set[str]:
    """What a result should name, and does not."""
    return {key for key in KEYS if not found.get(key)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RESULTS)))
def test_a_kept_result_says_where_it_comes_from(file: Path) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    for part in found.values() if file.name in BY_PART else [found]:
        assert not lacking(part)


def test_a_result_that_does_not_say_is_found() -> None:
    assert len(FILES) > 200
    assert lacking({"machine": {"system": "Linux"}, "date": "2026-11-28", "commit": ""}) == {"commit", "command"}


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.csv")), ids=lambda file: file.name)
def test_a_table_has_its_results_beside_it(file: Path) -> None:
    words = file.stem.split("-")
    stems = ["-".join(words[:count]) for count in range(1, len(words) + 1)]
    beside = [stem for stem in stems if (RESULTS / f"{stem}.json").exists() or list(RESULTS.glob(f"{stem}/**/*.json"))]
    if file.name in ALONE:
        assert not file.with_suffix(".json").exists(), "it is alone no more: take it out of ALONE"
    else:
        assert beside
