"""Counts floating-point operations, and notices random numbers, while torch runs its operators."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["OperatorWatch"]


class OperatorWatch(TorchDispatchMode):
    """Within its block: ``flops`` that were computed so far, and whether an operator drew ``random`` numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.random = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket, _EXTRA_FLOPS.get(func._overloadpacket))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        return out


# torch has a formula for attention on every device but the CPU.
_EXTRA_FLOPS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ]
}
