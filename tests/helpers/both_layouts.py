"""A network that works on maps (C, H, W) and, in between, on maps (H, W, C): ``model.name: both_layouts:build``."""

from __future__ import annotations

from torch import Tensor, nn


class LastBlock(nn.Module):
    """Works on maps (B, H, W, C), as Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.mix(self.norm(x))).tanh()


class Mixed(nn.Module):
    """8 channels, on maps of 8x8 where images have 32x32 pixels: then shapes alone cannot tell the layouts apart."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 4, stride=4), nn.ReLU()
        self.last, self.act = LastBlock(), nn.GELU()
        self.conv, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        x = self.act(self.last(x.permute(0, 2, 3, 1)))
        x = self.conv(x.permute(0, 3, 1, 2))
        return self.head(x.mean(dim=(2, 3)))


def build(num_classes: int) -> nn.Module:
    return Mixed(num_classes)
