"""The training loop: order, rates, random numbers, deadlines, stops, and going on from a checkpoint."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from smartedge.methods.loop import (
    Best,
    Deadline,
    Progress,
    fit,
    load_training_state,
    take_step,
    training_state,
    warmup_cosine,
)
from smartedge.models.optim import apply_gradients, set_learning_rate
from smartedge.runs.seeds import RandomStream

STEPS = 5  # in an epoch


class Training:
    """A linear layer with dropout that learns from numbers that follow from epoch and batch."""

    def __init__(self) -> None:
        self.random = RandomStream(7)
        with self.random.active():
            self.network = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        self.rates = warmup_cosine(self.optimizer, 0.1)
        self.used: list[float] = []  # learning rates

    def batches(self, epoch: int):
        for number in range(STEPS):
            yield torch.randn(8, 4, generator=torch.Generator().manual_seed(100 * epoch + number))

    def step(self, batch: torch.Tensor, progress: Progress) -> float:
        self.used.append(self.optimizer.param_groups[0]["lr"])
        loss = (self.network(batch).squeeze(1) - batch.sum(dim=1)).square().mean()
        loss.backward()
        apply_gradients(self.optimizer, clip_norm=5.0)
        return loss.item()

    def fit(self, progress: Progress, **settings) -> bool:
        return fit(self.step, self.batches, progress, rates=self.rates, random=self.random, **settings)

    def weights(self) -> list[torch.Tensor]:
        return list(self.network.state_dict().values())


def equal(one: Training, other: Training) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one.weights(), other.weights(), strict=True))


def test_it_is_the_plain_loop():
    """Against a loop written out: rate, loss, backward pass, update, in this order."""
    looped, plain = Training(), Training()
    progress = Progress(3, STEPS)
    assert looped.fit(progress)
    assert (progress.epoch, progress.step, progress.share) == (3, 15, 1.0)
    for epoch in range(3):
        for number, batch in enumerate(plain.batches(epoch)):
            set_learning_rate(plain.optimizer, peak=0.1, step=epoch * STEPS + number, steps=15)
            with plain.random.active():
                plain.step(batch, progress)
    assert equal(looped, plain)
    assert looped.used == plain.used


def test_one_step_at_a_time_is_the_same():
    looped, single = Training(), Training()
    looped.fit(Progress(2, STEPS))
    progress = Progress(2, STEPS)
    losses = [
        take_step(single.step, batch, progress, rates=single.rates, random=single.random)
        for epoch in range(2)
        for batch in single.batches(epoch)
    ]
    assert equal(looped, single) and len(losses) == progress.step == 10 and all(map(math.isfinite, losses))


def test_resumed_is_uninterrupted():
    whole, before, after = Training(), Training(), Training()
    whole.fit(Progress(4, STEPS))
    kept = {}

    def keep(progress: Progress) -> None:
        state = training_state({"net": before.network}, before.optimizer, before.random, progress)
        kept[progress.epoch] = copy.deepcopy(state)

    stopped = Progress(4, STEPS)
    assert not before.fit(stopped, after_epoch=keep, stop=lambda: stopped.step >= 13)
    assert sorted(kept) == [1, 2] and stopped.step == 13
    with after.random.active():
        torch.randn(3)  # a stream that is elsewhere, until it is restored
    resumed = Progress(4, STEPS)
    load_training_state(kept[2], {"net": after.network}, after.optimizer, after.random, resumed)
    assert (resumed.epoch, resumed.step) == (2, 10)
    assert after.fit(resumed)
    assert equal(whole, after)


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    Training().fit(Progress(1, STEPS))
    assert torch.equal(torch.get_rng_state(), state)


def test_reports_every_fourth_step_and_the_last():
    reported, ended = [], []
    Training().fit(
        Progress(2, STEPS),
        report=lambda progress: reported.append(progress.step),
        after_epoch=lambda progress: ended.append((progress.epoch, progress.step)),
    )
    assert reported == [4, 8, 10]
    assert ended == [(1, 5), (2, 10)]


def test_the_clock_ends_a_training_and_its_rates():
    """Each step takes a tenth of the time: two of five epochs are made, and the rate goes down with the clock."""
    seconds = [0.0]
    training = Training()

    def step(batch: torch.Tensor, progress: Progress) -> float:
        seconds[0] += 1.0
        return training.step(batch, progress)

    progress = Progress(5, STEPS, deadline=Deadline(10.0, now=lambda: seconds[0]))
    assert fit(step, training.batches, progress, rates=training.rates)
    assert (progress.epoch, progress.step) == (2, 10)
    expected = [set_learning_rate(training.optimizer, peak=0.1, step=100 * k, steps=1000) for k in range(10)]
    assert training.used == pytest.approx(expected)


def test_the_clock_ends_within_an_epoch():
    training, times = Training(), iter(range(100))
    progress = Progress(5, STEPS, deadline=Deadline(6.0, now=lambda: float(next(times))))
    assert training.fit(progress)
    assert progress.step < STEPS and progress.epoch == 1


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_no_step(seconds):
    progress = Progress(5, STEPS, deadline=Deadline(seconds))
    assert Training().fit(progress)
    assert progress.step == 0


def test_with_time_without_end_all_epochs_are_made():
    progress = Progress(2, STEPS, deadline=Deadline(math.inf))
    assert Training().fit(progress)
    assert progress.step == 10


def test_batches_are_closed_when_it_stops():
    closed, held = [], []

    def endless(epoch: int):
        try:
            while True:
                yield epoch
        finally:
            closed.append(epoch)

    def batches(epoch: int):
        held.append(endless(epoch))  # so that it does not end by not being used any more
        return held[-1]

    progress = Progress(1, 9)
    assert not fit(
        lambda batch, progress: None,
        batches,
        progress,
        rates=lambda progress: None,
        stop=lambda: progress.step == 2,
    )
    assert closed == [0] and progress.step == 2


def test_the_best_state_is_kept_and_restored():
    network = nn.Linear(1, 1, bias=False)
    best = Best(network)
    for weight, score in ((1.0, 0.5), (2.0, 0.9), (3.0, 0.9), (4.0, 0.2)):
        network.weight.data.fill_(weight)
        best.offer(score)
    best.restore()
    assert network.weight.item() == 2.0 and best.score == 0.9 and not network.training
