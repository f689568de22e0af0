"""A process that only reads sees what is durable, and whether the run is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from many_edges import edges_of, fleet_config

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.follower import StoreFollower
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.store.marks import mark_complete
from smartedge.errors import LogError
from smartedge.runs.progress import Quiet
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink


def everything(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_it_sees_what_is_durable_as_it_comes_and_changes_nothing(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 2})
    edge, other = edges_of(config, 2)
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    handover = Handover()
    follower = StoreFollower(tmp_path, handover)
    follower.refresh()
    assert handover.intakes == {} and not handover.complete
    link = MemoryLink(runner.ingest, edge.name)
    header = edge.streams()[0]
    link.open(header)
    link.write(serialise(edge.frame(0), header))
    follower.refresh()
    assert not follower.has({edge.name: 1}), "it is not yet durable"
    for seq in (1, 2):
        link.write(serialise(edge.frame(seq), header))
    link.close()
    before = everything(tmp_path)
    follower.refresh()
    assert follower.has({edge.name: 3}) and not follower.has({edge.name: 4}) and not follower.has({other.name: 1})
    assert handover.intakes[edge.name].streams == edge.streams()[:1]
    other.send(runner)
    mark_complete(tmp_path, True)
    follower.refresh()
    assert follower.has({edge.name: 3, other.name: 9}) and handover.complete
    mark_complete(tmp_path, False)
    follower.refresh()
    assert not handover.complete
    after = everything(tmp_path)
    assert all(after[file] == data for file, data in before.items() if edge.name in file.parts)
    runner.close()


def test_a_log_of_a_complete_run_that_cannot_be_read_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "store" / "edge0").mkdir(parents=True)
    mark_complete(tmp_path, True)
    with pytest.raises(LogError):
        StoreFollower(tmp_path, Handover()).refresh()


def test_a_log_that_is_being_made_is_no_error_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store" / "edge0"
    folder.mkdir(parents=True)
    follower = StoreFollower(tmp_path, Handover())
    follower.refresh()
    (folder / "mark").touch()
    follower.refresh()
    monkeypatch.setattr("smartedge.cloud.ingest.follower._BEING_MADE", -1.0)
    with pytest.raises(LogError, match="watermark is damaged"):
        follower.refresh()
