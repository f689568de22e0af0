"""The certificate of several images of one person: the law of their releases together, and the sets of held-out images.

The attacker has the releases of m images of one person, in an order that means nothing. The person is the unit: one set
of m of its images, drawn at random, stands for it.

Letters: N images, P persons, m images of each, M draws, R releases of each image, F the feature shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import DataError
from smartedge.lab.audit.certificate.certify import HeldOut
from smartedge.privacy.laws import ReleaseLaw, release_law
from smartedge.privacy.mechanisms import Mechanism

__all__ = ["MOST_IMAGES", "SetLaw", "held_sets", "set_law"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_IMAGES = 5  # a density is a mean over all m! orders


@dataclass(frozen=True)
class SetLaw(ReleaseLaw):
    """Releases of m images of one person, with independent noise, in an order drawn at random."""

    law: ReleaseLaw  # of one image
    images: int  # m
    distance: float
    sampling_bias: float

    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """Bounded features (P, m, *F): float64 (P, m · D)."""
        return self._each(np.asarray(bounded_NF), self.law.inputs)

    def seen(self, released_RNF: NDArray[np.floating]) -> Floats:
        """Releases (R, P, m, *F): float64 (P, m · E)."""
        released = np.asarray(released_RNF)
        joined = released.reshape(len(released), released.shape[1] * self.images, *released.shape[3:])
        return self.law.seen(joined).reshape(released.shape[1], -1)

    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """One draw for each image. The order is that of the inputs, since a density does not depend on the order."""
        return self._each(inputs_MD.reshape(len(inputs_MD), self.images, -1), lambda each: self.law.sample(each, rng))

    def log_density(self, seen_ME: Floats, inputs_ND: Floats) -> Floats:
        """The logarithm of the mean, over all orders, of the product of the images' densities.

        The law of one image lacks a term of its release alone. That term is the same in every order.
        """
        draws, persons, m = len(seen_ME), len(inputs_ND), self.images
        each_MmPm = self.law.log_density(seen_ME.reshape(draws * m, -1), inputs_ND.reshape(persons * m, -1)).reshape(
            draws, m, persons, m
        )
        total_MP = np.full((draws, persons), -np.inf)
        for order in itertools.permutations(range(m)):
            one_MP = np.zeros((draws, persons))
            for place, image in enumerate(order):
                one_MP += each_MmPm[:, place, :, image]
            np.logaddexp(total_MP, one_MP, out=total_MP)
        return np.asarray(total_MP - math.log(math.factorial(m)))

    def _each(self, array_PmF: NDArray[Any], change: Callable[[NDArray[Any]], Floats]) -> Floats:
        """Apply ``change`` to single images, and put those of one person side by side."""
        flat = array_PmF.reshape(len(array_PmF) * self.images, *array_PmF.shape[2:])
        return change(flat).reshape(len(array_PmF), -1)


def set_law(mechanism: Mechanism, images: int, releases: int = 1) -> SetLaw:
    """The law of all ``releases`` of each of ``images`` images of one person.

    Raises:
        PrivacyError: the mechanism adds no noise.
        ValueError: ``images`` is not between 1 and 5.
    """
    if not 1 <= images <= MOST_IMAGES:
        raise ValueError(f"images: 1 to {MOST_IMAGES} of one person are possible, not {images}")
    # Two sets differ most where each of the images does. That is as far as so many releases of one image can be.
    apart = release_law(mechanism, images * releases).distance
    return SetLaw(release_law(mechanism, releases), images, apart, images * releases * mechanism.sampling_bias)


def held_sets(held: HeldOut, images: int, *, seed: int) -> HeldOut:
    """One set of so many images of each person that has them; the class of a set is that of most of its images.

    A set without such a class is left out. The desired label of a set is how often each label occurs in it.

    Raises:
        DataError: the persons are not known, or none has so many images.
    """
    if held.persons_N is None:
        raise DataError("several images of one person: the data set names no persons")
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(held.classes_N >= 0)
    known = known[np.argsort(held.persons_N[known], kind="stable")]
    ends = np.flatnonzero(np.diff(held.persons_N[known])) + 1
    rows, classes = [], []
    for of_person in np.split(known, ends):
        if len(of_person) < images:
            continue
        chosen = rng.permutation(of_person)[:images]
        counts = np.bincount(held.classes_N[chosen])
        if (counts == counts.max()).sum() == 1:
            rows.append(chosen)
            classes.append(int(counts.argmax()))
    if not rows:
        raise DataError(f"several images of one person: no held-out person has {images}")
    rows_Pm = np.stack(rows)
    labels_P = None
    if held.labels_N is not None:
        counts_PY = np.stack(
            [np.bincount(labels, minlength=held.labels_N.max() + 1) for labels in held.labels_N[rows_Pm]]
        )
        labels_P = np.unique(counts_PY, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return HeldOut(
        np.asarray(held.bounded_NF)[rows_Pm], np.array(classes, dtype=np.int64), held.names, labels_N=labels_P
    )
