"""The back of several edges: what an edge sends enters behind the layers that this edge computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide_in_order

__all__ = ["Entering", "Entrances"]


@dataclass(frozen=True)
class Entering:
    """A batch of several edges, as :class:`Entrances` takes it.

    Attributes:
        features: cut → float32 (B, *F), the images that enter there; at least one cut.
        places: int64 (all B,): the place in the batch of each image, where ``features`` are put after each other in the
            order of the network.
        offsets_BK: added to the logits in training; see
            :class:`smartedge.cloud.label_shares.LabelShares`. None: zero.
    """

    features: Mapping[str, Tensor]
    places: Tensor
    offsets_BK: Tensor | None = None


class Entrances(nn.Module):
    """All layers from the earliest cut on, with one entrance for each cut.

    A batch may hold images of several cuts. Those that enter later join the others at their cut. So every layer
    computes all images that pass it together, and batch normalisation sees them together.

    Args:
        cuts: where images enter, in the order of the network.
        entrances: for each cut what is run first, such as the expansion of a bottleneck.
        layers: for each cut the layers up to the next one, or to the end.
        shapes: cut → shape F of the tensor that crosses there.
    """

    def __init__(
        self,
        cuts: Sequence[str],
        entrances: Sequence[nn.Module | None],
        layers: Sequence[nn.Module],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.cuts = tuple(cuts)
        self.shapes = dict(shapes)
        self.entrances = nn.ModuleList(nn.Identity() if each is None else each for each in entrances)
        self.layers = nn.ModuleList(layers)
        self._widens = [each is not None for each in entrances]

    @classmethod
    def at_cuts(cls, blueprint: Blueprint, cuts: Sequence[str]) -> Entrances:
        """The back for edges with these cuts.

        At the beginning its parameters are those of the backs that :func:`smartedge.models.network.divide` gives for
        each cut.

        Args:
            blueprint: of the network; its ``at`` is not used.
            cuts: where it is divided, in the order of the network.

        Raises:
            CutError: the network cannot be cut there, or the cuts are not in order.
            ConfigError: the bottleneck does not fit the tensor at a cut.
        """
        parts, ends = divide_in_order(blueprint, cuts)
        shapes = {cut: each.feature_shape for cut, each in zip(cuts, ends, strict=True)}
        return cls(cuts, [each.widen for each in ends], parts[1:], shapes)

    @classmethod
    def around(cls, back: nn.Module, cut: str, shape: tuple[int, ...]) -> Entrances:
        """The back for edges that all have one cut."""
        return cls([cut], [None], [back], {cut: shape})

    def forward(self, entering: Entering) -> Tensor:
        """Logits (B, K), in the order of the batch."""
        passing: list[Tensor] = []
        for cut, entrance, layers in zip(self.cuts, self.entrances, self.layers, strict=True):
            if cut in entering.features:
                passing.append(_run(entrance, entering.features[cut]))
            if passing:
                passing = [_run(layers, passing[0] if len(passing) == 1 else torch.cat(passing))]
        logits_BK = passing[0]
        if len(entering.features) > 1:
            logits_BK = logits_BK[entering.places.argsort()]
        if self.training and entering.offsets_BK is not None:
            logits_BK = logits_BK + entering.offsets_BK
        return logits_BK

    def from_first_cut(self) -> nn.Sequential:
        """The same layers for features (B, *F) of the earliest cut alone → logits (B, K)."""
        return nn.Sequential(self.entrances[0], *self.layers)

    def state_from(self, cut: str) -> dict[str, Tensor]:
        """The state of the back for one cut; the back of :func:`~smartedge.models.network.divide` loads it."""
        place = self.cuts.index(cut)
        state = {name: tensor for layers in self.layers[place:] for name, tensor in layers.state_dict().items()}
        if not self._widens[place]:
            return state
        widen = {f"0.{name}": tensor for name, tensor in self.entrances[place].state_dict().items()}
        return widen | {f"1.{name}": tensor for name, tensor in state.items()}


def _run(module: nn.Module, features_BF: Tensor) -> Tensor:
    """The module's result. In training, an image that passes alone is normalised by the running mean and variance."""
    alone = module.training and len(features_BF) == 1  # batch normalisation needs two
    if alone:
        module.eval()
    result_BF: Tensor = module(features_BF)
    if alone:
        module.train()
    return result_BF
