"""The workers of a group: which shards are whose, and one worker alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from smartedge.cloud.group import ALONE, Group


@given(st.integers(1, 30), st.integers(1, 12))
def test_every_shard_is_computed_by_one_worker_and_the_order_is_kept(shards: int, size: int) -> None:
    blocks = []
    for rank in range(size):
        group = Group()
        group.rank, group.size = rank, size
        blocks.append(group.own(shards))
    assert [shard for block in blocks for shard in block] == list(range(shards))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_a_worker_alone_decides_and_adds_in_order() -> None:
    assert ALONE.leads and ALONE.agree(lambda: "go") == "go" and ALONE.gather(b"x") == [b"x"]
    terms = [[torch.tensor([1e8]), torch.ones(2)], [torch.tensor([-1e8]), torch.ones(2)], [torch.tensor([0.5])] * 2]
    first, second = ALONE.add_up(terms, terms[0])
    assert first.item() == 0.5 and second.tolist() == [2.5, 2.5]
    reverse = [[torch.tensor([0.5])], [torch.tensor([-1e8])], [torch.tensor([1e8])]]
    assert ALONE.add_up(reverse, reverse[0])[0].item() == 0.0, "so the order matters"
