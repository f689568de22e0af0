"""An update in shards: what it computes, and that it does not matter who computes which shard."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from smartedge.methods.options import StepOptions
from smartedge.methods.sharded_step import Shard, apply_changes, blank_term, run_shards, shard_sizes, shard_slices

LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0])
OPTIONS = StepOptions(clip_norm=0.5)


class Back(nn.Module):
    """Batch normalisation, dropout, a constant buffer, a parameter that is not used, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
        self.head = nn.Linear(16, 2)
        self.unused = nn.Parameter(torch.ones(3, 3))
        self.fixed = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("table", torch.tensor([0.1, 0.7]))

    def forward(self, inputs_BF: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.body(inputs_BF)) * self.fixed + self.table
        return logits_BK


def features(count: int = 11) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def shards_of(inputs_BF: Tensor, shards: int) -> dict[int, Shard]:
    slices = shard_slices(len(inputs_BF), shards)
    return {number: Shard(inputs_BF[part], LABELS[part]) for number, part in enumerate(slices)}


def trained(workers: list[range], shards: int = 3, steps: int = 3) -> dict[str, Tensor]:
    """The back after some steps, each of which some workers have computed, one after the other."""
    back = Back().train()
    optimizer = torch.optim.AdamW(back.parameters(), lr=0.1, weight_decay=0.1)
    inputs_BF = features()
    for step in range(steps):
        terms: list[list[Tensor]] = []
        for own in workers:
            torch.manual_seed(step)
            mine = {number: shard for number, shard in shards_of(inputs_BF, shards).items() if number in own}
            terms += run_shards(copy.deepcopy(back), mine, len(inputs_BF), options=OPTIONS)[1]
        total = terms[0]
        for term in terms[1:]:
            total = [one + other for one, other in zip(total, term, strict=True)]
        apply_changes(back, optimizer, total, options=OPTIONS)
    return back.state_dict()


def test_the_update_is_that_of_a_plain_loop() -> None:
    back = Back().train()
    plain = copy.deepcopy(back)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (back, plain)]
    inputs_BF = features()
    for module in (back, plain):
        module.body[3] = nn.Identity()
    results, terms = run_shards(back, shards_of(inputs_BF, 3), 11, options=OPTIONS)
    assert len(terms) == 1, "those from the first shard on are added at once"
    apply_changes(back, optimizers[0], terms[0], options=OPTIONS)

    means, variances = [], []
    for part in shard_slices(11, 3):
        logits_BK = plain(inputs_BF[part])
        loss = functional.cross_entropy(logits_BK, LABELS[part])
        (loss * len(LABELS[part]) / 11).backward()
        with torch.no_grad():
            out = plain.body[0](inputs_BF[part])
        means.append(out.mean(dim=(0, 2, 3)) * len(LABELS[part]) / 11)
        variances.append(out.var(dim=(0, 2, 3)) * len(LABELS[part]) / 11)
    nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    optimizers[1].step()
    for (name, parameter), expected in zip(back.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(parameter, expected, atol=1e-6), name
    norm = back.body[1]
    assert torch.allclose(norm.running_mean, 0.1 * sum(means), atol=1e-6)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * sum(variances), atol=1e-6)
    assert int(norm.num_batches_tracked) == 1, "one step, however many shards"
    assert [result.logits_BK.shape for result in results.values()] == [(4, 2), (4, 2), (3, 2)]


@pytest.mark.parametrize(
    "workers", [[range(1), range(1, 2), range(2, 3)], [range(1), range(1, 3)], [range(2), range(2, 3)]]
)
def test_who_computes_which_shard_does_not_matter_to_a_bit(workers: list[range]) -> None:
    alone, shared = trained([range(3)]), trained(workers)
    assert all(torch.equal(tensor, shared[name]) for name, tensor in alone.items())
    other = trained([range(2)], shards=2)
    assert not torch.equal(alone["head.weight"], other["head.weight"]), "the number of shards does"


def test_what_no_shard_changes_stays_to_a_bit() -> None:
    before, after = Back().state_dict(), trained([range(3)])
    for name in ("unused", "fixed", "table"):
        assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_each_shard_has_random_numbers_of_its_own_and_the_global_ones_go_on_alike() -> None:
    back = Back().train()
    same = Shard(features(4), LABELS[:4])
    after = []
    for own in ({0: same, 1: same}, {1: same}, {}):
        torch.manual_seed(3)
        results, _ = run_shards(back, own, 8)
        if len(results) == 2:
            assert not torch.equal(results[0].logits_BK, results[1].logits_BK)
        after.append(torch.rand(4))
    assert all(torch.equal(after[0], each) for each in after)


def test_a_blank_term_has_the_form_of_a_term_and_adds_nothing() -> None:
    back = Back().train()
    _, (term,) = run_shards(back, shards_of(features(), 2), 11)
    blank = blank_term(back)
    assert [(each.shape, each.dtype) for each in blank] == [(each.shape, each.dtype) for each in term]
    assert not any(each.any() for each in blank)


@given(st.integers(1, 300), st.integers(1, 40))
def test_sizes_of_shards(images: int, shards: int) -> None:
    sizes = shard_sizes(images, shards)
    assert len(sizes) == shards and sum(sizes) == images
    used = [size for size in sizes if size]
    assert sizes == used + [0] * (shards - len(used)) and max(used) - min(used) <= 1
    assert images < 2 or min(used) >= 2
    assert len(used) == shards or images < 2 * shards
    slices = shard_slices(images, shards)
    assert [part.stop - part.start for part in slices] == sizes and slices[-1].stop == images


def test_the_memory_format_of_what_workers_exchanged_does_not_matter() -> None:
    """The gradients' norm is a sum in the order of memory: a larger network in channels-last shows its last bit."""
    weights = []
    for exchanged in (False, True):
        torch.manual_seed(0)
        back = nn.Sequential(nn.Conv2d(24, 96, 5), nn.Flatten(), nn.Linear(96, 2)).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(back.parameters(), lr=0.1)
        inputs_BF = torch.randn(11, 24, 5, 5, generator=torch.Generator().manual_seed(1))
        shards = shards_of(inputs_BF.contiguous(memory_format=torch.channels_last), 2)
        _, (changes,) = run_shards(back, shards, 11, options=StepOptions(clip_norm=1e-3))
        assert changes[0].is_contiguous(memory_format=torch.channels_last)
        if exchanged:  # as a vector
            changes = [tensor.reshape(-1).clone().reshape(tensor.shape) for tensor in changes]
        apply_changes(back, optimizer, changes, options=StepOptions(clip_norm=1e-3))
        weights.append(back.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
