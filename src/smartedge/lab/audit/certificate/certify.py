"""The certificate of one attribute: a balanced accuracy that no attacker exceeds, whatever it computes.

``docs/certificate.md`` has the derivation. In short: the best test on the true distributions of the features is one
fixed test, although nobody knows it. On the held-out images it is at most as good as the best test on *these images*,
which can be computed from the noise law (:mod:`.plugin`). A fixed test can be less accurate on a sample than in truth.
The number of images bounds this difference (:mod:`.bounds`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartedge.artifacts.certificate import AttributeBound
from smartedge.errors import DataError
from smartedge.lab.audit.certificate.bounds import binomial_bound, bounded_differences
from smartedge.lab.audit.certificate.plugin import label_floor, plug_in, sample_of
from smartedge.privacy.laws import ReleaseLaw

__all__ = ["HeldOut", "certify_attribute"]

_DRAWS_SHARE = 1 / 50  # the draws' share of the probability of a miss
_WORK = 3e8  # draws times images, for four numbers
_DRAWS = (2_000, 200_000)
_WEAK = 0.84  # below this distance, bounds that know the distance are tighter than binomial ones


@dataclass(frozen=True)
class HeldOut:
    """Images that the front did not learn from, and one attribute of them."""

    bounded_NF: NDArray[np.floating]  # clean features, after the mechanism's bound
    classes_N: NDArray[np.int64]  # the attribute, in 0..K-1; images with −1 are left out
    names: tuple[str, ...]  # of the K classes
    persons_N: NDArray[np.int64] | None = None  # the person in each image; None: every image counts as its own person
    labels_N: NDArray[np.int64] | None = None  # the desired label; None where it is the attribute itself


def certify_attribute(
    law: ReleaseLaw,
    held: HeldOut,
    *,
    label_known: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
    draws: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AttributeBound:
    """Bound what any attacker reads of one attribute from the releases of one image.

    Args:
        law: the law of these releases.
        held: the images.
        label_known: whether the attacker knows the desired label.
        confidence: probability with which the bound holds, below 1.
        seed: seed of the draws.
        draws: number of draws, where the sum is not exact; None: a number that takes some seconds.
        progress: called with the number of draws done and the number of all draws.

    Raises:
        DataError: nobody of a class is held out, or there is a single class.
        ValueError: the confidence is not between 0 and 1, or the label is to be known and is not given.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: must lie between 0 and 1, not {confidence}")
    if label_known and held.labels_N is None:
        raise ValueError("label_known: needs labels_N")
    names = held.names
    if not (held.classes_N >= 0).any():
        raise DataError("no held-out image has a value of it; hold out images that have one")
    rng = np.random.default_rng(seed)
    sample = sample_of(law, held.bounded_NF, held.classes_N, persons_N=held.persons_N, groups_N=held.labels_N, rng=rng)
    units = sample.units + (0,) * (len(names) - len(sample.units))
    if len(names) < 2 or min(units) < 1:  # one person suffices for a bound that holds; it will be near 100 %
        counted = ", ".join(f"{name}: {count}" for name, count in zip(names, units, strict=True))
        raise DataError(
            f"no held-out person of a class ({counted}); a bound needs one of each, and some hundreds to say much"
        )
    floor = None if held.labels_N is None else label_floor(sample)
    if not label_known:
        sample = sample.without_groups()
    draws = draws or _affordable(sample.inputs_ND)
    miss = 1 - confidence
    found = plug_in(law, sample, draws=draws, miss=miss * _DRAWS_SHARE, rng=rng, progress=progress)
    left = miss * (1 - _DRAWS_SHARE) if found.draws else miss
    seen = min(1.0, found.value + found.error)
    # A label is a part of the release and carries no noise: two releases with different labels are told apart.
    distance = 1.0 if label_known else law.distance
    binomial = len(units) == 2 and distance > _WEAK
    bound = (
        binomial_bound(seen, (units[0], units[1]), left)
        if binomial
        else seen + bounded_differences(units, left, distance)
    )
    dp_bound = (1 + (len(units) - 1) * distance) / len(units)
    return AttributeBound(
        classes=names,
        units=units,
        images=len(sample.classes_N),
        plug_in=found.value,
        draws=found.draws,
        draws_error=found.error,
        bound=min(1.0, min(bound, dp_bound) + law.sampling_bias),
        method="binomial" if binomial else "bounded-differences",
        label_floor=floor,
        label_known=label_known,
        dp_bound=min(1.0, dp_bound + law.sampling_bias),
    )


def _affordable(inputs_ND: NDArray[np.float64]) -> int:
    """A number of draws that takes some seconds."""
    images, numbers = inputs_ND.shape
    return int(np.clip(_WORK / max(1, images) / max(1, numbers / 4), *_DRAWS))
