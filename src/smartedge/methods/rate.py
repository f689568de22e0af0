"""Training a front for few bytes: what its features will cost is part of its loss.

The features are rounded by the codec ``learned`` when they are sent. While the front learns, the heads learn from
rounded features, and the gradient passes as if nothing were rounded (*straight-through*). The loss is

    task loss + λ * (bits that the features cost by a prior) / (bits of the target)

where uniform noise as wide as a step stands for the rounding, since a number of bits has no gradient in whole numbers:
Ballé et al., "End-to-end optimized image compression" (arXiv 1611.01704). Noise in one term and rounding in the other
is from Minnen and Singh (arXiv 2007.08739, section 3.4), the task in place of the image from Matsubara et al. (arXiv
2108.11898).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smartedge.codec.learned import LearnedCodec
from smartedge.codec.quantise import channel_axis
from smartedge.models.optim import Adam, apply_gradients, in_one_pass
from smartedge.models.prior import FactorisedPrior
from smartedge.runs.checkpoint import State

__all__ = ["RateTerm"]

_PRIOR_LR = 0.02
_FINER = 1.25  # the step is the one with which an untrained front takes so many times the target
_FIRST_WEIGHT, _LEAST_WEIGHT, _LARGEST_WEIGHT = 0.1, 0.01, 3.0
_GAIN = 0.05  # of the controller: λ's change in one update, as share of the excess


class RateTerm:
    """The rate in the loss of one front: the step between levels, the prior, and the weight λ.

    The step follows from the first batch, and stays: with it the features of the untrained front take a quarter more
    than the target. From then on λ is multiplied by (bytes / target)^0.05 after each update: it rises while the
    features take more than the target, and falls while they take less. If λ ends at its largest value and the rate
    above the target, nothing fails: the codec then takes a larger step than the front was trained with.

    Args:
        feature_shape: F of what is sent.
        codec: of the run; it has the target.
        device: of the features.
    """

    def __init__(self, feature_shape: tuple[int, ...], codec: LearnedCodec, device: torch.device) -> None:
        self._codec = codec
        self._axis = channel_axis(len(feature_shape))
        self._prior = FactorisedPrior(feature_shape[self._axis - 1]).to(device)
        self._optimizer = in_one_pass(Adam(self._prior.parameters(), lr=_PRIOR_LR))
        self.step: float | None = None  # None: before the first batch
        self.weight = _FIRST_WEIGHT  # λ

    def rounded(self, features_BF: Tensor) -> Tensor:
        """The features as the codec rounds them, float32 (B, *F); the gradient is that of the features themselves."""
        if self.step is None:
            start = LearnedCodec(math.ceil(_FINER * self._codec.target))
            self.step = start.step(features_BF.detach().float().cpu().numpy())
        features_BF = features_BF.float()
        return features_BF + ((features_BF / self.step).round() * self.step - features_BF).detach()

    def penalty(self, features_BF: Tensor) -> Tensor:
        """What is added to the loss: λ times the bits per image, in units of the target. Draws the noise.

        Args:
            features_BF: as the front made them.
        """
        assert self.step is not None
        steps_NC = features_BF.float().movedim(self._axis, -1).reshape(-1, features_BF.shape[self._axis]) / self.step
        bits: Tensor = self._prior(steps_NC + torch.rand_like(steps_NC) - 0.5)
        return self.weight * bits / (8 * self._codec.target * len(features_BF))

    def update(self, features_BF: Tensor) -> dict[str, float]:
        """After the backward pass: update the prior and λ.

        Args:
            features_BF: as the front made them.

        Returns:
            ``rate_bytes``, what an image takes with the training's step, and ``rate_weight``, the λ of this update.
        """
        assert self.step is not None
        apply_gradients(self._optimizer, clip_norm=math.inf)
        features = features_BF.detach().float().cpu().numpy()
        figures = {
            "rate_bytes": self._codec.frame_bytes(features, self.step) / len(features),
            "rate_weight": self.weight,
        }
        excess = min(max(math.log(figures["rate_bytes"] / self._codec.target), -1), 1)
        self.weight = min(max(self.weight * math.exp(_GAIN * excess), _LEAST_WEIGHT), _LARGEST_WEIGHT)
        return figures

    def state(self) -> State:
        """All that training changes, for a checkpoint."""
        return {
            "prior": self._prior.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "weight": self.weight,
        }

    def load_state(self, state: State) -> None:
        """Restore a state."""
        self._prior.load_state_dict(state["prior"], strict=True)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.weight = state["step"], state["weight"]
