"""The judgement of cuts tells rounding from a wrong cut."""

from __future__ import annotations

import families
import pytest
import torch
from torch import Tensor, nn

SIZE = 8


class Small(nn.Module):
    """Its gradients are sums of many numbers of both signs, so that their order matters in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, families.OUTPUTS, 3)
        self.scale = 1e4

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))).mean((2, 3)) * self.scale


class Front(nn.Module):
    """The begin of :class:`Small`, with a fault in its gradients."""

    def __init__(self, first: nn.Module, factor: float) -> None:
        super().__init__()
        self.first, self.factor = first, factor

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return Scaled.apply(x, self.factor)


class Scaled(torch.autograd.Function):
    """The identity whose gradient is multiplied by a factor, rounded to the numbers of float32."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.factor is None:  # rounding alone: as much as float32 may lose, nothing in float64
            return gradient * (1.01 if gradient.dtype == torch.float32 else 1 + 1e-13), None
        return gradient * ctx.factor, None


class Back(nn.Module):
    """The end of :class:`Small`."""

    def __init__(self, second: nn.Module, scale: float) -> None:
        super().__init__()
        self.second, self.scale = second, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x).mean((2, 3)) * self.scale


@pytest.fixture
def planted(monkeypatch):
    """Cuts a network into halves whose gradients are multiplied by a factor."""

    def plant(factor):
        def cut(model, at, shape):
            return Front(model.first, factor), Back(model.second, model.scale)

        monkeypatch.setattr(families, "cut", cut)
        return families.judged(Small(), "first", SIZE)

    return plant


def test_equal_halves_need_no_remark(planted):
    assert planted(1.0) == ("", "")


def test_what_differs_in_float32_alone_is_rounding(planted):
    wrong, rounded = planted(None)
    assert not wrong
    assert rounded.startswith("first: gradient of first.weight (float32 5e-03, float64 ")


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.001])
def test_a_wrong_cut_is_wrong_in_float64_too(planted, factor):
    wrong, rounded = planted(factor)
    assert wrong.startswith("first: gradient of first.weight")
    assert not rounded


def test_a_lost_parameter_is_wrong(planted, monkeypatch):
    def cut(model, at, shape):
        model.first.bias = None
        return Front(model.first, 1.0), Back(model.second, model.scale)

    planted(1.0)
    monkeypatch.setattr(families, "cut", cut)
    assert "names of parameters" in families.judged(Small(), "first", SIZE)[0]
