"""The back of edges whose cuts differ: what an edge sends enters behind the layers that this edge computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide_in_order

__all__ = ["Entrances"]


class Entrances(nn.Module):
    """All layers from the earliest cut on, with one entrance for each cut.

    A batch may hold images of several cuts. Those that enter later join the others at their cut. So every layer
    computes all images that pass it together, and batch normalisation sees them together.

    At the beginning the parameters are those of the backs that :func:`smartedge.models.network.divide` gives for each
    cut.

    Args:
        blueprint: of the network; its ``at`` is not used.
        cuts: where the network is divided, in the order of the network.

    Attributes:
        cuts: as given.
        shapes: cut → shape F of the tensor that crosses there.

    Raises:
        CutError: the network cannot be cut there, or the cuts are not in order.
        ConfigError: the bottleneck does not fit the tensor at a cut.
    """

    def __init__(self, blueprint: Blueprint, cuts: Sequence[str]) -> None:
        super().__init__()
        parts, ends = divide_in_order(blueprint, cuts)
        self.cuts = tuple(cuts)
        self.shapes = {cut: each.feature_shape for cut, each in zip(cuts, ends, strict=True)}
        self._widens = ends[0].widen is not None
        self.entrances = nn.ModuleList(nn.Identity() if each.widen is None else each.widen for each in ends)
        self.layers = nn.ModuleList(parts[1:])

    def forward(self, entering: Mapping[str, Tensor]) -> Tensor:
        """Cut → features (B, *F) of that cut; at least one cut. Returns logits (all B, K), in the order of the cuts."""
        passing: list[Tensor] = []
        for cut, entrance, layers in zip(self.cuts, self.entrances, self.layers, strict=True):
            if cut in entering:
                passing.append(entrance(entering[cut]))
            if passing:
                passing = [layers(passing[0] if len(passing) == 1 else torch.cat(passing))]
        return passing[0]

    def state_from(self, cut: str) -> dict[str, Tensor]:
        """The state of the back for one cut, as the back that :func:`~smartedge.models.network.divide` gives loads it."""
        place = self.cuts.index(cut)
        state = {name: tensor for layers in self.layers[place:] for name, tensor in layers.state_dict().items()}
        if not self._widens:
            return state
        widen = {f"0.{name}": tensor for name, tensor in self.entrances[place].state_dict().items()}
        return widen | {f"1.{name}": tensor for name, tensor in state.items()}
