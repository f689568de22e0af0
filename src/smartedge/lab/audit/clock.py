"""The audit's time budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Clock", "OutOfTime"]


class OutOfTime(Exception):
    """The time budget does not suffice for a piece of work; the message says how much time it needs."""


class Clock:
    """Counts down from a budget in seconds. Without a budget there is always time.

    Args:
        budget: seconds, None for no limit.
        now: returns the time in seconds; a test passes its own.
    """

    def __init__(self, budget: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._end = math.inf if budget is None else now() + budget

    def remaining(self) -> float:
        """Seconds that are left, at least 0; inf without a budget."""
        return max(0.0, self._end - self._now())

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            OutOfTime: the time is over.
        """
        if self.remaining() == 0:
            raise OutOfTime("no time was left")

    def elapsed(self) -> float:
        """Seconds since this clock was made."""
        return self._now() - self._begun

    def share(self, n: int) -> float:
        """Seconds for the next one of ``n`` pieces of work that are still to be done."""
        return self.remaining() / max(1, n)

    def extended(self, seconds: float) -> Clock:
        """A new clock over so many seconds, for work that is done even when no time is left here."""
        return Clock(seconds, self._now)

    def part(self, seconds: float) -> Clock:
        """A new clock over ``seconds``, or over the time that is left here if that is less."""
        return Clock(None if math.isinf(left := min(seconds, self.remaining())) else left, self._now)
