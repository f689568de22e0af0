"""Mechanisms: they clip features and add noise, so that they may be released.

Every mechanism works on any feature shape, image by image, in two steps:

- :meth:`Mechanism.bound` clips.
- :meth:`Mechanism.randomise` makes the release, from 64-bit words of a cryptographic source
  (:mod:`smartedge.privacy.noise`), in integer arithmetic.

All of it works on numpy arrays. Its twin on tensors, for training and for attackers, is
:func:`smartedge.methods.differentiable.differentiable`.

The guarantee is local differential privacy under replace-one adjacency: any feature map against any other. Two maps
clipped to norm C differ by up to 2C: the sensitivity. ``docs/privacy.md`` says what is covered and what is not.

``base`` is the interface, ``make`` makes a mechanism from settings. ``additive`` and ``discrete`` protect,
``unprotected`` does not. ``grid`` is what additive releases lie on, ``distance`` how far two laws of releases are
apart.

Shape letters: B, N, M images, F any feature shape, D its numbers, K codewords, O outcomes of a discrete mechanism.
"""

from __future__ import annotations

from smartedge.privacy.mechanisms.additive import Additive, Gaussian, Laplace
from smartedge.privacy.mechanisms.base import Description, Mechanism
from smartedge.privacy.mechanisms.discrete import (
    MAX_OUTCOMES,
    Discrete,
    RandomisedResponse,
    SubsetSelection,
    response_weights,
)
from smartedge.privacy.mechanisms.make import make_mechanism
from smartedge.privacy.mechanisms.unprotected import Unprotected, UnprotectedCodeword

__all__ = [
    "MAX_OUTCOMES",
    "Additive",
    "Description",
    "Discrete",
    "Gaussian",
    "Laplace",
    "Mechanism",
    "RandomisedResponse",
    "SubsetSelection",
    "Unprotected",
    "UnprotectedCodeword",
    "make_mechanism",
    "response_weights",
]
