"""Divides a data set among the edges of a trial, so that each gets a part of its own."""

from __future__ import annotations

import dataclasses

import numpy as np

from smartedge.data.dataset import DataSet, Split
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["shard"]


def shard(dataset: DataSet, part: int, parts: int, *, seed: int = 0) -> DataSet:
    """One part of a data set. The parts of a split are disjoint, and together they are the split.

    Where the data set says whose image it is, nobody is in two parts. The sizes of two parts then differ by no more
    than the images of two persons, otherwise by one image.

    Args:
        dataset: what is divided: each of its splits, and the images set apart for the audit.
        part: which part, from 1 to ``parts``.
        parts: how many there are.
        seed: decides who is in which part. It must be the same for all parts.

    Raises:
        DataError: a split would be empty in this part.
    """
    splits: dict[SplitName, Split] = {
        name: _part_of(split, part, parts, np.random.default_rng((seed, number)), f"the {name} split")
        for number, (name, split) in enumerate(sorted(dataset.splits.items()))
    }
    audit = dataset.audit
    if audit is not None:
        audit = _part_of(audit, part, parts, np.random.default_rng((seed, len(splits))), "the audit's images")
    return dataclasses.replace(dataset, splits=splits, audit=audit)


def _part_of(split: Split, part: int, parts: int, rng: np.random.Generator, what: str) -> Split:
    persons, person_N = np.unique(split.persons, return_inverse=True)
    order = rng.permutation(len(persons))
    images_P = np.bincount(person_N)[order]
    middle_P = images_P.cumsum() - images_P / 2  # a person goes where the middle of the person's images lies
    mine = order[(middle_P * parts / len(person_N)).astype(np.int64) == part - 1]
    chosen = np.flatnonzero(np.isin(person_N, mine))
    if not len(chosen):
        raise DataError(f"data.shard: part {part} of {parts} has nothing of {what}; use fewer parts, or more images")
    return split.subset(chosen)
