"""What ``malloc`` does with freed memory: kept for the next step, given back, or shared by all threads.

A process that trains keeps it, so that the next step need not ask the kernel for it again. By default glibc maps each
block above 32 MiB anew, and gives it back when it is freed. Every page of it is then zeroed and faulted in at first
touch, in every step: a third of the step of VGG-16 at 64x64 (docs/decisions/0011-edge-step.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "return_freed_memory", "share_freed_memory", "trim_heap"]

# Names and numbers are those of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_MAPPED_FROM = 2**30  # bytes: only blocks of at least this size are mapped, and given back at once
_KEPT = 2**28  # bytes: as much free memory at the heap's end is kept
_GIVEN_BACK = 2**16  # bytes: so much free memory at the heap's end is given back
_MAPPED_WHEN_SMALL = 2**15  # bytes: larger blocks are mapped, so none of them leaves a hole in the heap
_CHOSEN_BY_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Tell glibc's ``malloc`` to do so, for the whole process. False: it is another ``malloc``, or the user has chosen.

    No result changes. The process's peak grows by up to an eighth where blocks are large.
    """
    return _set({_M_MMAP_THRESHOLD: _MAPPED_FROM, _M_TRIM_THRESHOLD: _KEPT})


def return_freed_memory() -> bool:
    """The contrary, for the small process of an edge without torch: freed memory goes back to the kernel at once.

    Otherwise glibc keeps the more, the larger the blocks are that it has seen; one file of weights is enough.
    Call it before anything large is read. Returns as :func:`keep_freed_memory`.
    """
    return _set({_M_TRIM_THRESHOLD: _GIVEN_BACK, _M_TOP_PAD: 0, _M_MMAP_THRESHOLD: _MAPPED_WHEN_SMALL})


def share_freed_memory() -> bool:
    """Let all threads take memory from one arena, in a cloud's process: it has a thread for each edge that waits.

    Otherwise glibc makes up to eight arenas for each core, and what a thread frees in one is not used in another. Call
    it before threads are started. Returns as :func:`keep_freed_memory`.
    """
    return "MALLOC_ARENA_MAX" not in os.environ and _set({_M_ARENA_MAX: 1})


def trim_heap() -> None:
    """Give back now what is free at this moment; only glibc can. Nothing happens with another ``malloc``."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(options: dict[int, int]) -> bool:
    if sys.platform != "linux" or any(name in os.environ for name in _CHOSEN_BY_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all([mallopt(option, value) for option, value in options.items()])
