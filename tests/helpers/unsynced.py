"""Nobody cuts the power during a test, so no file needs to be on the disk itself: syncs return at once.

A run of the tiny network syncs a hundred times, and SQLite does so for each of its sixty transactions: it waited longer
for the disk than it computed. Descriptors are still checked. Tests that look at syncs patch ``os`` themselves, and
:data:`connect` is SQLite's own. Real programs that a test starts sync as ever.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from typing import Any

__all__ = ["connect"]

connect = sqlite3.connect


class _Connection(sqlite3.Connection):
    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("PRAGMA synchronous=OFF" if sql == "PRAGMA synchronous=FULL" else sql, *parameters)


def _returns_at_once(file: int) -> None:
    os.fstat(file)  # an error where the file is closed


os.fsync = os.fdatasync = _returns_at_once  # type: ignore[assignment]
sqlite3.connect = functools.partial(connect, factory=_Connection)  # type: ignore[assignment]
