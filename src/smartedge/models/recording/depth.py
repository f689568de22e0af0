"""Networks whose modules are nested deep: recording one calls more functions in each other than running it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from smartedge.errors import CutError

__all__ = ["deep_calls"]

_LIMIT = 5_000  # calls in each other: eight for a nested module. Python 3.10 takes a kilobyte of the stack for each


@contextmanager
def deep_calls() -> Iterator[None]:
    """Lets the code within call functions in each other as deep as a network of 500 nested modules needs.

    Raises:
        CutError: that is not enough.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _LIMIT))
    try:
        yield
    except RecursionError as error:
        raise CutError(
            f"the network calls itself, or is nested too deep: more than {max(before, _LIMIT)} calls lie in each "
            "other; call its parts one after the other, as nn.Sequential does, or raise Python's limit with "
            "sys.setrecursionlimit in the file that makes the network"
        ) from error
    finally:
        sys.setrecursionlimit(before)
