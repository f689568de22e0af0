"""Training a front for few bytes: what its features will cost is part of its loss.

The features are rounded by the codec ``learned`` when they are sent. While the front learns, uniform noise as wide as a
step stands for the rounding, and the heads learn from the noisy features. The loss is

    task loss + λ * (bits that the features cost by a prior) / (bits of the target)

after Ballé et al., "End-to-end optimized image compression" (arXiv 1611.01704), and with the task in place of the image
after Matsubara et al., "Supervised compression for split computing" (arXiv 2108.11898).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smartedge.codec.learned import LearnedCodec
from smartedge.codec.quantise import channel_axis
from smartedge.models.optim import apply_gradients
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
        self._optimizer = torch.optim.Adam(self._prior.parameters(), lr=_PRIOR_LR)
        self.step: float | None = None  # None: before the first batch
        self.weight = _FIRST_WEIGHT  # λ

    def rounded(self, features_BF: Tensor) -> Tensor:
        """The features, float32 (B, *F), with noise that stands for the rounding; the gradient passes."""
        if self.step is None:
            start = LearnedCodec(math.ceil(_FINER * self._codec.target))
            self.step = start.step(features_BF.detach().float().cpu().numpy())
        return features_BF.float() + self.step * (torch.rand_like(features_BF, dtype=torch.float32) - 0.5)

    def penalty(self, rounded_BF: Tensor) -> Tensor:
        """What is added to the loss: λ times the bits per image, in units of the target."""
        assert self.step is not None
        steps_NC = rounded_BF.movedim(self._axis, -1).reshape(-1, rounded_BF.shape[self._axis]) / self.step
        bits: Tensor = self._prior(steps_NC)
        return self.weight * bits / (8 * self._codec.target * len(rounded_BF))

    def update(self, features_BF: Tensor) -> dict[str, float]:
        """After the backward pass: update the prior and λ.

        Args:
            features_BF: without the noise, as the front made them.

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
