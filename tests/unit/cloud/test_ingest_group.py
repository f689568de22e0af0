"""Ingest processes share the edges, and a store is closed for all of them at once."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

from smartedge.cloud.completion import mark_complete
from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest_group import IngestGroup, SharedStore

EDGES = [f"edge{number:02}" for number in range(40)]


def test_every_edge_belongs_to_one_process_and_goes_to_another_where_that_ends(tmp_path: Path) -> None:
    groups = [IngestGroup(tmp_path) for _ in range(3)]
    shares = [group.share(EDGES) for group in groups]
    assert sorted(itertools.chain(*shares)) == EDGES and all(len(share) >= 5 for share in shares)
    assert [group.share(EDGES) for group in groups] == shares
    lost = groups.pop()
    os.close(lost._alive)  # as the system does when a process is killed
    assert [group.share(EDGES) for group in groups] == shares[:2]  # its claims are still held
    for edge in shares[2]:
        lost.release(edge)
    taken = [group.share(EDGES) for group in groups]
    assert sorted(itertools.chain(*taken)) == EDGES
    assert all(set(before) <= set(after) for before, after in zip(shares, taken, strict=False))
    for group in groups:
        group.close()
    assert list((tmp_path / "ingest").glob("*.process")) == []


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
