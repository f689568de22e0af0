"""A differentiable twin of each mechanism, on tensors. Training and attackers use it; a release never does.

The mechanism itself (:mod:`smartedge.privacy.mechanisms`) works on numpy arrays and makes what is released. Its twin
clips in the same way, and draws from the same law with torch's generator. ``tests/contract/test_differentiable.py``
compares the two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor

from smartedge.errors import PrivacyError
from smartedge.models.released import SimulatedRelease
from smartedge.privacy.mechanisms import Mechanism

__all__ = ["Differentiable", "differentiable"]

_SHRINK = 1 - 2.0**-20  # the same as in the mechanism: a clipped map stays below the bound


class Differentiable(ABC):
    """A mechanism on tensors.

    Attributes:
        channel: for codewords: the probability of each outcome given the codeword, float32 (K, O); None otherwise.
        outcomes: for codewords: what is released at each outcome, float32 (O, K); None otherwise.
    """

    channel: Tensor | None = None
    outcomes: Tensor | None = None

    @abstractmethod
    def bound(self, features_BF: Tensor) -> Tensor:
        """Clip each image's features (B, *F). Features that are clipped already stay as they are."""

    @abstractmethod
    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One random release of each image, float32 (B, *F)."""

    def law_inputs(self, features_BF: Tensor) -> Tensor:
        """What :meth:`log_density` takes of features: bounded ones. Of codewords, their probabilities."""
        return self.bound(features_BF)

    def log_density(self, released: SimulatedRelease, inputs_NF: Tensor) -> Tensor:
        """The logarithm of the density of each row of a release for each of N images, (R, N); differentiable in both.

        It lacks a term that depends on the row alone, as in :meth:`smartedge.privacy.laws.ReleaseLaw.log_density`.

        Args:
            released: a release with all of the mechanism's noise. Its R rows are drawn, or are all outcomes.
            inputs_NF: from :meth:`law_inputs`.

        Raises:
            PrivacyError: the mechanism adds no noise, so a release has no density.
        """
        raise PrivacyError("without noise a release is the features themselves: it has no density")

    def released(self, features_BF: Tensor, *, noise: float = 1.0) -> SimulatedRelease:
        """A new simulated release, differentiable in the features. The heads on the edge learn from it.

        Args:
            features_BF: float32 (B, *F); they are bounded here. For codewords: their probabilities (B, K). The
                probabilities of the outcomes are then exact: ``p_code @ channel``.
            noise: share of the mechanism's noise, 0 to 1. Additive noise is scaled by it. For codewords it is the
                probability of the mechanism's channel; otherwise the channel always tells the truth.
        """
        bounded_BF = self.bound(features_BF)
        return SimulatedRelease(torch.lerp(bounded_BF, self.simulate(bounded_BF), noise))


@lru_cache(maxsize=8)
def differentiable(mechanism: Mechanism) -> Differentiable:
    """The twin of a mechanism; the same object for the same mechanism."""
    channel_KO, outcomes_OK = mechanism.channel(), mechanism.outcomes()
    if channel_KO is not None and outcomes_OK is not None:
        return _Codewords(torch.from_numpy(channel_KO), torch.from_numpy(outcomes_OK))
    return _Unchanged() if mechanism.clip is None else _Additive(mechanism)


class _Unchanged(Differentiable):
    """Nothing is clipped or added."""

    def bound(self, features_BF: Tensor) -> Tensor:
        """The features themselves."""
        return features_BF

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The features themselves."""
        return bounded_BF


class _Additive(Differentiable):
    """A clip to a norm, and independent noise on each number; the gradient passes through both."""

    def __init__(self, mechanism: Mechanism) -> None:
        assert mechanism.clip is not None and mechanism.sigma is not None
        self.clip, self.sigma, self.norm = mechanism.clip, mechanism.sigma, mechanism.noise_norm
        self.each = mechanism.event.granularity == "element"

    def bound(self, features_BF: Tensor) -> Tensor:
        """Scale each image's features (element: each number) down to the norm where they exceed it."""
        flat_BD = features_BF.float().flatten(1)
        norms = flat_BD.abs() if self.each else flat_BD.norm(p=self.norm, dim=1, keepdim=True)
        factor = torch.where(norms > self.clip, self.clip * _SHRINK / norms.clamp(min=self.clip), 1.0)
        return (flat_BD * factor).reshape(features_BF.shape)

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add Laplace noise (norm 1) or normal noise (norm 2)."""
        device = bounded_BF.device if generator is None else generator.device
        if self.norm == 2:
            return bounded_BF + self.sigma * torch.randn(bounded_BF.shape, generator=generator, device=device).to(
                bounded_BF.device
            )
        unit = torch.rand(bounded_BF.shape, generator=generator, device=device).to(bounded_BF.device)
        half = (unit - 0.5).clamp(-0.4999999, 0.4999999)
        return bounded_BF - self.sigma / math.sqrt(2) * half.sign() * torch.log1p(-2 * half.abs())

    def log_density(self, released: SimulatedRelease, inputs_NF: Tensor) -> Tensor:
        """See :meth:`Differentiable.log_density`: −‖z − x‖²/2σ² without the term in z alone, or −‖z − x‖₁/b."""
        seen_RD, inputs_ND = released.features_NF.flatten(1), inputs_NF.flatten(1)
        if self.norm == 2:
            return (seen_RD @ inputs_ND.T - inputs_ND.square().sum(dim=1) / 2) / self.sigma**2
        return -torch.cdist(seen_RD, inputs_ND, p=1) * math.sqrt(2) / self.sigma


class _Codewords(Differentiable):
    """One of K codewords in, one of O outcomes out."""

    def __init__(self, channel_KO: Tensor, outcomes_OK: Tensor) -> None:
        self.channel, self.outcomes = channel_KO, outcomes_OK
        # The channel's limit for a large ε: uniform over the outcomes that hold the codeword.
        self.truthful_KO = outcomes_OK.T / outcomes_OK.sum(dim=0)[:, None]

    def bound(self, features_BF: Tensor) -> Tensor:
        """The codeword with the largest number, float32 one-hot (B, K). Without gradient; :meth:`released` has one."""
        chosen_B = features_BF.detach().argmax(dim=1)
        return torch.nn.functional.one_hot(chosen_B, features_BF.shape[1]).float()

    def simulate(self, bounded_BF: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An outcome per image, float32 (B, K); ``bounded_BF`` may hold any probabilities of codewords."""
        assert self.channel is not None and self.outcomes is not None
        shares_BO = bounded_BF.detach() @ self.channel.to(bounded_BF.device)
        drawn_B = torch.multinomial(shares_BO, 1, generator=generator).squeeze(1)
        return self.outcomes.to(bounded_BF.device)[drawn_B]

    def law_inputs(self, features_BF: Tensor) -> Tensor:
        """The probabilities of codewords themselves."""
        return features_BF

    def log_density(self, released: SimulatedRelease, inputs_NF: Tensor) -> Tensor:
        """See :meth:`Differentiable.log_density`; here it is a probability, and R is the number of outcomes."""
        assert self.channel is not None
        shares_NO = inputs_NF @ self.channel.to(inputs_NF.device)
        return shares_NO.clamp(min=torch.finfo(torch.float32).tiny).log().T

    def released(self, features_BF: Tensor, *, noise: float = 1.0) -> SimulatedRelease:
        """See :meth:`Differentiable.released`: all outcomes, and their probabilities for each image."""
        assert self.channel is not None and self.outcomes is not None
        device = features_BF.device
        law_KO = torch.lerp(self.truthful_KO.to(device), self.channel.to(device), noise)
        return SimulatedRelease(self.outcomes.to(device), features_BF @ law_KO)
