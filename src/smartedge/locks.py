"""Locks on files, which processes of one machine hold against each other.

A lock belongs to an open file. It is released when that file is closed, or when its process ends, however it ends. Two
files that one process opened at the same path hold each other off as well.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smartedge.files import PRIVATE

__all__ = ["holding", "holding_folder", "lock", "lock_at_once", "lock_shared", "open_lock"]


def open_lock(path: Path) -> int:
    """Open a file to be locked, and make it where it is missing. Close it with :func:`os.close`.

    Raises:
        OSError: it cannot be made or opened.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)


def lock(file: int) -> None:
    """Lock an open file for this holder alone. Waits for all other holders."""
    fcntl.flock(file, fcntl.LOCK_EX)


def lock_shared(file: int) -> None:
    """Lock an open file together with others that share it. Waits for a holder that has it alone."""
    fcntl.flock(file, fcntl.LOCK_SH)


def lock_at_once(file: int, *, shared: bool = False) -> bool:
    """Lock an open file, alone or ``shared``, without waiting. False where that would have to wait.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def holding(path: Path, how: Callable[[int], None] = lock) -> Iterator[None]:
    """Hold the lock of a file in the block; ``how`` is :func:`lock` or :func:`lock_shared`.

    Raises:
        OSError: the file cannot be made or opened.
    """
    with _held(open_lock(path), how):
        yield


@contextmanager
def holding_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in the block.

    Raises:
        OSError: the folder is not there, or its file system has no locks.
    """
    with _held(os.open(folder, os.O_RDONLY | os.O_CLOEXEC), lock):
        yield


@contextmanager
def _held(file: int, how: Callable[[int], None]) -> Iterator[None]:
    try:
        how(file)
        yield
    finally:
        os.close(file)
