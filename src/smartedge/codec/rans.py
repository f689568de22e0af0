"""Entropy coding: symbols and their frequencies to few bytes, and back exactly.

This is the range variant of asymmetric numeral systems (rANS; Duda, arXiv 1311.2540). One whole number x holds all
symbols. To append a symbol of frequency f, whose predecessors in the table have frequencies that sum to c:

    x  →  (x div f) * 2**12 + c + (x mod f)

Decoding takes the last symbol off first, so encoding goes from the end to the beginning. Where x would grow beyond 128
bits, its lower 64 are put aside as a word. A loop over single symbols is slow in Python; five symbols have one interval
of frequencies together, which numpy computes for all of them at once, and x is changed once for five.

The bytes: x in as few bytes as it needs, then the words. x begins as the number of all symbols, so decoding must end
with that number. A word that is left over would have been taken into x. Most payloads that were changed end otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.frequencies import SCALE_BITS
from smartedge.errors import CodecError

__all__ = ["decode", "encode", "max_encoded"]

_GROUP = 5  # symbols that are coded at once: their frequencies multiply to at most 2 ** 60, which int64 holds
_SINGLE = 20  # symbols at the end of the last row that are coded one by one: while x is small, that takes fewer bytes
_WORD_BITS = 64
_WORD = 1 << _WORD_BITS
_STATE_BITS = 128
_STATE_BYTES = 16
_BYTE_BITS = 8


def encode(symbols_RN: NDArray[np.intp], frequencies: Sequence[NDArray[np.int64]]) -> bytes:
    """The bytes of R rows of N symbols each.

    Args:
        symbols_RN: whole numbers from 0, at least one in each row.
        frequencies: of each row: of the symbols 0, 1, ..., int64. They sum to 2 ** SCALE_BITS, and none of a symbol
            that is in the row is 0.
    """
    rows, length = symbols_RN.shape
    state, words = rows * length, list[int]()
    for row in reversed(range(rows)):
        own = frequencies[row]
        if len(own) == 1:  # certain, so it changes nothing
            continue
        before = np.cumsum(own) - own
        freqs, starts = own[symbols_RN[row]], before[symbols_RN[row]]
        grouped = _grouped(length, last=row == rows - 1)
        state = _push(state, words, starts[grouped:], freqs[grouped:], SCALE_BITS)
        if grouped:
            each, every = starts[:grouped].reshape(-1, _GROUP), freqs[:grouped].reshape(-1, _GROUP)
            start, freq = each[:, 0].copy(), every[:, 0].copy()
            for place in range(1, _GROUP):
                start = (start << SCALE_BITS) + freq * each[:, place]
                freq *= every[:, place]
            state = _push(state, words, start, freq, SCALE_BITS * _GROUP)
    head: bytes = state.to_bytes((state.bit_length() + _BYTE_BITS - 1) // _BYTE_BITS, "little")
    return head + np.array(words, "<u8").tobytes()


def decode(data: bytes, frequencies: Sequence[NDArray[np.int64]], length: int, codec: str) -> list[NDArray[np.uint8]]:
    """What :func:`encode` was given: of each row ``length`` symbols, as uint8.

    The time and memory that this takes depend on the number of symbols alone, whatever the bytes are.

    Raises:
        CodecError: the bytes are not those of so many symbols with such frequencies.
    """
    size = len(data)
    head = size if size <= _STATE_BYTES else (size - 1) % 8 + 9  # a state beside words has 9 to 16 bytes
    state = int.from_bytes(data[:head], "little")
    words: list[int] = np.frombuffer(data, "<u8", offset=head).tolist()
    found = []
    for row, own in enumerate(frequencies):
        if len(own) == 1:
            found.append(np.zeros(length, np.uint8))
            continue
        grouped = _grouped(length, last=row == len(frequencies) - 1)
        symbols, state = _pull(state, words, own, grouped, length - grouped)
        found.append(np.frombuffer(symbols, np.uint8))
    if state != len(frequencies) * length:
        raise CodecError(
            f"codec {codec}: the payload does not hold {len(frequencies)} x {length} levels: it is truncated or "
            "corrupt, or the two sides disagree about the feature shape"
        )
    return found


def max_encoded(symbols: int) -> int:
    """No so many symbols take more bytes than this: SCALE_BITS bits each, and the state."""
    return (symbols * SCALE_BITS + _BYTE_BITS - 1) // _BYTE_BITS + _STATE_BYTES


def _grouped(length: int, *, last: bool) -> int:
    """How many symbols of a row, from its beginning, are coded in groups."""
    return max(0, length - _SINGLE * last) // _GROUP * _GROUP


def _push(state: int, words: list[int], starts: NDArray[np.int64], freqs: NDArray[np.int64], bits: int) -> int:
    """Append intervals of a total of 2 ** ``bits``, the last one first; returns the new state."""
    room = _STATE_BITS - bits
    for start, freq in zip(starts[::-1].tolist(), freqs[::-1].tolist(), strict=True):
        if state >= freq << room:
            words.append(state & (_WORD - 1))
            state >>= _WORD_BITS
        quotient, rest = divmod(state, freq)
        state = (quotient << bits) + start + rest
    return state


def _pull(state: int, words: list[int], own: NDArray[np.int64], grouped: int, single: int) -> tuple[bytes, int]:
    """Take the symbols of one row off; returns them, and the new state. ``words`` is shortened."""
    freqs, starts = own.tolist(), (np.cumsum(own) - own).tolist()
    symbol_at = np.repeat(np.arange(len(own), dtype=np.uint8), own).tobytes()
    found = bytearray()
    for size, count in ((_GROUP, grouped // _GROUP), (1, single)):
        bits = SCALE_BITS * size
        mask, shifts = (1 << bits) - 1, range(bits - SCALE_BITS, -1, -SCALE_BITS)
        for _ in range(count):
            place, freq = state & mask, 1
            for shift in shifts:
                symbol = symbol_at[place // freq >> shift]
                place -= freq * starts[symbol] << shift
                freq *= freqs[symbol]
                found.append(symbol)
            state = freq * (state >> bits) + place
            if state < _WORD and words:
                state = state << _WORD_BITS | words.pop()
    return bytes(found), state
