"""The workers of a group: which shards are whose, and one worker alone."""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smartedge.cloud.workers.group import _SHORT, ALONE, Group, WorkerGroup, WorkersLost
from smartedge.cloud.workers.shared_step import divided, shared_step
from smartedge.methods.back_step import cloud_step
from smartedge.methods.options import StepOptions
from smartedge.types import FeatureBatch

MOST = _SHORT - 8  # that fits into one exchange


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
    told, (first, second) = ALONE.add_up(b"x", terms, terms[0])
    assert told == [b"x"]
    assert first.item() == 0.5 and second.tolist() == [2.5, 2.5]
    reverse = [[torch.tensor([0.5])], [torch.tensor([-1e8])], [torch.tensor([1e8])]]
    assert ALONE.add_up(b"", reverse, reverse[0])[1][0].item() == 0.0, "so the order matters"


@pytest.mark.parametrize("label_epsilon", [None, 1.5])
def test_a_step_in_shards_is_that_of_all_images_at_once(label_epsilon: float | None) -> None:
    """The shards are of unequal sizes, and more than ten, whose numbers as texts are in another order."""
    torch.manual_seed(0)
    whole, labels_B = nn.Linear(3, 2), torch.arange(25) % 2
    batch = FeatureBatch(np.arange(25), torch.randn(25, 3).numpy(), labels_B.numpy())
    back, how = copy.deepcopy(whole), StepOptions(label_smoothing=0.2, clip_norm=0.05)
    step = divided(batch, 12, ALONE.own(12))
    assert sorted({len(each.ids) for each in step.shards.values()}) == [2, 3]
    told = shared_step(
        back,
        torch.optim.SGD(back.parameters(), lr=1.0),
        step,
        lambda number, each: torch.from_numpy(each.features_BF),
        ALONE,
        label_epsilon=label_epsilon,
        options=how,
    )
    expected = cloud_step(
        whole,
        torch.optim.SGD(whole.parameters(), lr=1.0),
        torch.from_numpy(batch.features_BF),
        labels_B,
        "single",
        label_epsilon=label_epsilon,
        options=how,
    )
    assert told.ids.tolist() == list(range(25)) and torch.equal(told.labels, labels_B)
    assert told.loss == pytest.approx(expected.loss.item(), rel=1e-6)
    torch.testing.assert_close(told.logits_BK, expected.logits_BK)
    for one, other in zip(back.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("sizes", "exchanges"), [([0, 0], 1), ([MOST, 3], 1), ([3, MOST + 1], 2), ([3 * MOST, MOST], 2)], ids=str
)
def test_workers_tell_each_other_data_of_any_length(sizes: list[int], exchanges: int) -> None:
    barrier, meetings = threading.Barrier(2, timeout=30), [0, 0]
    data = [np.random.default_rng(size).bytes(size) for size in sizes]
    shown: list[np.ndarray] = [np.empty(0, np.uint8)] * 2
    found: list[list[bytes]] = [[], []]

    def work(rank: int) -> None:
        def gathered(mine: np.ndarray) -> list[np.ndarray]:
            meetings[rank] += 1
            shown[rank] = mine
            barrier.wait()
            all_of_them = list(shown)
            barrier.wait()
            assert len({len(each) for each in all_of_them}) == 1, "as all_gather needs it"
            return all_of_them

        group = WorkerGroup.__new__(WorkerGroup)  # without torch.distributed
        group._gathered = gathered  # type: ignore[method-assign]
        found[rank] = group.gather(data[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [data, data] and meetings == [exchanges] * 2


class Threads:
    """Threads as workers: what ``torch.distributed`` does for a chain, and nothing else."""

    def __init__(self) -> None:
        self.own = threading.local()
        self.sent: defaultdict[tuple[int, int], queue.Queue[torch.Tensor]] = defaultdict(queue.Queue)

    def isend(self, piece: torch.Tensor, dst: int) -> Threads:
        self.sent[self.own.rank, dst].put(piece.clone())
        return self

    def wait(self) -> None: ...

    def recv(self, piece: torch.Tensor, src: int) -> None:
        piece.copy_(self.sent[src, self.own.rank].get(timeout=30))

    def broadcast(self, total: torch.Tensor, src: int) -> None:
        if self.own.rank == src:
            for rank in set(range(src + 1)) - {src}:
                self.isend(total, rank)
        else:
            self.recv(total, src)


@pytest.mark.parametrize("counts", [[1, 1], [1, 2, 2], [2, 0, 1], [3, 1, 0]], ids=str)
def test_along_the_chain_all_get_the_sum_of_one_worker_in_its_order(
    counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartedge.cloud.workers.group.dist", workers := Threads())
    monkeypatch.setattr("smartedge.cloud.workers.group._PIECE", 3)  # of 5 numbers
    big = [1e8, -1e8, 0.5, 3e8, 7.0]
    terms = [[torch.full((2,), big[term]), torch.arange(3.0) * (term + 1)] for term in range(sum(counts))]
    expected = torch.cat(ALONE.add_up(b"", [[tensor.clone() for tensor in term] for term in terms], terms[0])[1])
    found: list[torch.Tensor | None] = [None] * len(counts)

    def work(rank: int) -> None:
        workers.own.rank = rank
        group = WorkerGroup.__new__(WorkerGroup)
        group.rank, group.size = rank, len(counts)
        first = sum(counts[:rank])
        found[rank] = group._along_the_chain(terms[first : first + counts[rank]], terms[0])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(total is not None and torch.equal(total, expected) for total in found)
    assert not any(left.qsize() for left in workers.sent.values())


@pytest.mark.parametrize(("rank", "text"), [(0, "another one hangs"), (1, "the first one evaluates alone, or hangs")])
def test_a_worker_that_waits_long_for_the_others_says_so(rank: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartedge.cloud.workers.group.SILENCE_S", 0.01)
    group, said, told = WorkerGroup.__new__(WorkerGroup), threading.Event(), []
    group.rank, group._waits = rank, None

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            said.set()
            raise EOFError

    def watch() -> None:
        with contextlib.suppress(EOFError):
            group._watch(tell)

    threading.Thread(target=watch, daemon=True).start()
    with group._guarded():
        assert said.wait(30)
    assert all(f"worker {rank} has waited" in each and text in each for each in told)
    with pytest.raises(WorkersLost, match=r"another worker has ended.*reset"), group._guarded():
        raise RuntimeError("reset")
    assert group._waits is None
