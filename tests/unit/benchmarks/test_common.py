"""What benchmarks keep."""

from __future__ import annotations

import json
import os

import common
import pytest


def test_a_result_takes_the_place_of_the_old_one_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    file = tmp_path / "results" / "found.json"
    common.keep_result(file, {"trials": [1]}, "--trials 1")
    kept = json.loads(file.read_text())
    assert kept["trials"] == [1] and kept["command"].endswith("--trials 1") and kept["date"]
    assert file.stat().st_mode & 0o777 == 0o644

    def no_room(descriptor: int) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="no room"):
        common.keep_json(file, {"trials": [1, 2]})
    table = tmp_path / "results" / "table.csv"
    with pytest.raises(OSError, match="no room"):
        common.show_table("", [{"a": 1}], table)
    assert json.loads(file.read_text()) == kept and os.listdir(file.parent) == ["found.json"]


def test_a_result_names_the_commit_that_the_environment_tells_where_git_history_did_not_travel(monkeypatch) -> None:
    monkeypatch.setenv("SMARTEDGE_COMMIT", "0123abc")
    assert common.provenance()["commit"] == "0123abc"
    monkeypatch.delenv("SMARTEDGE_COMMIT")
    assert common.provenance()["commit"] != "0123abc"
