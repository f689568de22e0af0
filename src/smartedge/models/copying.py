"""Deep copies of modules, also of those that keep a tensor which they computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

__all__ = ["copied", "kept_results"]

_Module = TypeVar("_Module", bound=nn.Module)


def copied(module: _Module) -> _Module:
    """A deep copy. A tensor that a module computed and keeps is copied without its gradient's history."""
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in kept_results(module)})


def kept_results(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module computed and keeps, as ``torch.nn.utils.weight_norm`` does."""
    for inner in module.modules():
        for value in vars(inner).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value
