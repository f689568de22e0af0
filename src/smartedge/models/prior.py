"""A model of how often each level of a feature occurs: it tells a front in training what its features cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["FactorisedPrior"]

_LOGISTICS = 3  # in a mixture
_SPREAD = 2.0  # of their means in the beginning, in steps
_RAREST = 1e-6  # no level is taken to be rarer: its cost, and its gradient, stay finite


class FactorisedPrior(nn.Module):
    """Each channel's numbers are independent draws from a mixture of logistic distributions of its own.

    It is a fully factorised model, as that of Ballé et al., "Variational image compression with a scale hyperprior"
    (arXiv 1802.01436, appendix 6.1), with mixtures of logistics in place of their network. A number that is rounded to
    a whole one has the probability of the interval of width 1 around it. With uniform noise of width 1 in place of
    rounding, which is differentiable, the density at a number is the same expression.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        spread = torch.linspace(-_SPREAD, _SPREAD, _LOGISTICS)
        self.means = nn.Parameter(spread[:, None].repeat(1, channels))
        self.log_scales = nn.Parameter(torch.zeros(_LOGISTICS, channels))
        self.log_shares = nn.Parameter(torch.zeros(_LOGISTICS, channels))

    def forward(self, steps_NC: Tensor) -> Tensor:
        """How many bits all numbers together cost, a scalar.

        Args:
            steps_NC: float32 (N, C), in units of the step between two levels.
        """
        inverse_KC = torch.exp(-self.log_scales)
        centred_NKC = (steps_NC.unsqueeze(1) - self.means) * inverse_KC
        half_KC = 0.5 * inverse_KC
        masses_NKC = torch.sigmoid(centred_NKC + half_KC) - torch.sigmoid(centred_NKC - half_KC)
        masses_NC = (masses_NKC * torch.softmax(self.log_shares, dim=0)).sum(dim=1)
        return -masses_NC.clamp(min=_RAREST).log().sum() / math.log(2)
