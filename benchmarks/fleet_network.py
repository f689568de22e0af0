"""A small network for benchmarks/fleet.py and fleet_faces.py: three stages of convolutions, for images of 32 pixels."""

from __future__ import annotations

from torch import Tensor, nn


def _block(channels_in: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


class SmallNetwork(nn.Module):
    """About 10 million multiplications per image, of which the first stage has a tenth."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(*_block(3, 24), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(*_block(24, 48), *_block(48, 48), nn.MaxPool2d(2))
        self.stage3 = nn.Sequential(*_block(48, 96), *_block(96, 96))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stage3(self.stage2(self.stage1(x))))
        return logits


PUBLISHED: dict[str, Tensor] = {}  # weights with which every network begins


def build(num_classes: int) -> nn.Module:
    """The factory that ``model.name: fleet_network:build`` names."""
    network = SmallNetwork(num_classes)
    network.load_state_dict({**network.state_dict(), **PUBLISHED})
    return network
