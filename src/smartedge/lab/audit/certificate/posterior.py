"""An attacker that computes the posterior of an attribute from its own images and the exact noise law."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smartedge.lab.audit.certificate.plugin import Sample, class_densities
from smartedge.privacy.laws import ReleaseLaw
from smartedge.types import Floats, Ints

__all__ = ["posterior_attack"]


_PAIRS = 4_000_000  # pairs of release and image whose densities are in memory at one time


def posterior_attack(
    law: ReleaseLaw,
    own_NF: NDArray[np.floating],
    classes_N: Ints,
    released_RMF: NDArray[np.floating],
    *,
    classes: int,
    own_labels_N: Ints | None = None,
    labels_M: Ints | None = None,
) -> Floats:
    """Compute P(class | all releases of an image), where all classes are equally frequent a priori.

    The attacker models each class as the mixture of the release laws of its own images of that class. With enough
    images no attacker is better. The certificate bounds this attacker as it bounds all attackers.

    Args:
        law: the law of the releases.
        own_NF: the attacker's clean features (N, *F), after the mechanism's bound.
        classes_N: their classes, int64 (N,); images with −1 are left out. Every class occurs.
        released_RMF: R releases of each of M protected images, (R, M, *F).
        classes: K.
        own_labels_N: what else the attacker knows of its own images, such as the desired label, int64 (N,).
        labels_M: the same for the protected images.

    Returns:
        Scores float64 (M, K); each row sums to 1. A label that no own image has gives equal scores.
    """
    known = np.flatnonzero(classes_N >= 0)
    inputs_ND, classes_of = law.inputs(np.asarray(own_NF)[known]), classes_N[known]
    statistic_ME = law.statistic(released_RMF)
    weights_N = 1 / np.bincount(classes_of, minlength=classes)[classes_of]
    nothing = np.zeros(len(known), dtype=np.int64)
    told_N = nothing if own_labels_N is None else own_labels_N[known]
    told_M = np.zeros(len(statistic_ME), dtype=np.int64) if labels_M is None else labels_M
    scores_MK = np.full((len(statistic_ME), classes), 1 / classes)
    for label in np.intersect1d(told_N, told_M):
        own, protected = told_N == label, np.flatnonzero(told_M == label)
        sample = Sample(inputs_ND[own], classes_of[own], weights_N[own], nothing[own], ())
        for rows in np.array_split(protected, max(1, len(protected) * int(own.sum()) // _PAIRS)):
            density_MK = class_densities(law, sample, statistic_ME[rows], classes)
            scores_MK[rows] = density_MK / density_MK.sum(axis=1, keepdims=True)
    return scores_MK
