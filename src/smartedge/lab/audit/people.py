"""The stages of an audit that are about persons: identity, and several images of one person together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from smartedge.artifacts.attacks import Identity, PersonBand
from smartedge.artifacts.certificate import AttributeBound
from smartedge.errors import DataError
from smartedge.lab.audit.attributes import in_focus
from smartedge.lab.audit.call import Call
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.certificate.evidence import held_out
from smartedge.lab.audit.certificate.sets import MOST_IMAGES, held_sets, set_law
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.crowd import Crowd, Fold, numbered, person_numbers
from smartedge.lab.audit.evidence import Auxiliary, Evidence, of_a_training_image
from smartedge.lab.audit.identity import link_releases
from smartedge.lab.audit.inputs import Pool
from smartedge.lab.audit.persons import BANDS, read_persons
from smartedge.runs.seeds import derive_seed
from smartedge.types import Ints

__all__ = ["find_identity", "find_persons", "fold_of"]

_OWN_DRAWS, _CHOOSING_DRAWS = 6, 4  # releases of each image
_COLUMNS = 4096  # of a release, at most; maps are pooled
_FEWEST_LINKED = 5  # persons with two or more images
_SHARE = 0.1  # of the time budget that is left, for each stage
_FIRST_SHARE = 0.6  # of a stage's time, for the audited releases; the rest is for the undefended ones
_DRAWS = 20_000  # for the certificate of a set
_CERTIFIED = ("2-3", "4-9")  # bands whose smallest sets are certified
_MOST_CLASSES = 20  # of an attribute that the attribute floor knows


def find_identity(call: Call, evidence: Evidence, undefended: Evidence | None) -> Identity | None:
    """Link releases of one person; None where it is not asked for, or cannot be done."""
    fold = _fold(call, "identity", evidence)
    if fold is None:
        return None
    clock = call.clock.part(call.clock.remaining() * _SHARE)
    stronger = _strongest(evidence)
    try:
        mine = clock.part(clock.remaining() * (1.0 if undefended is None else _FIRST_SHARE))
        found = link_releases([fold], labelled=stronger.labelled, law=stronger.law, seed=evidence.seed, clock=mine)
    except OutOfTime as reason:
        call.skip("identity", reason)
        return None
    if undefended is None:
        return found
    try:
        clock.check()
        plain = _strongest(undefended)
        theirs = link_releases([fold_of(plain)], labelled=plain.labelled, law=None, seed=evidence.seed, clock=clock)
    except OutOfTime as reason:
        call.skip("identity", reason, evidence=undefended.name)
        return found
    return found.model_copy(update={"undefended": theirs.linkers[theirs.best]})


def find_persons(
    call: Call, evidence: Evidence, undefended: Evidence | None
) -> dict[str, dict[str, PersonBand]] | None:
    """Read attributes of persons from several images; None where it is not asked for, or cannot be done."""
    fold = _fold(call, "persons", evidence)
    if fold is None:
        return None
    clock = call.clock.part(call.clock.remaining() * _SHARE)
    stronger = _strongest(evidence)
    names = [name for name in in_focus(evidence, evidence.sensitive) if name not in evidence.task.columns]
    found: dict[str, dict[str, PersonBand]] = {}
    for name in names:
        try:
            found[name] = _of_attribute(call, fold, stronger, undefended, name, clock)
        except OutOfTime as reason:
            call.skip("persons", reason, attributes=(name,))
    return found or None


def fold_of(evidence: Evidence) -> Fold:
    """What the attackers of persons have: several releases of their own images, and one of each protected image.

    Raises:
        ValueError: the persons are not known.
    """
    persons = evidence.persons
    if persons is None:
        raise ValueError("the persons are not known")
    desired = (evidence.train.desired, evidence.val.desired, evidence.test_desired)
    own_N, choosing_N, protected_N = numbered([part.numpy() for part in desired])
    pool = Pool(evidence.feature_shape, _COLUMNS, evidence.layout)
    generator = torch.Generator().manual_seed(derive_seed(evidence.seed, "audit", "persons", "draws"))
    own = _crowd(evidence, evidence.train, persons.train, own_N, _OWN_DRAWS, pool, generator)
    choosing = _crowd(evidence, evidence.val, persons.val, choosing_N, _CHOOSING_DRAWS, pool, generator)
    protected = Crowd(
        _pooled(pool, evidence.test_features_NF)[None],
        persons.test.numpy(),
        protected_N,
        {name: evidence.test_labels[name].numpy() for name in _known(evidence)},
    )
    return Fold(own, choosing, protected)


def _fold(call: Call, attack: str, evidence: Evidence) -> Fold | None:
    """The fold, if the attack is asked for and possible; otherwise a note on why it is not."""
    if attack not in call.wanted:
        return None
    if evidence.persons is None:
        if call.settings.attacks is not None:
            call.skip(attack, "the persons in the images are not known")
        return None
    if call.clock.remaining() == 0:
        call.skip(attack, "no time was left")
        return None
    fold = fold_of(_strongest(evidence))
    linked = min(int((person_numbers(crowd)[1] > 1).sum()) for crowd in (fold.own, fold.choosing, fold.protected))
    if linked < _FEWEST_LINKED:
        text = f"a split has {linked} persons with two or more images; at least {_FEWEST_LINKED} are needed"
        call.skip(attack, text)
        return None
    return fold


def _strongest(evidence: Evidence) -> Evidence:
    """The evidence about training images, of which most is sent."""
    return of_a_training_image(evidence) or evidence


def _of_attribute(
    call: Call, fold: Fold, evidence: Evidence, undefended: Evidence | None, name: str, clock: Clock
) -> dict[str, PersonBand]:
    classes = len(evidence.classes[name])

    def bands(of: Fold, each: Evidence) -> dict[str, PersonBand]:
        return read_persons([of], name, classes, labelled=each.labelled, law=each.law, seed=evidence.seed, clock=clock)

    def left_out(reason: OutOfTime, what: str | None) -> None:
        call.skip("persons", reason, attributes=(name,), evidence=what)

    found = bands(fold, evidence)
    sizes = {band.name: band.fewest for band in BANDS if band.name in _CERTIFIED and band.fewest <= MOST_IMAGES}
    for band in found.keys() & sizes.keys():
        try:
            bound = _certificate(evidence, name, sizes[band], clock)
        except OutOfTime as reason:
            left_out(reason, "certificate")
            break
        found[band] = found[band].model_copy(update={"certificate": bound})
    if undefended is not None and found:
        try:
            clock.check()
            plain = _strongest(undefended)
            theirs = bands(fold_of(plain), plain)
        except OutOfTime as reason:
            left_out(reason, undefended.name)
            return found
        found = {
            band: each.model_copy(update={"undefended": theirs[band].attacks[theirs[band].best]})
            for band, each in found.items()
        }
    return found


def _certificate(evidence: Evidence, name: str, images: int, clock: Clock) -> AttributeBound | None:
    """What no attacker that has so many images of one person can exceed; None where that cannot be said.

    Raises:
        OutOfTime: the time is over.
    """
    if evidence.law is None or evidence.persons is None or evidence.persons.also_in_training:
        return None
    clock.check()
    held: HeldOut = held_out(evidence, name)
    seed = derive_seed(evidence.seed, "audit", "certificate", "persons")
    try:
        return certify_attribute(
            set_law(evidence.mechanism, images, evidence.releases_sent, labelled=evidence.labelled),
            held_sets(held, images, seed=seed, labelled=evidence.labelled),
            label_known=evidence.labelled,
            seed=seed,
            draws=_DRAWS,
            progress=lambda *_: clock.check(),
        )
    except DataError:  # nobody of a class has so many images
        return None


def _crowd(
    evidence: Evidence,
    auxiliary: Auxiliary,
    persons: Tensor,
    desired_N: Ints,
    draws: int,
    pool: Pool,
    generator: torch.Generator,
) -> Crowd:
    views = len(auxiliary.views_VNF)
    released = (
        [evidence.draw(auxiliary, generator, view=draw % views) for draw in range(draws)]
        if evidence.noisy
        else [evidence.draw(auxiliary, generator, view=view) for view in range(views)]
    )
    return Crowd(
        torch.stack([torch.from_numpy(_pooled(pool, release_NF)) for release_NF in released]).numpy(),
        persons.numpy(),
        desired_N,
        {name: auxiliary.labels[name].numpy() for name in _known(evidence)},
        auxiliary.views_VNF[0].float().numpy() if evidence.noisy else None,
    )


def _pooled(pool: Pool, released_NF: Tensor) -> np.ndarray:
    return torch.cat([pool(part.float()).flatten(1) for part in released_NF.split(1024)]).numpy()


def _known(evidence: Evidence) -> list[str]:
    """The attributes that a crowd knows: those that are read, of not too many classes."""
    return [name for name, classes in evidence.classes.items() if len(classes) <= _MOST_CLASSES]
