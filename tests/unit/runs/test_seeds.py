"""Each side draws from its own stream, whoever else draws in between."""

from __future__ import annotations

import torch

from smartedge.runs.seeds import RandomStream, derive_seed


def test_streams_do_not_disturb_each_other_or_the_global_state():
    alone = RandomStream(1)
    with alone.active():
        expected = [torch.rand(3) for _ in range(2)]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, other = RandomStream(1), RandomStream(2)
    drawn = []
    for _ in range(2):
        with one.active():
            drawn.append(torch.rand(3))
        with other.active():
            torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(expected, drawn, strict=True))
    assert torch.equal(before, torch.get_rng_state())


class _Accelerator:
    """Stands for ``torch.cuda``: one generator, of its own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(99)
        self.get_rng_state, self.set_rng_state = self.generator.get_state, self.generator.set_state
        self.manual_seed = self.generator.manual_seed


def test_a_devices_own_generator_follows_the_stream_and_gets_its_state_back(monkeypatch):
    own = _Accelerator()
    monkeypatch.setattr(torch, "get_device_module", lambda device: own)
    outside = own.get_rng_state()

    def draws(stream, times):
        found = []
        for _ in range(times):
            with stream.active():
                found.append(torch.rand(3, generator=own.generator))
        return found

    whole = draws(RandomStream(1, torch.device("cuda")), 2)
    first = RandomStream(1, torch.device("cuda"))
    begun = draws(first, 1)
    resumed = RandomStream(5, torch.device("cuda"))
    resumed.state = first.state  # all that a checkpoint keeps
    assert all(torch.equal(a, b) for a, b in zip(whole, begun + draws(resumed, 1), strict=True))
    assert not torch.equal(*whole)
    assert torch.equal(own.get_rng_state(), outside)


def test_seeds_differ_by_purpose_and_fit_a_generator():
    seeds = {derive_seed(seed, purpose, number) for seed in range(5) for purpose in ("a", "b") for number in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, "edge") == derive_seed(3, "edge")
