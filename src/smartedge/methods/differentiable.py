"""What the heads on the edge are shown: what a mechanism would release of bounded features, and their mean answer."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from smartedge.models.exits import probabilities
from smartedge.models.seen import Seen
from smartedge.privacy.mechanisms import Discrete, Mechanism

__all__ = ["posterior", "show"]


def show(mechanism: Mechanism, features_BF: Tensor, *, noise: float = 1.0) -> Seen:
    """A fresh simulated release; differentiable in the features. Never what is really released.

    Args:
        mechanism: the run's.
        features_BF: float32 (B, *F), bounded here; or, where one of K codewords is released, their probabilities
            (B, K), and the outcomes' probabilities are then exact: ``p_code @ channel``.
        noise: share of the mechanism's noise, 0 to 1: so much of what it adds to each number, or, of codewords, the
            probability that the mechanism's channel applies and not the one that always tells the truth.
    """
    if not isinstance(mechanism, Discrete):
        bounded_BF = mechanism.bound(features_BF)
        return Seen(torch.lerp(bounded_BF, mechanism.simulate(bounded_BF), noise))
    outcomes_OK, channel_KO, truthful_KO = (table.to(features_BF.device) for table in _tables(mechanism))
    return Seen(outcomes_OK, features_BF @ torch.lerp(truthful_KO, channel_KO, noise))


@lru_cache(maxsize=8)
def _tables(mechanism: Discrete) -> tuple[Tensor, Tensor, Tensor]:
    """Outcomes, the mechanism's channel, and its limit for a large ε: uniform over the outcomes that hold the word."""
    outcomes_OK = mechanism.outcomes()
    return outcomes_OK, mechanism.channel(), outcomes_OK.T / outcomes_OK.sum(dim=0)[:, None]


def posterior(seen: Seen, logits_BOK: Tensor, task_kind: str) -> Tensor:
    """Logits (B, K), float32, of the expectation of a head's probabilities over an image's outcomes."""
    if seen.shares_BO is None:
        return logits_BOK.squeeze(1).float()
    batch, outcomes, outputs = logits_BOK.shape
    scores_BOK = probabilities(logits_BOK.reshape(-1, outputs), task_kind).reshape(batch, outcomes, outputs)
    scores_BK = seen.expect(scores_BOK)
    tiny = torch.finfo(torch.float32).tiny
    if task_kind == "single":
        return scores_BK.clamp(min=tiny).log()
    return scores_BK.clamp(min=tiny).log() - (1 - scores_BK).clamp(min=tiny).log()
