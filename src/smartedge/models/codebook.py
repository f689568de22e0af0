"""A codebook at the cut: instead of a tensor, one of K codewords crosses.

The front ends with :class:`Encode`, the back begins with :class:`Decode`. A vector of K numbers crosses. While the edge
trains, these are the probabilities of the codewords, and heads learn from the exact expectation over them (see
:class:`smartedge.models.released.SimulatedRelease`). What is released is the most probable codeword, as a one-hot
vector. A discrete mechanism replaces it by another codeword, or by the indicator of a set of codewords.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.models.bottleneck import Expand
from smartedge.models.exits import TaskExit
from smartedge.models.layout import Layout, is_map, known_layout, map_size

__all__ = ["CodewordExit", "Decode", "Encode", "hard"]

_WIDTH = 128
_MAP = 4  # a codeword is first turned into a map of this side, or into so many tokens
_NARROW = 16  # channels of that map, width of those tokens
_SURE = 1.0  # size of the logits with which an exit begins


class Encode(nn.Module):
    """End of the front: (B, *F) → (B, K), probabilities of the codewords in training, one-hot in evaluation.

    A head of the task exit's form (convolutions or token-wise layers, mean pooling, one linear layer) gives K logits.
    """

    def __init__(self, feature_shape: tuple[int, ...], codewords: int, layout: Layout | None = None) -> None:
        super().__init__()
        self.choose = TaskExit(feature_shape, codewords, width=_WIDTH, depth=2, layout=layout)

    def forward(self, features_BF: Tensor) -> Tensor:
        """(B, *F) → float32 (B, K), rows sum to 1."""
        shares_BK = torch.softmax(self.choose(features_BF).float(), dim=1)
        return shares_BK if self.training else hard(shares_BK)


class Decode(nn.Module):
    """Begin of the back: (B, K) → (B, *F).

    A linear layer turns a codeword into a small map or a few tokens: it is an embedding, and a set of codewords gives
    the sum of its members' embeddings. :class:`~smartedge.models.bottleneck.Expand` brings that to the cut's shape.
    """

    def __init__(self, codewords: int, feature_shape: tuple[int, ...], layout: Layout | None = None) -> None:
        super().__init__()
        layout = known_layout(feature_shape, layout)
        self.small = _small(feature_shape, layout)
        self.embed = nn.Linear(codewords, torch.Size(self.small).numel())
        # As nn.Embedding does. nn.Linear would divide by sqrt(K), which suits a sum of K inputs; here one is 1.
        nn.init.normal_(self.embed.weight)
        self.expand = nn.Identity() if layout == "vector" else Expand(self.small, feature_shape, layout)

    def forward(self, codes_BK: Tensor) -> Tensor:
        """One-hot vectors or indicators of sets, float32 (B, K) → (B, *F)."""
        features_BF: Tensor = self.expand(self.embed(codes_BK).reshape(-1, *self.small))
        return features_BF


class CodewordExit(nn.Module):
    """The task exit on codewords: a table of logits, (B, K codewords) → (B, outputs).

    No head on one of K codewords can be more general than a table. For a set of codewords the logits are added. At the
    beginning codeword ``k`` means output ``k mod outputs``, so the loss tells the front from the first step which
    codeword to choose. A table of small random numbers has nearly the same loss everywhere, and the front would learn
    nothing for several epochs.
    """

    def __init__(self, codewords: int, outputs: int) -> None:
        super().__init__()
        self.classify = nn.Linear(codewords, outputs)
        meant_OK = torch.arange(codewords)[None, :] % outputs == torch.arange(outputs)[:, None]
        with torch.no_grad():
            self.classify.weight.copy_(torch.where(meant_OK, _SURE, -_SURE))
            self.classify.bias.zero_()

    def forward(self, codes_BK: Tensor) -> Tensor:
        """One-hot vectors or indicators of sets, float32 (B, K) → logits (B, outputs)."""
        logits_BO: Tensor = self.classify(codes_BK)
        return logits_BO


def hard(shares_BK: Tensor) -> Tensor:
    """The most probable codeword of each image, one-hot float32 (B, K)."""
    return F.one_hot(shares_BK.argmax(dim=1), shares_BK.shape[1]).float()


def _small(feature_shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Shape of what a codeword is turned into first: of the same layout as the tensor at the cut, but smaller."""
    if layout == "vector":
        return feature_shape
    if not is_map(layout):
        return min(_MAP, feature_shape[0]), min(_NARROW, feature_shape[1])
    _, height, width = map_size(feature_shape, layout)
    return _NARROW, min(_MAP, height), min(_MAP, width)
