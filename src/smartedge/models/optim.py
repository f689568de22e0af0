"""How parameters are updated: the optimizer and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from smartedge.models.weights import is_pretrained

__all__ = ["apply_gradients", "make_optimizer", "set_learning_rate"]

_WARMUP_SHARE = 0.1
_SCALE = "lr_scale"  # of a group: its learning rate ÷ that of the others


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    lr_pretrained: float | None = None,
) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters. Only matrices and kernels decay, not biases and the scales of norms.

    With ``lr_pretrained``, pretrained parameters have groups of their own, whose rate is always that share of the
    others' rate.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    old = [p for p in parameters if lr_pretrained is not None and is_pretrained(p)]
    kept = {id(p) for p in old}
    groups = _groups([p for p in parameters if id(p) not in kept], weight_decay)
    if lr_pretrained is not None and old:
        groups += [{**group, _SCALE: lr_pretrained / lr} for group in _groups(old, weight_decay)]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:  # torch's own form
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, *, peak: float, step: int, steps: int) -> float:
    """Linear warm-up over the first tenth of ``steps``, then a cosine to zero. ``step`` counts from 0."""
    warmup = max(1, round(_WARMUP_SHARE * steps))
    if step < warmup:
        rate = peak * (step + 1) / warmup
    else:
        rate = peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_SCALE, 1.0)
    return rate


def apply_gradients(optimizer: torch.optim.Optimizer, *, clip_norm: float) -> Tensor:
    """Scale all gradients down to ``clip_norm`` together, update, clear; returns the norm before scaling."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
