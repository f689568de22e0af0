"""Coverage without luck: every sample that a small law can give is certified, and the misses are summed exactly.

Images are one of two codewords, with a label or as pairs of one person where a case says so. A class of n units gives
one of few samples, each with a known probability. So P(bound < truth) is a number, and it must not exceed α.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from smartedge.lab.audit.certificate import certify
from smartedge.lab.audit.certificate.bounds import binomial_bound
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.privacy.laws import ReleaseLaw, release_law
from smartedge.privacy.mechanisms import make_mechanism

# A unit is one person: its images as (codeword, label) pairs.
SINGLE = [((0, 0),), ((1, 0),)]
LABELLED = [((0, 0),), ((0, 1),), ((1, 0),), ((1, 1),)]
PAIRS = [((0, 0), (0, 0)), ((0, 0), (1, 0)), ((1, 0),)]
SURE, USUAL, WEAK = 40.0, 1.5, 0.2  # ε: answers of 0 or 1; answers between; a distance below that of weak laws


def _law(epsilon: float, releases: int = 1) -> ReleaseLaw:
    mechanism = make_mechanism("randomised-response", feature_shape=(2,), codebook=2, epsilon=epsilon)
    return release_law(mechanism, releases)


def _samples(kinds: int, n: int) -> list[tuple[int, ...]]:
    """How many of n units are of each kind: all possibilities."""
    return [each for each in itertools.product(range(n + 1), repeat=kinds) if sum(each) == n]


def _probability(counts: tuple[int, ...], shares: np.ndarray) -> float:
    ways = math.factorial(sum(counts)) / math.prod(math.factorial(count) for count in counts)
    return ways * float(np.prod(shares ** np.array(counts)))


def _truth(law: ReleaseLaw, units: list, shares_K: list[np.ndarray]) -> float:  # type: ignore[type-arg]
    """Accuracy of the best attacker, who is told the label."""
    table = law.table(np.array([[0.0], [1.0]]))
    assert table is not None
    joint_KLO = np.zeros((len(shares_K), 2, table.shape[1]))
    for cls, shares in enumerate(shares_K):
        for unit, share in zip(units, shares, strict=True):
            for codeword, label in unit:
                joint_KLO[cls, label] += share / len(unit) * table[codeword]
    return float(joint_KLO.max(axis=0).sum()) / len(shares_K)


def _bounds(  # type: ignore[no-untyped-def]
    law: ReleaseLaw, units: list, sizes: tuple[int, ...], miss: float
) -> Iterator[tuple[tuple[tuple[int, ...], ...], float]]:
    """Every sample, and its certificate."""
    for counts in itertools.product(*(_samples(len(units), n) for n in sizes)):
        rows, persons = [], 0
        for cls, of_class in enumerate(counts):
            for unit, count in zip(units, of_class, strict=True):
                for _ in range(count):
                    rows += [(codeword, label, cls, persons) for codeword, label in unit]
                    persons += 1
        codewords, labels, classes, whose = np.array(rows).T
        held = HeldOut(np.eye(2)[codewords], classes, tuple(map(str, range(len(sizes)))), whose, labels)
        known = units is LABELLED
        yield counts, certify_attribute(law, held, label_known=known, confidence=1 - miss).bound


def _laws(kinds: int, classes: int) -> Iterator[list[np.ndarray]]:
    """Shares of the kinds in each class: corners, edges and what lies between."""
    parts = [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0] if kinds * classes <= 4 else [0.0, 0.1, 0.5, 0.9, 1.0]
    if kinds == 2:
        shares = [np.array([part, 1 - part]) for part in parts]
    else:
        shares = [np.eye(kinds)[one] * 0.9 + 0.1 / kinds for one in range(kinds)]
        shares += [*np.eye(kinds), np.full(kinds, 1 / kinds)]
    for chosen in itertools.product(shares, repeat=classes):
        yield list(chosen)


CASES = {
    "one and one": (SINGLE, SURE, 1, (1, 1)),
    "one and eight": (SINGLE, SURE, 1, (1, 8)),
    "two and seven": (SINGLE, USUAL, 1, (2, 7)),
    "six and six": (SINGLE, SURE, 1, (6, 6)),
    "four and nine": (SINGLE, USUAL, 1, (4, 9)),
    "two releases": (SINGLE, USUAL, 2, (3, 4)),
    "weak noise": (SINGLE, WEAK, 1, (5, 8)),
    "label known": (LABELLED, USUAL, 1, (2, 3)),
    "label known, weak noise": (LABELLED, WEAK, 1, (2, 3)),
    "pairs of images": (PAIRS, SURE, 1, (4, 3)),
    "three classes": (SINGLE, SURE, 1, (2, 4, 3)),
}


@pytest.mark.parametrize("miss", [0.5, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_misses_are_as_rare_as_stated(name: str, miss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "binomial_bound", functools.cache(binomial_bound))  # many samples look alike
    units, epsilon, releases, sizes = CASES[name]
    law = _law(epsilon, releases)
    bounds = list(_bounds(law, units, sizes, miss))
    for shares_K in _laws(len(units), len(sizes)):
        truth = _truth(law, units, shares_K)
        missed = sum(
            math.prod(_probability(*each) for each in zip(counts, shares_K, strict=True))
            for counts, bound in bounds
            if bound < truth - 1e-9
        )
        assert missed <= miss + 1e-9, (shares_K, truth)
