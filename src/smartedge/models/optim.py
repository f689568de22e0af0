"""How parameters are updated: the optimizer and the learning rate of each step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from smartedge.models.zoo.weights import is_pretrained

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "apply_gradients",
    "in_one_pass",
    "laid_out_like",
    "make_optimizer",
    "set_learning_rate",
]

AdamOrAdamW = TypeVar("AdamOrAdamW", torch.optim.Adam, torch.optim.AdamW)
_WARMUP_SHARE = 0.1
_SMALLEST_NORM = 1e-6  # that of torch's clip_grad_norm_
_SCALE = "lr_scale"  # of a group: its learning rate ÷ that of the others
_Kind = TypeVar("_Kind", bound=type[torch.optim.Optimizer])


def _without_compiler(kind: _Kind) -> _Kind:
    """The same optimizer, which does not import ``torch._dynamo``: 70 MiB and a second.

    torch wraps these functions only to keep its compiler away from them, and imports it for that.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    own = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"__module__": __name__, "step": step, **own})  # type: ignore[return-value]


SGD = _without_compiler(torch.optim.SGD)
Adam = _without_compiler(torch.optim.Adam)
AdamW = _without_compiler(torch.optim.AdamW)


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
        return in_one_pass(AdamW(groups, lr=lr))
    return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:  # torch's own form
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def in_one_pass(optimizer: AdamOrAdamW) -> AdamOrAdamW:
    """Let an optimizer update each parameter on the CPU in one pass over memory, by torch's fused kernel.

    It takes a quarter of the time, and no memory of the gradients' size. Only the last bits of the result differ.
    Measurements, and why a GPU and SGD are left as they are: docs/decisions/0055-one-pass-of-adam.md.
    """
    optimizer.register_step_pre_hook(_prepare)
    return optimizer


def _prepare(optimizer: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
    """The fused kernel reads the numbers as they lie in memory and does not look at strides. So all must lie alike."""
    for group in optimizer.param_groups:
        group["fused"] = all(_has_kernel(p) for p in group["params"])
        for p in group["params"] if group["fused"] else []:
            if p.grad is not None:
                p.grad = laid_out_like(p, p.grad)
            state = optimizer.state.get(p, {})  # of a checkpoint it has torch's usual layout
            state.update({name: laid_out_like(p, value) for name, value in state.items() if value.shape == p.shape})


def _has_kernel(p: Tensor) -> bool:
    without_gaps = torch.empty_like(p).stride() == p.stride()
    return p.device.type == "cpu" and p.is_floating_point() and without_gaps


@torch.no_grad()
def laid_out_like(parameter: Tensor, values: Tensor) -> Tensor:
    """Values of the parameter's shape in its memory format; themselves where they have it."""
    if values.stride() == parameter.stride():
        return values
    return torch.empty_like(parameter, dtype=values.dtype).copy_(values)


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


@torch.no_grad()
def apply_gradients(optimizer: torch.optim.Optimizer, *, clip_norm: float) -> Tensor:
    """Scale all gradients down to ``clip_norm`` together, update, clear; returns the norm before scaling.

    Gradients are not changed in place, since workers may share their memory. Small ones are not copied.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norms = torch._foreach_norm([p.grad for p in parameters]) if parameters else [torch.zeros(())]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    scale = (clip_norm / (norm + _SMALLEST_NORM)).clamp(max=1.0)
    if norm.device.type != "cpu" or scale != 1.0:  # a GPU would have to be waited for
        for p in parameters:
            assert p.grad is not None
            p.grad = p.grad * scale
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
