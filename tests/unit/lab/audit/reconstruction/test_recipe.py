from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from smartedge.lab.audit.reconstruction.recipe import Recipe, fit_best
from smartedge.lab.audit.run_evidence import RunEvidence


def fitted(scores: list[float], **changes: object) -> tuple[nn.Linear, list[torch.Tensor], object]:
    """Fit a linear layer; it scores as told, epoch by epoch."""
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    seen: list[torch.Tensor] = []

    def score() -> float:
        seen.append(network.weight.detach().clone())
        return scores[len(seen) - 1]

    settings = dict(
        rows=10, batch_size=4, step_size=4, epochs=len(scores), lr=0.1, weight_decay=0.0, seconds=float("inf")
    )
    result = fit_best(
        network,
        Recipe(**{**settings, **changes}),
        examples=lambda rows: (torch.ones(len(rows), 2),),
        loss=lambda ones: (network(ones) - 3).square().mean(),
        score=score,
        generator=torch.Generator().manual_seed(0),
        report=lambda *_: None,
    )
    return network, seen, result


def test_the_epoch_that_scored_best_is_kept():
    network, seen, result = fitted([0.1, 0.9, 0.2])
    assert torch.equal(network.weight, seen[1]) and not torch.equal(seen[1], seen[2])
    assert (result.epochs, result.planned, result.score) == (3.0, 3, 0.9)
    assert not network.training


def test_without_time_nothing_is_learned_and_the_figures_say_so():
    torch.manual_seed(0)
    fresh = nn.Linear(2, 1).weight
    network, _, result = fitted([0.5, 0.5], seconds=0.0)
    assert torch.equal(network.weight, fresh)
    assert result.epochs == 0


def test_fewer_rows_than_a_batch_are_one_batch():
    _, seen, result = fitted([0.1, 0.2], rows=3)
    assert len(seen) == 2 and result.epochs == 2


def test_streamed_images_come_in_an_order_that_suits_their_reader(blind: RunEvidence, monkeypatch: pytest.MonkeyPatch):
    train = blind.train
    any_order = train.order(torch.Generator().manual_seed(3))
    assert torch.equal(any_order, torch.randperm(len(train), generator=torch.Generator().manual_seed(3)))
    store = train.split._store
    monkeypatch.setattr(store, "streamed", True)
    monkeypatch.setattr(store, "shuffled", lambda ids, random: np.roll(np.arange(len(ids)), 5), raising=False)
    assert train.order(torch.Generator().manual_seed(3)).tolist() == np.roll(np.arange(len(train)), 5).tolist()


def test_an_order_is_asked_for_in_every_epoch():
    asked: list[list[int]] = []
    network = nn.Linear(2, 1)
    fit_best(
        network,
        Recipe(6, 3, 3, 2, float("inf"), 0.1, order=lambda generator: torch.arange(5, -1, -1)),
        examples=lambda rows: (asked.append(rows.tolist()) or torch.ones(len(rows), 2),),
        loss=lambda ones: network(ones).mean(),
        score=lambda: 0.0,
        generator=torch.Generator().manual_seed(0),
        report=lambda *_: None,
    )
    assert asked == [[5, 4, 3], [2, 1, 0]] * 2


def test_a_batch_is_asked_for_at_once_and_learned_from_in_small_steps():
    asked, learned = [], []
    network = nn.Linear(2, 1)

    def examples(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(rows.tolist())
        return rows.float()[:, None].expand(-1, 2), rows

    def loss(inputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        learned.append(rows.tolist())
        return network(inputs).mean()

    result = fit_best(
        network,
        Recipe(rows=20, batch_size=8, step_size=3, epochs=1, lr=0.1, seconds=float("inf")),
        examples=examples,
        loss=loss,
        score=lambda: 0.0,
        generator=torch.Generator().manual_seed(0),
        report=lambda *_: None,
    )
    assert [len(rows) for rows in asked] == [8, 8]
    assert [len(rows) for rows in learned] == [3, 3, 2, 3, 3, 2]
    assert [row for rows in learned for row in rows] == [row for rows in asked for row in rows]
    assert result.epochs == 1
