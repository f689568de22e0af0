"""A checksum of a ledger's rows: SQLite does not notice a number whose bits have turned on the disk.

It is a sum with one term for each row, so a debit adds the terms of its own rows. A row that has changed in one bit has
another term, and so has the sum. It does not stop somebody who changes a ledger on purpose: see ``docs/privacy.md``.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHECKSUM", "of_numbers", "of_row", "seal", "verify"]

CHECKSUM = "checksum"  # its name among the facts

_PRIME = 2**31 - 1  # no power of two is a multiple of it, so each bit of a number counts
_FACTORS = (69_069, 524_287, 131_071, 8_191)  # of the numbers in a row, so that each place counts by itself
_SMALL = {  # tables with one row a frame, at most one an image
    "facts": "SELECT name, value FROM facts WHERE name != 'checksum'",
    "events": "SELECT event, description FROM events",
    "frames": "SELECT frame, split, seq, nonce, event FROM frames",
    "repeatable": "SELECT nonce FROM repeatable",
}
_LARGE = {"releases": ("image", "frame", "place", "event"), "labels": ("image", "event")}


def of_row(table: str, *values: object) -> int:
    """The term of a row in one of the small tables."""
    return zlib.crc32(repr((table, *values)).encode())


def of_numbers(table: str, split: str, columns: Iterable[NDArray[np.int64] | int]) -> int:
    """The sum of the terms of rows of ``releases`` or ``labels``, for one split.

    Args:
        table: its name.
        split: of the images.
        columns: int64 (N,), or one number for all; the columns of the table after ``split``.
    """
    terms_N = sum(np.fmod(column, _PRIME) * factor for column, factor in zip(columns, _FACTORS, strict=False))
    terms_N = np.fmod(np.atleast_1d(np.asarray(terms_N, dtype=np.int64)), _PRIME)
    return int(terms_N.sum()) + len(terms_N) * of_row(table, split)


def seal(db: sqlite3.Connection) -> None:
    """Write the checksum of the rows as they are."""
    db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (CHECKSUM, str(_sum_of(db))))


def verify(db: sqlite3.Connection, written: object) -> None:
    """Compare the rows with the checksum that was written. Call it in a transaction: all rows are of one moment.

    Raises:
        DatabaseError: they do not fit.
    """
    try:
        right = _sum_of(db) == written
    except (TypeError, ValueError, AttributeError):  # a number has become something else
        right = False
    if not right:
        raise sqlite3.DatabaseError("its checksum is wrong: it was damaged on the disk, or changed by another program")


def _sum_of(db: sqlite3.Connection) -> int:
    total = sum(of_row(table, *row) for table, query in _SMALL.items() for row in db.execute(query))
    for table, columns in _LARGE.items():
        numbers = zip(columns, _FACTORS, strict=False)
        term = " + ".join(f"{column} % {_PRIME} * {factor}" for column, factor in numbers)
        rows = db.execute(f"SELECT split, sum(({term}) % {_PRIME}), count(*) FROM {table} GROUP BY split")
        total += sum(terms + count * of_row(table, split) for split, terms, count in rows)
    return int(total)
