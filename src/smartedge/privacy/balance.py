"""Reads a ledger: the releases of each image and their cost. Reading changes nothing."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smartedge.errors import PrivacyError
from smartedge.privacy.accountant import composed_epsilon
from smartedge.privacy.checksum import CHECKSUM, verify
from smartedge.types import ReleaseEvent

__all__ = [
    "BEFORE_CHECKSUMS",
    "ROUNDING",
    "SCHEMA",
    "Balance",
    "Budget",
    "ImageGroup",
    "balance_of",
    "event_of",
    "facts_of",
    "read_balance",
    "refusing",
    "same_policy",
    "what_differs",
]

SCHEMA = 3  # of the tables, and of the noise that belongs to a nonce
BEFORE_CHECKSUMS = 2
ROUNDING = 1e-9  # relative tolerance for sums of the budget's parts, and for a policy's numbers
_KNOWN = (1, BEFORE_CHECKSUMS, SCHEMA)  # 1 can be read, but not spent from
History = tuple[tuple[ReleaseEvent, int], ...]


@dataclass(frozen=True)
class Budget:
    """The largest total cost of the releases of one image. ``epsilon`` inf: releases are recorded, never refused."""

    epsilon: float
    delta: float  # every ε is stated at this δ


@dataclass(frozen=True)
class ImageGroup:
    """Images of one split with the same history."""

    split: str
    images: int
    example: int  # id of one of them
    history: History  # of their features: event, how often
    epsilon: float  # of the features, over all releases, at the budget's delta
    label_epsilon: float  # of the label, released once; 0 where none travelled

    @property
    def releases(self) -> int:
        """How often the features of each of these images were released."""
        return sum(count for _, count in self.history)


@dataclass(frozen=True)
class Balance:
    """The content of a ledger."""

    run: str
    policy: Mapping[str, object]  # the mechanism and what else was fixed when the run began
    budget: Budget
    groups: tuple[ImageGroup, ...]

    @property
    def of_each_number(self) -> int:
        """1: each ε is of an image. N: of each of the N numbers of its map alone; a release costs the map N ε."""
        shape = self.policy.get("feature_shape")
        return math.prod(shape) if self.policy.get("granularity") == "element" and isinstance(shape, list) else 1

    def worst(self, split: str | None = None) -> ImageGroup | None:
        """The group with the largest ε, then with the most releases; None where nothing was released."""
        chosen = [group for group in self.groups if split in (None, group.split)]
        return max(chosen, key=lambda group: (group.epsilon, group.releases), default=None)

    @property
    def spent_most(self) -> ImageGroup | None:
        """The worst group of the images that have a budget: all, or the training images alone (``dp.apply_to``)."""
        return self.worst("train" if self.policy.get("apply_to") == "training" else None)

    def quantile(self, share: float, split: str) -> float:
        """The smallest ε that a share ``share`` of the split's images does not exceed."""
        chosen = sorted((group for group in self.groups if group.split == split), key=lambda group: group.epsilon)
        wanted = share * sum(group.images for group in chosen)
        for group in chosen:
            wanted -= group.images
            if wanted <= 0:
                return group.epsilon
        return chosen[-1].epsilon

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits from which something was released."""
        return tuple(dict.fromkeys(group.split for group in self.groups))


def read_balance(path: Path) -> Balance:
    """The content of the ledger at ``path``. A run may be writing it meanwhile.

    Raises:
        PrivacyError: there is no ledger, or it cannot be read.
    """
    if not path.exists():
        raise PrivacyError(f"{path}: there is no ledger; it lies in the run directory, on the edge")
    with refusing(path):
        # SQLite makes files beside the ledger, also to read it. Where it cannot, and nobody writes, it needs none.
        still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
        how = "mode=ro&immutable=1" if still else "mode=ro"
        db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=30)
        try:
            db.execute("BEGIN")  # one view of the file, even while a run writes
            return balance_of(db)
        finally:
            db.close()


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Inside the block, errors of the database and of the disk become a PrivacyError."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last: of a damaged text that an error quotes
        raise PrivacyError(
            f"{path}: the ledger cannot be read or written ({error}); nothing is released. See that the file is whole, "
            "that this user may write it and its folder, and that the disk has room"
        ) from error


def facts_of(db: sqlite3.Connection) -> dict[str, object]:
    """The facts that were fixed when the run began. Call it in a transaction: all rows are of one moment.

    Raises:
        DatabaseError: the ledger is damaged, or of an unknown version.
    """
    try:
        facts: dict[str, object] = {
            name: json.loads(value) for name, value in db.execute("SELECT name, value FROM facts")
        }
    except (TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"its facts are damaged: {error}") from error
    if facts.get("schema") not in _KNOWN:
        raise sqlite3.DatabaseError(f"it is of version {facts.get('schema')}, and this program knows {SCHEMA}")
    if facts["schema"] == SCHEMA:
        verify(db, facts.get(CHECKSUM))
    return facts


def event_of(description: str) -> ReleaseEvent:
    """An event from its description in the ledger."""
    fields = json.loads(description)
    return ReleaseEvent(**{**fields, "epsilon": math.inf if fields["epsilon"] is None else fields["epsilon"]})


def balance_of(db: sqlite3.Connection) -> Balance:
    """The content of an open ledger."""
    facts = facts_of(db)
    epsilon, delta = facts["epsilon"], facts["delta"]
    assert isinstance(delta, float) and isinstance(facts["policy"], dict)
    budget = Budget(math.inf if epsilon is None else float(str(epsilon)), delta)
    events = {number: event_of(text) for number, text in db.execute("SELECT event, description FROM events")}
    labels: defaultdict[tuple[str, int], float] = defaultdict(float)
    for split, image, number in db.execute("SELECT split, image, event FROM labels"):
        labels[split, image] += events[number].epsilon
    histories: dict[tuple[str, int], list[tuple[int, int]]] = {}
    rows = db.execute("SELECT split, image, event, count(*) FROM releases GROUP BY split, image, event")
    for split, image, number, count in rows:
        histories.setdefault((split, image), []).append((number, count))
    images: Counter[tuple[str, tuple[tuple[int, int], ...], float]] = Counter()
    example: dict[tuple[str, tuple[tuple[int, int], ...], float], int] = {}
    for (split, image), counts in histories.items():
        group = (split, tuple(sorted(counts)), labels.get((split, image), 0.0))
        images[group] += 1
        example.setdefault(group, image)
    groups = []
    for group, number_of_images in images.items():
        split, counted, label_epsilon = group
        history = tuple((events[number], count) for number, count in counted)
        cost = composed_epsilon(dict(history), delta)
        groups.append(ImageGroup(split, number_of_images, example[group], history, cost, label_epsilon))
    order = {"train": 0, "val": 1, "test": 2}
    groups.sort(key=lambda group: (order.get(group.split, 3), group.split, group.releases))
    return Balance(str(facts["run"]), facts["policy"], budget, tuple(groups))


def same_policy(one: object, other: object) -> bool:
    """Whether two policies are equal. The last digits of numbers may differ: mathematical libraries differ there."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_policy(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=ROUNDING)
    return one == other


def what_differs(one: Mapping[str, object], other: Mapping[str, object], prefix: str = "") -> list[str]:
    """The names, with points, under which two policies are not the same (:func:`same_policy`)."""
    names: list[str] = []
    for name in sorted(one.keys() | other.keys()):
        left, right = one.get(name), other.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            names += what_differs(left, right, f"{prefix}{name}.")
        elif not same_policy(left, right):
            names.append(prefix + name)
    return names
