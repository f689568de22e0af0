"""Random numbers: each side of a run has its own stream, whatever else draws in the process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["RandomStream", "derive_seed"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; different purposes of one seed are unrelated."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class RandomStream:
    """A state of torch's global CPU generator. It is in place only while its owner computes.

    Dropout and stochastic depth draw from the global generator. With one stream per side, a run in one process draws
    the same numbers as a run in two. A device other than the CPU has its own generator. At each entry it gets a
    seed from the stream, so ``state`` alone decides the next numbers.
    """

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self.state: Tensor = torch.Generator().manual_seed(seed).get_state()
        self._own = None if device is None or device.type == "cpu" else torch.get_device_module(device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draws inside the block come from this stream; the global state outside is untouched."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.state)
        if self._own is not None:
            outside_own = self._own.get_rng_state()
            self._own.manual_seed(int(torch.randint(2**62, ())))
        try:
            yield
        finally:
            self.state = torch.get_rng_state()
            torch.set_rng_state(outside)
            if self._own is not None:
                self._own.set_rng_state(outside_own)
