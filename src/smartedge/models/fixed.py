"""What a network's own code keeps as it is: parameters that do not learn, and modules that stay in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["kept_as_it_is"]


def kept_as_it_is(modules: Iterable[nn.Module]) -> str | None:
    """One line about these parts of a network, in training mode; None: all of it learns as usual.

    Call it where the settings freeze nothing (``train.freeze``). The modules stay in the mode that they have.
    """
    parts = list(modules)
    modes = [(module, module.training) for part in parts for module in part.modules()]
    for part in parts:
        part.train()
    parameters = [parameter for part in parts for parameter in part.parameters()]
    frozen = sum(not parameter.requires_grad for parameter in parameters)
    kinds = (_BatchNorm, _DropoutNd)
    still = [m for part in parts for m in part.modules() if isinstance(m, kinds) and not m.training]
    for module, mode in modes:
        module.training = mode
    said = []
    if frozen:
        said.append(f"{frozen} of {len(parameters)} parameters do not learn (requires_grad=False)")
    if still:
        names = " and ".join(sorted({type(module).__name__ for module in still}))
        said.append(f"{len(still)} modules stay in evaluation mode ({names})")
    return f"the network's own code keeps something as it is: {'; '.join(said)}" if said else None
