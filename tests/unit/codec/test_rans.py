from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec.frequencies import SCALE_BITS, fit_table
from smartedge.codec.rans import decode, encode, max_encoded
from smartedge.errors import CodecError

TOTAL = 2**SCALE_BITS


def slow_encode(symbols_RN: np.ndarray, frequencies: list[np.ndarray]) -> int:
    """The state alone, of any size and without words: the formula of the module's description, for each symbol.

    Symbols are taken in the groups of the format: those of the last row's end one by one, the others by five.
    """
    rows, length = symbols_RN.shape
    state = rows * length
    for row in reversed(range(rows)):
        own = frequencies[row].tolist()
        alone = 20 if row == rows - 1 else 0
        grouped = max(0, length - alone) // 5 * 5
        symbols = symbols_RN[row].tolist()
        parts = [symbols[place : place + 5] for place in range(0, grouped, 5)] + [[one] for one in symbols[grouped:]]
        for part in reversed(parts):
            start, freq = 0, 1
            for symbol in part:
                start, freq = start * TOTAL + freq * sum(own[:symbol]), freq * own[symbol]
            state = state // freq * TOTAL ** len(part) + start + state % freq
    return state


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray]]:
    """Symbols, from constant to evenly spread, and frequencies of each row in which all of them occur."""
    count, length = draw(st.integers(1, 4)), draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.0, 0.3, 2.0, 20.0]))
    symbols_RN = np.clip(np.rint(rng.normal(100, spread, (count, length))), 0, 254).astype(np.intp)
    lows_R1 = symbols_RN.min(1, keepdims=True)
    frequencies = [fit_table(np.bincount(row), 0).frequencies for row in symbols_RN - lows_R1]
    return symbols_RN - lows_R1, frequencies


@given(given_rows=rows())
def test_symbols_come_back_in_hardly_more_bytes_than_their_frequencies_say(given_rows) -> None:
    symbols_RN, frequencies = given_rows
    data = encode(symbols_RN, frequencies)
    decoded = decode(data, frequencies, symbols_RN.shape[1], "codec")
    assert np.array_equal(np.stack(decoded), symbols_RN)
    bits = sum((SCALE_BITS - np.log2(own[row])).sum() for own, row in zip(frequencies, symbols_RN, strict=True))
    assert bits / 8 <= len(data) <= min(bits / 8 + 8, max_encoded(symbols_RN.size))


@given(given_rows=rows())
def test_while_no_word_is_put_aside_the_bytes_are_those_of_the_formula(given_rows) -> None:
    symbols_RN, frequencies = given_rows
    state = slow_encode(symbols_RN, frequencies)
    if state.bit_length() < 120:
        assert int.from_bytes(encode(symbols_RN, frequencies), "little") == state


def test_bytes_are_those_of_this_format() -> None:
    symbols_RN = np.arange(120).reshape(2, 60) % 7
    frequencies = [fit_table(np.array([5, 1, 40, 3, 9, 2, 2]), 0).frequencies] * 2
    assert encode(symbols_RN, frequencies).hex() == (
        "5b4f7e65ea7d1cd036acd717b844d15ae2cc8dcf6101b6f84ecb893f439e2539cb3d070ffd7d033b260882ac8dc0188ae03d07bf6a0ff94f8"
        "c08829c"
    )


def test_a_payload_that_was_changed_is_noticed_wherever_that_is() -> None:
    """No checksum: some change may pass. Of these 2000 none does; by chance one in about 10 000 would."""
    rng = np.random.default_rng(0)
    symbols_RN = np.clip(np.rint(rng.normal(8, 1.5, (4, 400))), 0, 16).astype(np.intp)
    frequencies = [fit_table(np.bincount(row, minlength=17), 0).frequencies for row in symbols_RN]
    symbols_RN -= np.array([np.flatnonzero(np.bincount(row))[0] for row in symbols_RN])[:, None]
    coded = encode(symbols_RN, frequencies)
    for place in range(len(coded)):
        for bit in (1, 16, 128):
            with pytest.raises(CodecError, match="codec learned: the payload does not hold"):
                decode(coded[:place] + bytes([coded[place] ^ bit]) + coded[place + 1 :], frequencies, 400, "learned")
    for wrong in (b"", coded[:-1], coded[:-8], coded + b"\0", coded + bytes(8)):
        with pytest.raises(CodecError):
            decode(wrong, frequencies, 400, "learned")
    for length in (399, 401):
        with pytest.raises(CodecError):
            decode(coded, frequencies, length, "learned")


def test_symbols_that_are_certain_cost_nothing() -> None:
    symbols_RN = np.zeros((3, 100_000), np.intp)
    frequencies = [np.array([TOTAL])] * 3
    data = encode(symbols_RN, frequencies)
    assert len(data) == math.ceil(math.log2(300_000) / 8)
    assert np.array_equal(np.stack(decode(data, frequencies, 100_000, "codec")), symbols_RN)


def test_a_row_that_is_certain_is_coded_as_the_formula_says() -> None:
    """It is passed over, in the first row and in the last."""
    uneven = np.array([1000, TOTAL - 1000])
    for certain in (0, 1, 2):
        symbols_RN = np.random.default_rng(certain).integers(0, 2, (3, 23))
        symbols_RN[certain] = 0
        frequencies = [np.array([TOTAL]) if row == certain else uneven for row in range(3)]
        data = encode(symbols_RN, frequencies)
        assert int.from_bytes(data, "little") == slow_encode(symbols_RN, frequencies)
        assert np.array_equal(np.stack(decode(data, frequencies, 23, "codec")), symbols_RN)
