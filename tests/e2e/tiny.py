"""A network small enough for tests, built by a user's factory: ``model.name: tiny:build``."""

from __future__ import annotations

from torch import Tensor, nn


class Tiny(nn.Module):
    """Two stages and a linear layer, with dropout on both sides of the usual cut."""

    def __init__(self, num_classes: int, dropout: float = 0.1, channels: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(x)))


class Pixels(nn.Module):
    """A front without arithmetic: every 4th pixel of two colours. Any program computes it bit for bit."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2, ::4, ::4]


class Exact(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage1 = Pixels()
        self.head = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage1(x))


def build_exact(num_classes: int) -> nn.Module:
    return Exact(num_classes)


def build(num_classes: int, dropout: float = 0.1, channels: int = 3) -> nn.Module:
    return Tiny(num_classes, dropout, channels)


def build_wide(num_classes: int) -> nn.Module:
    """With more channels at the usual cut."""
    network = Tiny(num_classes)
    network.stage1[0], network.stage1[1] = nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12)
    network.stage2[0] = nn.Conv2d(12, 16, 3, 2, 1)
    return network
