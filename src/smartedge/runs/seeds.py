"""Randomness that does not depend on who else draws: each side of a run has its own stream."""

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
    """A state of torch's global CPU generator that is put in place only while its owner computes.

    Dropout and stochastic depth draw from the global generator. With one stream per side, a run in one process draws
    the same numbers as a run in two.
    """

    def __init__(self, seed: int) -> None:
        self.state: Tensor = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draws inside the block come from this stream; the global state outside is untouched."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self.state)
        try:
            yield
        finally:
            self.state = torch.get_rng_state()
            torch.set_rng_state(outside)
