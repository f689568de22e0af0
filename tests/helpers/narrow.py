"""A network with the stages and shapes of a ResNet-18 and a hundredth of its weights: ``model.name: narrow:build``.

For tests in which the network does not matter: building it, and writing a checkpoint of it, takes milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def build(num_classes: int) -> nn.Module:
    """32x32 pixels → (64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1) after ``layer1`` to ``layer4`` → the outputs."""
    stages = OrderedDict(layer1=_stage(3, 64, 4))
    for number, channels in enumerate((64, 128, 256), start=2):
        stages[f"layer{number}"] = _stage(channels, 2 * channels, 2)
    return nn.Sequential(
        stages | {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(512, num_classes)}
    )


def _stage(channels: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, outputs, 1, stride, bias=False), norm=nn.BatchNorm2d(outputs), relu=nn.ReLU()
        )
    )
