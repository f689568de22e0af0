"""How often each level occurs, as whole numbers in few bytes: the tables of the entropy coder.

A table goes from a lowest level to a highest one. Each level in it has a code of four bits: code q stands for a
frequency of about 2^(-q/2) of the largest, code 15 for a level that does not occur. From the codes both sides compute
the same frequencies, by whole numbers alone, so that no rounding of a processor can part them.

In bytes: the lowest level (int8), the number n of levels (uint8), and ceil(n / 2) bytes of codes, lower half first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import CodecError

__all__ = ["LARGEST_LEVEL", "SCALE_BITS", "Table", "fit_table", "read_table", "table_bytes"]

SCALE_BITS = 12  # the frequencies of a table sum to 2 ** SCALE_BITS
LARGEST_LEVEL = 127
_HEAD_BYTES = 2
_ABSENT = 15
# 2 ** (12 - q / 2), rounded; 0 for a level that does not occur.
_WEIGHTS = np.array([4096, 2896, 2048, 1448, 1024, 724, 512, 362, 256, 181, 128, 91, 64, 45, 32, 0], np.int64)


@dataclass(frozen=True)
class Table:
    """The frequencies of the levels ``low``, ``low + 1``, ...; equal bytes give equal frequencies on any machine."""

    low: int
    codes: NDArray[np.uint8]  # (n,), each at most 15, at least one below 15

    @property
    def frequencies(self) -> NDArray[np.int64]:
        """int64 (n,); they sum to 2 ** SCALE_BITS. A level that occurs has at least 1, any other one 0."""
        weights = _WEIGHTS[self.codes]
        present = weights > 0
        spare = (1 << SCALE_BITS) - int(present.sum())  # each level that occurs has 1 already
        found: NDArray[np.int64] = present + weights * spare // weights.sum()
        found[weights.argmax()] += (1 << SCALE_BITS) - found.sum()
        return found

    def to_bytes(self) -> bytes:
        """See the module's description."""
        codes = np.append(self.codes, np.uint8(0)) if len(self.codes) % 2 else self.codes
        packed = codes[::2] | codes[1::2] << 4
        return bytes((self.low & 0xFF, len(self.codes))) + packed.tobytes()


def table_bytes(levels: int) -> int:
    """Bytes of a table that spans so many levels."""
    return _HEAD_BYTES + (levels + 1) // 2


def fit_table(counts: NDArray[np.int64], low: int) -> Table:
    """The table for levels that occurred so often.

    Args:
        counts: int64 (n,), of the levels ``low``, ``low + 1``, ...; at least one is not 0.
        low: at least -LARGEST_LEVEL; no level is above LARGEST_LEVEL.
    """
    occurring = np.flatnonzero(counts)
    first, last = int(occurring[0]), int(occurring[-1])
    inner = counts[first : last + 1]
    rarity = np.rint(2 * np.log2(inner.max() / np.maximum(inner, 1)))
    codes = np.where(inner > 0, np.minimum(rarity, _ABSENT - 1), _ABSENT).astype(np.uint8)
    return Table(low + first, codes)


def read_table(data: bytes, start: int, codec: str) -> tuple[Table, int]:
    """The table that begins at byte ``start``, and where it ends.

    Raises:
        CodecError: there is no table there, it has no level, or levels beyond ±LARGEST_LEVEL.
    """
    if len(data) < start + _HEAD_BYTES:
        raise CodecError(f"codec {codec}: the payload ends within its tables: it is truncated")
    low, count = int.from_bytes(data[start : start + 1], "little", signed=True), data[start + 1]
    end = start + table_bytes(count)
    if not (count >= 1 and low >= -LARGEST_LEVEL and low + count - 1 <= LARGEST_LEVEL):
        raise CodecError(f"codec {codec}: a table of {count} levels from {low} on is impossible: it is corrupt")
    if len(data) < end:
        raise CodecError(f"codec {codec}: the payload ends within its tables: it is truncated")
    packed = np.frombuffer(data, np.uint8, math.ceil(count / 2), start + _HEAD_BYTES)
    codes = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1)
    if count % 2 and codes[-1]:
        raise CodecError(f"codec {codec}: a table has a level too many: it is corrupt")
    codes = codes[:count]
    if (codes == _ABSENT).all():
        raise CodecError(f"codec {codec}: no level of a table occurs: it is corrupt")
    return Table(low, codes), end
