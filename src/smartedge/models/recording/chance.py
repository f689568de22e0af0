"""Notices draws from Python's and NumPy's random generators, which no recording of torch's operations can hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from torch import nn

__all__ = ["Generators"]


class Generators:
    """The global generators, and those that modules of a network hold as attributes."""

    def __init__(self, model: nn.Module) -> None:
        self._before = random.getstate(), np.random.get_state()
        held = (value for module in model.modules() for value in vars(module).values())
        self._own = [value for value in held if isinstance(value, (random.Random, np.random.Generator))]
        self._seen = self._states()

    def drawn(self) -> bool:
        """Whether numbers were drawn since the last call."""
        states = self._states()
        changed, self._seen = states != self._seen, states
        return changed

    def restore(self) -> None:
        """Put the global generators back to where they were at first, if numbers were drawn."""
        if self._states()[:2] != self._state_of_globals(*self._before):
            random.setstate(self._before[0])
            np.random.set_state(self._before[1])

    def _states(self) -> list[Any]:
        states = self._state_of_globals(random.getstate(), np.random.get_state())
        for own in self._own:
            states.append(own.getstate() if isinstance(own, random.Random) else repr(own.bit_generator.state))
        return states

    @staticmethod
    def _state_of_globals(python: Any, numpy: Any) -> list[Any]:
        return [python, (numpy[1].tobytes(), *numpy[2:])]
