"""The noise law as text."""

from __future__ import annotations

import math

import pytest

from smartedge.errors import ConfigError
from smartedge.lab.audit.features.noise import mechanism_from, releases_of
from smartedge.privacy.mechanisms import Gaussian, Laplace, RandomisedResponse, SubsetSelection, Unprotected


def test_laws() -> None:
    assert mechanism_from(None, (4,)) == Unprotected((4,))
    assert mechanism_from("gaussian:sigma=0.4,clip=2", (4,)) == Gaussian((4,), 2.0, 0.4, 1e-5)
    laplace = mechanism_from(" laplace: sigma=1, clip=3, granularity=element ", (2, 2, 2))
    assert isinstance(laplace, Laplace) and laplace.scale == pytest.approx(1 / math.sqrt(2))
    assert laplace.event.granularity == "element"
    assert mechanism_from("randomised-response:epsilon=2", (8,)) == RandomisedResponse(8, 2.0)
    assert mechanism_from("subset-selection:epsilon=2", (8,)) == SubsetSelection(8, 2.0)


def test_epsilon_is_the_budget_of_all_releases() -> None:
    once, twice = (mechanism_from(f"gaussian:epsilon=4,clip=1,releases={r}", (4,)) for r in (1, 2))
    assert once.epsilon == pytest.approx(4) and twice.epsilon < 4
    assert releases_of("gaussian:epsilon=4,clip=1,releases=2") == 2 and releases_of(None) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gauss:sigma=1", "'gauss' is not a mechanism"),
        ("gaussian:sigma=1", "give the clip"),
        ("gaussian:clip=1", "exactly one of sigma and epsilon"),
        ("gaussian:clip=1,sigma=1,epsilon=1", "exactly one of sigma and epsilon"),
        ("gaussian:clip=1,sigma=much", "sigma must be a number"),
        ("gaussian:clip=1,sigma=-1", "sigma must be above 0"),
        ("gaussian:clip=1,sigma=nan", "sigma must be above 0"),
        ("gaussian:clip=1,sigma=1,sigma=2", "cannot be read"),
        ("gaussian:clip=1,scale=1", "cannot be read; gaussian takes clip, delta, epsilon, releases, sigma"),
        ("gaussian:clip=1,sigma=1,releases=0", "releases must be"),
        ("gaussian:clip=1,sigma=1,releases=1.5", "releases must be a whole number"),
        ("laplace:clip=1,sigma=1,granularity=pixel", "granularity is"),
        ("randomised-response:sigma=1", "cannot be read"),
        ("gaussian:clip=1,sigma=inf", "'gaussian:clip=1,sigma=inf': sigma: inf must be above 0 and finite"),
        ("gaussian:clip=inf,sigma=1", "clip: inf must be above 0 and finite"),
        ("laplace:clip=1,epsilon=inf", "epsilon: inf must be above 0 and finite"),
        ("gaussian:clip=1,sigma=1,delta=2", "delta: 2 must be above 0 and below 1"),
        ("gaussian:clip=1e30,sigma=1e30", "does not fit into float32"),
        ("gaussian:clip=1e-30,sigma=1e-30", "does not fit into float32"),
        ("laplace:clip=1,sigma=1,releases=100000", "at most 16384 can be computed with"),
        ("gaussian:clip=1,sigma=1,releases=1" + 20 * "0", "must be a whole number"),
        ("gaussian:clip=1,sigma=1,releases=1" + 15 * "0", "too many to compute with"),
        ("gaussian:clip=1,sigma=1e-10", "noise of scale 1e-10 protects nothing"),
        ("laplace:clip=1e300,sigma=1", "protects nothing"),
        ("laplace:clip=1,epsilon=1e-300", "does not fit into float32"),
        ("randomised-response:epsilon=1e9", r"epsilon: 1e\+09 protects nothing"),
        ("subset-selection:epsilon=inf", "epsilon: inf must be above 0 and finite"),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mechanism_from(text, (4,))


def test_codewords_need_codewords() -> None:
    with pytest.raises(ConfigError, match="needs codewords"):
        mechanism_from("randomised-response:epsilon=2", (4, 2, 2))
