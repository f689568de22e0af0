"""The certificate of several images of one person: the law of their releases together, and the sets of held-out images.

The attacker has the releases of m images of one person, in an order that means nothing. Where it knows the desired
labels, it knows the label of each release. The person is the unit: one set of m of its images, drawn at random, stands
for it.

Letters: N images, P persons, m images of each, M draws, R releases of each image, F the feature shape, X the numbers of
an image: its map, flat, and with known labels its label behind it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import DataError
from smartedge.lab.audit.certificate.certify import HeldOut
from smartedge.lab.audit.crowd import numbered
from smartedge.privacy.laws import ReleaseLaw, release_law
from smartedge.privacy.mechanisms import Mechanism
from smartedge.types import Floats

__all__ = ["MOST_IMAGES", "SetLaw", "held_sets", "set_law"]


MOST_IMAGES = 5  # a density is a mean over all m! orders


@dataclass(frozen=True)
class SetLaw(ReleaseLaw):
    """Releases of m images of one person, with independent noise, in an order drawn at random.

    Where labels are known, the last number of an image is its label, in inputs and in releases. It carries no noise.
    """

    law: ReleaseLaw  # of one image
    images: int  # m
    feature_shape: tuple[int, ...]
    labelled: bool
    distance: float
    sampling_bias: float

    def inputs(self, bounded_NF: NDArray[np.floating]) -> Floats:
        """Bounded features and labels (P, m, X): float64 (P, m · D), with D numbers of an image."""
        maps, labels = self._parts(np.asarray(bounded_NF).reshape(len(bounded_NF) * self.images, -1))
        return self._joined(self.law.inputs(maps.reshape(len(maps), *self.feature_shape)), labels)

    def statistic(self, released_RNF: NDArray[np.floating]) -> Floats:
        """Releases and labels (R, P, m, X): float64 (P, m · E)."""
        released = np.asarray(released_RNF)
        maps, labels = self._parts(released.reshape(len(released), released.shape[1] * self.images, -1))
        return self._joined(self.law.statistic(maps.reshape(*maps.shape[:2], *self.feature_shape)), labels[0])

    def sample(self, inputs_MD: Floats, rng: np.random.Generator) -> Floats:
        """One draw for each image. The order is that of the inputs, since a density does not depend on the order."""
        inputs, labels = self._parts(inputs_MD.reshape(len(inputs_MD) * self.images, -1))
        return self._joined(self.law.sample(inputs, rng), labels)

    def log_density(self, statistic_ME: Floats, inputs_ND: Floats) -> Floats:
        """The logarithm of the mean, over all orders, of the product of the images' densities.

        An order counts only if it gives each release its label. The law of one image lacks a term of its release alone.
        That term is the same in every order.
        """
        draws, persons, m = len(statistic_ME), len(inputs_ND), self.images
        (seen, told), (inputs, labels) = (
            self._parts(each.reshape(len(each) * m, -1)) for each in (statistic_ME, inputs_ND)
        )
        each_XX = self.law.log_density(seen, inputs)
        if self.labelled:
            each_XX = np.where(told == labels.T, each_XX, -np.inf)
        each_MmPm = each_XX.reshape(draws, m, persons, m)
        total_MP = np.full((draws, persons), -np.inf)
        for order in itertools.permutations(range(m)):
            one_MP = np.zeros((draws, persons))
            for place, image in enumerate(order):
                one_MP += each_MmPm[:, place, :, image]
            np.logaddexp(total_MP, one_MP, out=total_MP)
        return np.asarray(total_MP - math.log(math.factorial(m)))

    def _parts(self, images_NX: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Numbers of images without their labels, and the labels, each as one column; no column without labels."""
        end = images_NX.shape[-1] - self.labelled
        return images_NX[..., :end], images_NX[..., end:]

    def _joined(self, numbers_ND: Floats, labels_NL: NDArray[Any]) -> Floats:
        """Images of one person side by side, each with its label."""
        return np.concatenate([numbers_ND, labels_NL], axis=1).reshape(len(numbers_ND) // self.images, -1)


def set_law(mechanism: Mechanism, images: int, releases: int = 1, *, labelled: bool = False) -> SetLaw:
    """The law of all ``releases`` of each of ``images`` images of one person.

    Args:
        mechanism: the noise.
        images: m.
        releases: R.
        labelled: whether the attacker knows the desired label of each image.

    Raises:
        PrivacyError: the mechanism adds no noise.
        ValueError: ``images`` is not between 1 and 5.
    """
    if not 1 <= images <= MOST_IMAGES:
        raise ValueError(f"images: 1 to {MOST_IMAGES} of one person are possible, not {images}")
    # Two sets differ most where each of the images does. That is as far as so many releases of one image can be.
    apart = 1.0 if labelled else release_law(mechanism, images * releases).distance
    bias = images * releases * mechanism.sampling_bias
    return SetLaw(release_law(mechanism, releases), images, mechanism.feature_shape, labelled, apart, bias)


def held_sets(held: HeldOut, images: int, *, seed: int, labelled: bool = False) -> HeldOut:
    """One set of so many images of each person that has them; the class of a set is that of most of its images.

    A set without such a class is left out. The images are flat (P, m, X), as :class:`SetLaw` takes them.
    ``labels_N`` of a set is a number that stands for how often each desired label occurs in it.

    Args:
        held: single images.
        images: m.
        seed: of the draw.
        labelled: put the label of each image behind its numbers.

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
    images_PmX = np.asarray(held.bounded_NF).reshape(len(held.bounded_NF), -1)[rows_Pm]
    labels_P = None
    if held.labels_N is not None:
        (labels_P,) = numbered([np.sort(held.labels_N[rows_Pm], axis=1)])
    if labelled:
        assert held.labels_N is not None
        images_PmX = np.concatenate([images_PmX, held.labels_N[rows_Pm][..., None].astype(images_PmX.dtype)], axis=2)
    return HeldOut(images_PmX, np.array(classes, dtype=np.int64), held.names, labels_N=labels_P)
