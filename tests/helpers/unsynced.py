"""Nobody cuts the power during a test, so no file needs to be on the disk itself: syncs return at once.

A run of the tiny network syncs a hundred times, and waited longer for the disk than it computed. Descriptors are still
checked. Tests that look at syncs patch ``os`` themselves. Real programs that a test starts sync as ever.
"""

from __future__ import annotations

import os

__all__: list[str] = []


def _returns_at_once(file: int) -> None:
    os.fstat(file)  # an error where the file is closed


os.fsync = os.fdatasync = _returns_at_once  # type: ignore[assignment]
