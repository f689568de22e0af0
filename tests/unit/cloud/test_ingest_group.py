"""Ingest processes share the edges, and a store is closed for all of them at once."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest import group as ingest_group
from smartedge.cloud.ingest.group import IngestGroup, SharedStore
from smartedge.cloud.store.marks import mark_complete

EDGES = [f"edge{number:02}" for number in range(40)]


def test_every_edge_belongs_to_one_process_and_goes_to_another_where_that_ends(tmp_path: Path) -> None:
    groups = [IngestGroup(tmp_path) for _ in range(3)]
    shares = [group.share(EDGES) for group in groups]
    assert sorted(itertools.chain(*shares)) == EDGES and sorted(map(len, shares)) == [13, 13, 14]
    assert [group.share(EDGES) for group in groups] == shares
    lost = groups.pop()
    os.close(lost._alive)  # as the system does when a process is killed
    for group, before in zip(groups, shares, strict=False):  # its claims are still held
        assert len(set(before) & set(group.share(EDGES))) >= 9, "few of the others' edges change hands"
    for edge in shares[2]:
        lost.release(edge)
    for group in groups:
        for edge in set(group._claims) - set(group.share(EDGES)):
            group.release(edge)
    taken = [group.share(EDGES) for group in groups]
    assert sorted(itertools.chain(*taken)) == EDGES and [*map(len, taken)] == [20, 20]
    for group in groups:
        group.close()
    assert list((tmp_path / "ingest").glob("*.process")) == []


@pytest.mark.parametrize("edges", range(1, 9))
def test_few_edges_are_divided_evenly_by_processes_that_see_different_ones(tmp_path: Path, edges: int) -> None:
    """The broker names only edges of which messages are there, and a process knows its own beside them."""
    groups = [IngestGroup(tmp_path) for _ in range(2)]
    names = EDGES[:edges]
    for group, seen in zip(groups, (names[::2], names[1::2]), strict=True):
        group.share(seen)
    for group in groups:
        for edge in set(group._claims) - set(group.share(names)):
            group.release(edge)
    shares = [group.share(names) for group in groups]
    assert sorted(itertools.chain(*shares)) == names and abs(len(shares[0]) - len(shares[1])) <= 1
    for group in groups:
        group.close()


def test_a_process_that_comes_gets_its_edges_when_they_are_released(tmp_path: Path) -> None:
    first = IngestGroup(tmp_path)
    assert first.share(EDGES) == EDGES
    second = IngestGroup(tmp_path)
    assert second.share(EDGES) == []
    left = first.share(EDGES)
    for edge in set(EDGES) - set(left):
        first.release(edge)
    assert sorted([*left, *second.share(EDGES)]) == EDGES and len(left) < 40
    first.close()
    second.close()


def test_a_store_is_closed_only_when_what_was_appended_is_durable(tmp_path: Path) -> None:
    inside, handover = Handover(), Handover()
    one, other = SharedStore(tmp_path, inside), SharedStore(tmp_path, handover)
    one.enter("door")
    one.enter("door")  # it is inside already
    order: list[str] = []

    def close() -> None:
        with other.closed():
            order.append("closed")
            mark_complete(tmp_path, True)

    closing = threading.Thread(target=close)
    closing.start()
    late = threading.Thread(target=lambda: (one.enter("gate"), order.append("came in")))
    closing.join(timeout=0.1)
    assert order == []
    late.start()
    one.leave("door")
    closing.join(timeout=10)
    late.join(timeout=10)
    one.leave("gate")
    assert sorted(order) == ["came in", "closed"]
    one.enter("door")
    assert inside.complete  # whoever comes in knows
    one.leave("door")


def test_an_edge_that_waits_for_the_store_to_open_again_holds_no_other_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = threading.Event()
    monkeypatch.setattr(ingest_group, "about_to_wait", said.set)
    one, other = SharedStore(tmp_path, Handover()), SharedStore(tmp_path, Handover())
    one.enter("door")
    one.leave("door")
    assert not said.is_set()
    with other.closed():
        late = threading.Thread(target=one.enter, args=("gate",))
        late.start()
        assert said.wait(30)
    late.join(timeout=30)
    assert not late.is_alive()
    one.leave("gate")
