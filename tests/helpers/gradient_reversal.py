"""A gradient reversal layer, for tests of cutting and recording."""

from __future__ import annotations

import torch


class Reverse(torch.autograd.Function):
    """Its forward pass alone does not show what it does."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient
