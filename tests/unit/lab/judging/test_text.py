"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from plain_text import plain

from smartedge.lab.judging.text import (
    at_most,
    count,
    lower_number,
    number,
    percent,
    points,
    ratio,
    relation,
    seconds,
    short_number,
    size,
    times,
    upper_number,
)


def test_a_bound_is_never_told_smaller_than_it_is() -> None:
    for bound, told in ((0.546, "54.6 %"), (0.54601, "54.7 %"), (0.9996, "100.0 %"), (1.0, "100.0 %"), (None, "–")):
        assert plain(at_most(bound)) == told


def test_an_epsilon_is_never_told_smaller_than_it_is_nor_a_lower_bound_larger() -> None:
    for bound, most, least in (
        (4.0, "4", "4"),
        (4 + 1e-12, "4", "4"),  # computed in double precision
        (4.001, "4.01", "4"),
        (3.999, "4", "3.99"),
        (0.00123449, "0.00124", "0.00123"),
        (1001.0, "1 010", "1 000"),
        (0.0, "0", "0"),
    ):
        assert (plain(upper_number(bound)), plain(lower_number(bound))) == (most, least)


@pytest.mark.parametrize(
    ("write", "values", "expected"),
    [
        (percent, (0.93125,), "93.1 %"),
        (percent, (0.256, 0), "26 %"),
        (points, (0.012,), "+1.2"),
        (points, (-0.012,), "−1.2"),
        (points, (-0.0004,), "0.0"),
        (size, (0,), "0 B"),
        (size, (0.9,), "0.9 B"),
        (size, (9.96,), "10 B"),
        (size, (9999,), "9 999 B"),
        (size, (12_288,), "12.3 kB"),
        (size, (1.5e6,), "1.50 MB"),
        (size, (438e6,), "438 MB"),
        (size, (1.16e9,), "1.16 GB"),
        (seconds, (0,), "0.0 s"),
        (seconds, (0.0123,), "0.012 s"),
        (seconds, (9.6,), "9.60 s"),
        (seconds, (61.6,), "61.6 s"),
        (seconds, (300,), "5.0 min"),
        (seconds, (9000,), "2.5 h"),
        (count, (11459,), "11 459"),
        (number, (0.98765,), "0.988"),
        (short_number, (4.0,), "4"),
        (short_number, (0.12345,), "0.123"),
        (short_number, (1e-5,), "10⁻⁵"),
        (short_number, (2.5e-6,), "2.5·10⁻⁶"),
        (short_number, (12_288,), "12 288"),
        (ratio, (0.0775,), "0.077"),
        (ratio, (5.56,), "5.6"),
        (ratio, (82.3,), "82"),
        (times, (1.085,), "1.08"),
        (times, (12.91,), "12.9"),
        (relation, (100, 1000), "10.0 times smaller than"),
        (relation, (3000, 1000), "3.0 times larger than"),
        (relation, (1000, 1001), "as large as"),
    ],
)
def test_a_number_in_words(write, values, expected):
    assert plain(write(*values)) == expected


@pytest.mark.parametrize("write", [percent, points, size, seconds, number, short_number, upper_number, lower_number])
@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_is_missing_is_a_dash(write, missing):
    assert write(missing) == "–"
