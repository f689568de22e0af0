"""The best attacker on the held-out images themselves: the accuracy of the exact posterior under their mixtures.

Each class is the mean of the release laws of its images: a mixture that is known exactly. The best balanced accuracy of
an attacker on such mixtures is ∫ maxₖ pₖ(z) dz / K. It is summed exactly where releases have few outcomes, otherwise
estimated from draws.

Letters: N images, D numbers that the law depends on, K classes, M draws, O outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smartedge.lab.audit.certificate.bounds import empirical_bernstein
from smartedge.privacy.laws import ReleaseLaw
from smartedge.types import Floats, Ints

__all__ = ["PlugIn", "Sample", "class_densities", "label_floor", "plug_in", "sample_of"]

Progress = Callable[[int, int], None]

_PAIRS = 4_000_000  # pairs of draw and image whose densities are in memory at one time


@dataclass(frozen=True)
class Sample:
    """Held-out images. All images of one person count together as one unit."""

    inputs_ND: Floats  # as ReleaseLaw.inputs gave them
    classes_N: Ints  # 0..K-1
    weights_N: Floats  # 1/(persons of the class)/(images of the person); they sum to 1 in each class
    groups_N: Ints  # what else the attacker knows of an image, such as its desired label; otherwise all 0
    units: tuple[int, ...]  # persons of each class

    def without_groups(self) -> Sample:
        """The same sample, for an attacker that knows nothing else about the images."""
        return replace(self, groups_N=np.zeros_like(self.groups_N))


@dataclass(frozen=True)
class PlugIn:
    """Accuracy of the best attacker on a sample."""

    value: float  # the estimate
    error: float  # the exact value is at most this much larger, except with probability ``miss``; 0 where it is exact
    draws: int  # 0 where it is exact


def sample_of(
    law: ReleaseLaw,
    bounded_NF: NDArray[np.floating],
    classes_N: Ints,
    *,
    persons_N: Ints | None = None,
    groups_N: Ints | None = None,
    rng: np.random.Generator,
) -> Sample:
    """Make a sample from images.

    Args:
        law: the law of their releases.
        bounded_NF: clean features (N, *F) after the mechanism's bound.
        classes_N: int64 (N,) in 0..K-1; images with −1 are left out.
        persons_N: int64 (N,), the person in each image; None: every image counts as its own person. If a person has
            images in several classes, one of these classes is drawn. So no person is in two classes.
        groups_N: int64 (N,), what else the attacker knows of each image.
        rng: draws the classes of such persons.
    """
    known = np.flatnonzero(classes_N >= 0)
    classes = classes_N[known]
    persons = np.arange(len(known)) if persons_N is None else np.unique(persons_N[known], return_inverse=True)[1]
    count = int(classes.max()) + 1 if len(classes) else 0
    images_PK = np.zeros((int(persons.max()) + 1 if len(persons) else 0, count))
    np.add.at(images_PK, (persons, classes), 1)
    luck_PK = rng.random(images_PK.shape) * (images_PK > 0)
    chosen_P = luck_PK.argmax(axis=1)
    kept = chosen_P[persons] == classes
    rows, persons, classes = known[kept], persons[kept], classes[kept]
    units_K = np.bincount(chosen_P, minlength=count)
    groups = np.zeros(len(classes_N), dtype=np.int64) if groups_N is None else groups_N
    return Sample(
        law.inputs(np.asarray(bounded_NF)[rows]),
        classes,
        np.asarray(1 / (units_K[classes] * images_PK[persons, classes])),
        groups[rows],
        tuple(int(n) for n in units_K),
    )


def plug_in(
    law: ReleaseLaw,
    sample: Sample,
    *,
    draws: int,
    miss: float,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> PlugIn:
    """The balanced accuracy of the best attacker on the sample's own mixtures.

    Args:
        law: the law of the releases.
        sample: from :func:`sample_of`; every class has a unit.
        draws: number of draws M, where the sum is not exact.
        miss: probability with which ``error`` may be too small.
        rng: makes the draws.
        progress: called with the number of draws done and the number of all draws.
    """
    classes = len(sample.units)
    tables = [_table(law, part, classes) for part in _groups(sample)]
    if all(table is not None for table in tables):
        right = sum(float(table_KO.max(axis=0).sum()) for table_KO in tables if table_KO is not None)
        return PlugIn(_share(right, classes), 0.0, 0)
    # Draw a class, then an image of it by weight. All draws then have one law: the even mixture of the classes.
    row_M = rng.choice(len(sample.classes_N), size=draws, p=sample.weights_N / sample.weights_N.sum())
    values, done = [], 0
    for part, group in ((part, part.groups_N[0]) for part in _groups(sample)):
        inputs_MD = sample.inputs_ND[row_M[sample.groups_N[row_M] == group]]
        for chunk_MD in _chunks(inputs_MD, len(part.classes_N)):
            density_MK = class_densities(law, part, law.sample(chunk_MD, rng), classes)
            values.append(density_MK.max(axis=1) / density_MK.sum(axis=1))
            done += len(chunk_MD)
            if progress:
                progress(done, draws)
    values_M = np.concatenate(values)
    error = empirical_bernstein(values_M, low=1 / classes, miss=miss)
    return PlugIn(float(values_M.mean()), error, draws)


def label_floor(sample: Sample) -> float:
    """Balanced accuracy, on the sample, of the best attacker that knows only the groups."""
    share_GK = np.zeros((int(sample.groups_N.max()) + 1, len(sample.units)))
    np.add.at(share_GK, (sample.groups_N, sample.classes_N), sample.weights_N)
    return _share(float(share_GK.max(axis=1).sum()), len(sample.units))


def _share(right: float, classes: int) -> float:
    """A balanced accuracy from a sum of shares of the classes, whose rounding errors may bring it above all of them."""
    return min(1.0, right / classes)


def class_densities(law: ReleaseLaw, sample: Sample, statistic_ME: Floats, classes: int) -> Floats:
    """Σ weight · density over the images of each class, float64 (M, K); each row is known up to a factor."""
    log_MN = law.log_density(statistic_ME, sample.inputs_ND)
    log_MN -= log_MN.max(axis=1, keepdims=True)
    weights_NK = np.zeros((len(sample.classes_N), classes))
    weights_NK[np.arange(len(sample.classes_N)), sample.classes_N] = sample.weights_N
    return np.asarray(np.exp(log_MN, out=log_MN) @ weights_NK)


def _table(law: ReleaseLaw, sample: Sample, classes: int) -> Floats | None:
    """Exact probability of each class and outcome, float64 (K, O); None where there are too many outcomes."""
    inputs_UD, place_N = np.unique(sample.inputs_ND, axis=0, return_inverse=True)
    table_UO = law.table(inputs_UD)
    if table_UO is None:
        return None
    weights_KU = np.zeros((classes, len(inputs_UD)))
    np.add.at(weights_KU, (sample.classes_N, place_N.reshape(-1)), sample.weights_N)
    return np.asarray(weights_KU @ table_UO)


def _groups(sample: Sample) -> Iterator[Sample]:
    for group in np.unique(sample.groups_N):
        rows = np.flatnonzero(sample.groups_N == group)
        yield Sample(
            sample.inputs_ND[rows], sample.classes_N[rows], sample.weights_N[rows], sample.groups_N[rows], sample.units
        )


def _chunks(inputs_MD: Floats, images: int) -> Iterator[Floats]:
    rows = max(1, _PAIRS // max(1, images))
    for start in range(0, len(inputs_MD), rows):
        yield inputs_MD[start : start + rows]
