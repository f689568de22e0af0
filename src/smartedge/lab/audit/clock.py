"""The audit's time budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Clock", "OutOfTime"]


class OutOfTime(Exception):
    """The budget does not allow a piece of work; the message says what it would have needed."""


class Clock:
    """Counts down from a budget in seconds; without one there is always time.

    Args:
        budget: seconds, None for no limit.
        now: tells the time in seconds; a test hands in its own.
    """

    def __init__(self, budget: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._end = math.inf if budget is None else now() + budget

    def remaining(self) -> float:
        """Seconds that are left, at least 0; inf without a budget."""
        return max(0.0, self._end - self._now())

    def elapsed(self) -> float:
        """Seconds since this clock was made."""
        return self._now() - self._begun

    def share(self, n: int) -> float:
        """Seconds for the next one of ``n`` pieces of work that are still to be done."""
        return self.remaining() / max(1, n)

    def extended(self, seconds: float) -> Clock:
        """A clock of its own over so many seconds, whatever is left here: for work that is done in any case."""
        return Clock(seconds, self._now)

    def part(self, seconds: float) -> Clock:
        """A clock of its own over at most ``seconds`` of what is left here."""
        return Clock(None if math.isinf(left := min(seconds, self.remaining())) else left, self._now)
