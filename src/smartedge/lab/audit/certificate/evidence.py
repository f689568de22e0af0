"""The certificate of an audit: from the evidence that its attackers have, and the clean features behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smartedge.artifacts.certificate import Certificate
from smartedge.errors import DataError
from smartedge.lab.audit.certificate.certify import HeldOut
from smartedge.lab.audit.certificate.whole import Statement, certificate_of
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.crowd import numbered
from smartedge.lab.audit.evidence import Evidence
from smartedge.runs.progress import Monitor
from smartedge.runs.seeds import derive_seed

__all__ = ["certify_evidence", "held_out"]

_CONFIDENCE = 0.95
_FEWEST_DRAWS, _MOST_DRAWS = 2_000, 100_000


def certify_evidence(
    evidence: Evidence, attributes: Sequence[str], *, clock: Clock, monitor: Monitor
) -> Certificate | None:
    """What no attacker that has this evidence can exceed; None where nothing can be certified, for lack of noise.

    The held-out images are the protected ones, and the attacker's own where the front did not learn from them.

    Args:
        evidence: of one release, or of everything sent about a training image.
        attributes: the columns. Desired ones are left out where the attacker knows the desired label.
        clock: when it is short, fewer draws are made, and the bound is a little higher. About half of it is used.
        monitor: takes progress updates.

    Raises:
        DataError: nobody of a class is held out, or the front learned from images of the same persons.
        OutOfTime: there is no time for the fewest draws.
    """
    names = [name for name in attributes if not (evidence.labelled and name in evidence.task.columns)]
    if not evidence.noisy or math.isinf(evidence.mechanism.epsilon) or not names:
        return None
    persons = evidence.persons
    if persons and persons.also_in_training:
        raise DataError(
            f"{persons.also_in_training} persons of the protected images are also among the images that the front "
            "learned from; divide the data set by persons"
        )
    if evidence.copies_in_training:
        raise DataError(
            f"{evidence.copies_in_training} of the held-out images are training images too, pixel by pixel; remove "
            "them from one of the two"
        )
    held = {name: held_out(evidence, name) for name in names}
    statement = Statement(
        _CONFIDENCE,
        evidence.releases_sent,
        evidence.labelled,
        ("test", evidence.own_split) if _own_too(evidence) else ("test",),
        persons.column if persons else None,
        evidence.crossing.apply_to == "training",
    )
    seed = derive_seed(evidence.seed, "audit", "certificate")

    def certified(draws: int | None) -> Certificate:
        return certificate_of(evidence.mechanism, held, statement, seed=seed, monitor=monitor, draws=draws, clock=clock)

    if math.isinf(clock.remaining()):
        return certified(None)
    # The number of draws depends on the time alone, not on what was drawn: a certificate's confidence rests on that.
    begun = clock.elapsed()
    quick = certified(_FEWEST_DRAWS)
    seconds = max(clock.elapsed() - begun, 1e-6)
    draws = min(_MOST_DRAWS, int(_FEWEST_DRAWS * clock.remaining() / 2 / seconds))
    if draws <= 2 * _FEWEST_DRAWS:
        return quick
    try:
        return certified(draws)
    except OutOfTime:
        return quick


def held_out(evidence: Evidence, name: str) -> HeldOut:
    """The protected images, and the attacker's own where the front did not learn from them, with one attribute."""
    own, persons, both = evidence.train, evidence.persons, _own_too(evidence)

    def joined(test: Tensor, train: Tensor) -> NDArray[np.generic]:
        return torch.cat([test, train] if both else [test]).numpy()

    bounded_NF = np.asarray(joined(evidence.bounded_test_NF, own.views_VNF[0]), dtype=np.float32)
    persons_N = None if persons is None else np.asarray(joined(persons.test, persons.train), dtype=np.int64)
    (desired_N,) = numbered([joined(evidence.test_desired, own.desired)])
    return HeldOut(
        bounded_NF,
        np.asarray(joined(evidence.test_labels[name], own.labels[name]), dtype=np.int64),
        evidence.classes[name],
        persons_N,
        None if name in evidence.task.columns else desired_N,
    )


def _own_too(evidence: Evidence) -> bool:
    own = evidence.train
    return own.seen is False and own.views_VNF[0].dtype == torch.float32  # rounded features are not those released
