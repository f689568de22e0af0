"""A codebook at the cut: instead of a tensor, one of K codewords crosses.

The front ends with :class:`Encode`, the back begins with :class:`Decode`. What crosses is a vector of K numbers: in
training on the edge the probabilities of the codewords, which heads are trained through exactly (see
:class:`smartedge.models.seen.Seen`); released is the most probable one, as a one-hot vector, or what a discrete
mechanism makes of it: another codeword, or the indicator of a set of them.
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
_MAP = 4  # side of the map, or number of the tokens, that a codeword is first turned into
_NARROW = 16  # its channels
_SURE = 1.0  # logits of an exit that has not learned yet


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

    A linear layer (an embedding of the codewords; of a set of codewords, the sum of its members' embeddings) to a
    small map or a few tokens, which :class:`~smartedge.models.bottleneck.Expand` brings to the cut's shape.
    """

    def __init__(self, codewords: int, feature_shape: tuple[int, ...], layout: Layout | None = None) -> None:
        super().__init__()
        layout = known_layout(feature_shape, layout)
        self.small = _small(feature_shape, layout)
        self.embed = nn.Linear(codewords, torch.Size(self.small).numel())
        # As nn.Embedding: the default divides by sqrt(K), although a one-hot input adds up nothing.
        nn.init.normal_(self.embed.weight)
        self.expand = nn.Identity() if layout == "vector" else Expand(self.small, feature_shape, layout)

    def forward(self, codes_BK: Tensor) -> Tensor:
        """One-hot vectors or indicators of sets, float32 (B, K) → (B, *F)."""
        features_BF: Tensor = self.expand(self.embed(codes_BK).reshape(-1, *self.small))
        return features_BF


class CodewordExit(nn.Module):
    """The task exit on codewords: a table of logits, (B, K codewords) → (B, outputs).

    A table can say all that there is to say about one of K codewords (of a set, it adds up). It starts with a meaning
    for every codeword, output ``k mod outputs``, so that from the first step the loss tells the front which codeword to
    choose. A table of small random numbers has nearly the same loss everywhere, and the front then learns nothing for
    epochs.
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
    """What a codeword is turned into, of the same kind as the tensor at the cut but smaller."""
    if layout == "vector":
        return feature_shape
    if not is_map(layout):
        return min(_MAP, feature_shape[0]), min(_NARROW, feature_shape[1])
    _, height, width = map_size(feature_shape, layout)
    return _NARROW, min(_MAP, height), min(_MAP, width)
