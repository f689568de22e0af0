from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec.frequencies import SCALE_BITS, Table, fit_table, read_table, table_bytes
from smartedge.errors import CodecError

COUNTS = st.lists(st.one_of(st.just(0), st.integers(1, 2**40)), min_size=1, max_size=255).filter(any)


@given(counts=COUNTS, data=st.data())
def test_every_level_that_occurs_has_a_frequency_and_bytes_give_the_same_ones(counts: list[int], data) -> None:
    low = data.draw(st.integers(-127, 128 - len(counts)))
    table = fit_table(np.array(counts), low)
    found, written = table.frequencies, table.to_bytes()
    levels = dict(zip(range(table.low, table.low + len(found)), found.tolist(), strict=True))
    assert sum(levels.values()) == 2**SCALE_BITS
    for level, count in enumerate(counts, low):
        assert (levels.get(level, 0) > 0) == (count > 0)
    again, end = read_table(b"x" + written + b"more", 1, "codec")
    assert end == 1 + len(written) == 1 + table_bytes(len(table.codes))
    assert again.low == table.low
    assert np.array_equal(again.frequencies, found)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_frequencies_cost_at_most_a_fiftieth_of_a_bit(spread: float) -> None:
    """They are those of the counts to a quarter of a power of two, except where a level is rarer than 2^-7."""
    counts = np.bincount(np.rint(np.random.default_rng(0).normal(20, spread, 4096)).astype(np.int64))
    table = fit_table(counts, 0)
    shares = counts[counts > 0] / counts.sum()
    frequencies = table.frequencies[table.frequencies > 0]
    entropy = -(shares * np.log2(shares)).sum()
    cost = -(shares * np.log2(frequencies / 2**SCALE_BITS)).sum()
    assert entropy <= cost < entropy + 0.02


def test_a_quarter_of_the_largest_has_code_four_and_no_level_that_occurs_is_beyond_fourteen() -> None:
    table = fit_table(np.array([0, 8, 2**20, 2**18, 0, 2**13, 1, 0]), -3)
    assert (table.low, table.codes.tolist()) == (-2, [14, 0, 4, 15, 14, 14])


def test_frequencies_are_those_of_this_format() -> None:
    """Another version that computes others would decode nothing that this one has written."""
    table, _ = read_table(bytes.fromhex("fe05 31 f0 0e"), 0, "codec")
    assert (table.low, table.codes.tolist()) == (-2, [1, 3, 0, 15, 14])
    assert table.frequencies.tolist() == [1399, 700, 1981, 0, 16]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "truncated"),
        ("00", "truncated"),
        ("00 03 00", "truncated"),
        ("00 00", "impossible"),
        ("80 01 00", "impossible"),  # level -128
        ("7f 02 00", "impossible"),  # level 128
        ("00 02 ff", "no level"),
        ("00 03 00 10", "too many"),
    ],
)
def test_impossible_tables_are_refused(data: str, problem: str) -> None:
    with pytest.raises(CodecError, match=f"codec learned: .*{problem}"):
        read_table(bytes.fromhex(data), 0, "learned")


def test_one_level_has_all_of_the_scale() -> None:
    assert Table(3, np.array([0], np.uint8)).frequencies.tolist() == [2**SCALE_BITS]
