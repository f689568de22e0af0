"""What the edge does while the cloud cannot be reached: it says so, waits, and tries again, for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from smartedge.errors import LinkError, LogError, SmartEdgeError

if TYPE_CHECKING:
    from smartedge.edge.runner import EdgeRunner

__all__ = ["Outage", "run_again_after_outages", "tell_of_the_end"]

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_TELL_S = 30.0  # how long a cloud that has confirmed everything may be away
_LOOK_S = 0.5  # between one try to tell it and the next


class Outage:
    """Waits between one try to reach the cloud and the next.

    0.5 s, then twice as long each time, up to a minute; each wait is 0.5 to 1.5 times that, so that many edges do not
    come back at one moment.

    Args:
        tell: takes lines for the user.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._random = random.Random()
        self._since: float | None = None
        self.count = 0  # outages so far
        self.why = ""  # and what waits meanwhile, as the user was told last
        self._waits = 0  # since the cloud last answered

    @property
    def seconds(self) -> float:
        """How long the cloud has been away; 0 where it is there."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def over(self) -> None:
        """The cloud answers."""
        if self._since is not None:
            self._tell(f"the cloud is there again, after {time.monotonic() - self._since:.0f} s")
        self._since, self._waits = None, 0

    def wait(self, what: str, stop: threading.Event) -> None:
        """The link broke, or the cloud is not there: say so, and wait, but not longer than until ``stop`` is set."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self.count += 1
        self.why = what
        self._tell(f"cloud unreachable for {now - self._since:.0f} s; {what}")
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self._waits)
        self._waits += 1
        stop.wait(longest * self._random.uniform(0.5, 1.5))


def run_again_after_outages(
    begin: Callable[[bool], EdgeRunner], stop: threading.Event, tell: Callable[[str], None], *, resume: bool
) -> bool:
    """Run an edge that waits for answers (split learning) to its end. True when done, False when stopped.

    Such an edge cannot go on without the cloud. When the link breaks, or the cloud's disk is full, it goes back to its
    newest checkpoint, as a killed one would with ``--resume``, and tries again.

    Args:
        begin: makes the runner; its argument says whether to resume.
        stop: set it to stop cleanly.
        tell: takes lines for the user.
        resume: whether to resume at the first time.
    """
    outage = Outage(tell)
    while True:
        runner = begin(resume)
        seconds = runner.state.counts.traffic.link_seconds
        try:
            return runner.run(stop)
        except (LinkError, LogError) as error:  # such an edge has no log of its own: it is the cloud's that is full
            if stop.is_set():
                return False
            if runner.state.counts.traffic.link_seconds > seconds:  # the cloud has answered in between
                outage = Outage(tell)
            outage.wait(f"training goes back to its newest checkpoint then ({error})", stop)
            resume = True


def tell_of_the_end(
    end: Callable[[], None], stop: threading.Event, tell: Callable[[str], None], *, again: bool = False
) -> None:
    """Tell the cloud that this edge knows that everything was confirmed: it waits a while for that.

    A cloud that cannot be told within half a minute has gone, and needs nothing more.

    Args:
        end: ends the last stream.
        stop: set it to try no longer.
        tell: takes lines for the user.
        again: an earlier process has told it, so it may have ended long ago. It is tried once.
    """
    deadline = time.monotonic() + (0.0 if again else _TELL_S)
    while not stop.is_set():
        try:
            return end()
        except LinkError:
            if time.monotonic() >= deadline:
                return tell("the cloud has confirmed everything, and is not there any more")
            stop.wait(_LOOK_S)
        except SmartEdgeError as error:
            return tell(f"the cloud has confirmed everything before; now it says: {error}")
