"""Images of many persons, as an attacker holds them: some releases of each image, and who is in it.

Letters: R releases of an image, N images, F the feature shape, D numbers of a release, E columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smartedge.types import Floats, Ints

__all__ = ["Columns", "Crowd", "Fold", "Sees", "numbered", "person_numbers"]

Sees = Literal["release", "label", "both"]  # of an image: its release, its true desired label

_COMPONENTS = 256  # principal components, at most
_LEAST_DEVIATION = 1e-30  # where all are constant
_SAMPLE = 3000  # releases from which they are computed


@dataclass(frozen=True)
class Crowd:
    """Images of several persons."""

    releases_RND: NDArray[np.float32]  # independent releases of every image; R = 1 where there is one
    persons_N: Ints  # the person in each image
    desired_N: Ints  # the desired label; a combination of labels is one number
    attributes: Mapping[str, Ints] = field(default_factory=dict)  # column → class of each image; −1 where unknown
    bounded_NF: NDArray[np.floating] | None = None  # clean features after the mechanism's bound; None: not known

    def __len__(self) -> int:
        return len(self.persons_N)


@dataclass(frozen=True)
class Fold:
    """Three crowds; no person is in two of them, and the front has learned from none."""

    own: Crowd  # attackers learn from these
    choosing: Crowd  # these choose settings and thresholds of attackers
    protected: Crowd  # these are attacked


class Columns:
    """What an attacker sees of images, as columns: standardised numbers, or principal components of many; labels as ±1.

    Args:
        own: the images by which columns are standardised.
        sees: the release, the true desired label, or both.
    """

    def __init__(self, own: Crowd, sees: Sees) -> None:
        self._sees = sees
        self._labels = np.unique(own.desired_N)
        raw_MD = own.releases_RND.reshape(-1, own.releases_RND.shape[2])
        some = np.random.default_rng(0).permutation(len(raw_MD))[:_SAMPLE]
        sample_MD = raw_MD[some].astype(np.float64)
        deviation_D = sample_MD.std(axis=0)
        least = max(1e-3 * deviation_D.mean(), _LEAST_DEVIATION)
        self._mean_D, self._scale_D = sample_MD.mean(axis=0), 1 / (deviation_D + least)
        self._basis_DE: Floats | None = None
        if raw_MD.shape[1] > _COMPONENTS:
            centred_MD = (sample_MD - self._mean_D) * self._scale_D
            values, vectors = np.linalg.eigh(centred_MD @ centred_MD.T)  # in ascending order
            keep = slice(-min(_COMPONENTS, max(1, len(some) // 4)), None)
            self._basis_DE = centred_MD.T @ vectors[:, keep] / np.sqrt(np.maximum(values[keep], 1e-9))

    def __call__(self, crowd: Crowd) -> Floats:
        """The columns of every release, float64 (R, N, E)."""
        told_NL = 2.0 * (crowd.desired_N[:, None] == self._labels) - 1
        if self._sees == "label":
            return np.repeat(told_NL[None], len(crowd.releases_RND), axis=0)
        parts = []
        for release_ND in crowd.releases_RND:
            columns_NE = (release_ND - self._mean_D) * self._scale_D
            if self._basis_DE is not None:
                columns_NE = columns_NE @ self._basis_DE
            parts.append(columns_NE if self._sees == "release" else np.concatenate([columns_NE, told_NL], axis=1))
        return np.stack(parts)


def person_numbers(crowd: Crowd) -> tuple[Ints, Ints]:
    """Persons numbered from 0: the number of the person in each image, and how many images each person has."""
    number_N = np.unique(crowd.persons_N, return_inverse=True)[1].reshape(-1)
    return number_N, np.bincount(number_N)


def numbered(parts: Sequence[NDArray[np.generic]]) -> list[Ints]:
    """One number for each image, int64 (N,), in place of its labels, (N,) or (N, K): equal labels, equal numbers."""
    rows = np.concatenate([part.reshape(len(part), -1) for part in parts])
    number_M = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return np.split(number_M, np.cumsum([len(part) for part in parts])[:-1])
