"""What several images of one person tell together of an attribute of the person.

A *set* is some images of one person, with one release and the true desired label of each. Attackers read the attribute
from sets. The label floor is the best of the same attackers if they have the labels of a set and no release.

The class of a set is the class of most of its images; a set with a draw is left out. One set of each person is judged,
so that persons are the units of every figure and interval. No protected set chooses an attacker or a threshold.

Letters: N own images, M other images, S sets, I images of a set, P persons, K classes, E columns, R releases.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge import metrics
from smartedge.artifacts.attacks import PersonBand, PersonFigures
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.crowd import Columns, Crowd, Fold, Sees, person_numbers
from smartedge.lab.audit.judge import balanced_accuracy_interval, choose_threshold, decide, selection_score
from smartedge.methods.loop import Progress, cosine, fit
from smartedge.models.optim import AdamW, in_one_pass
from smartedge.privacy.laws import ReleaseLaw
from smartedge.runs.seeds import derive_seed
from smartedge.types import Floats, Ints

__all__ = ["BANDS", "Band", "Sets", "read_persons", "sets_of"]

_LOOKS, _EVERY, _RATE = 5, 100, 1e-3  # at the choosing persons; steps of a network before each; its learning rate
_BATCH = 128  # sets
_MOST = 12  # images of a set from which a network learns
_SMOOTHING = 0.05  # share of the density of all images in the density of one person's
_FEWEST = 5  # persons of each class; with fewer, a band is left out


@dataclass(frozen=True)
class Band:
    """Sets of ``fewest`` to ``most`` images. Of a person with more images ``most`` are drawn."""

    fewest: int
    most: int | None

    @property
    def name(self) -> str:
        """Such as ``4-9``, ``1`` or ``10-``."""
        return str(self.fewest) if self.fewest == self.most else f"{self.fewest}-{self.most or ''}"


BANDS = (Band(1, 1), Band(2, 3), Band(4, 9), Band(10, None))


@dataclass(frozen=True)
class Sets:
    """Sets of one band in a crowd."""

    rows: tuple[Ints, ...]  # the images of each set
    release_S: Ints  # which release of the images is used
    classes_S: Ints  # the class of the person


@dataclass(frozen=True)
class _Answer:
    """What one attacker answers about the sets of one band and fold: probabilities (S, K)."""

    at_choice_SK: Floats
    at_test_SK: Floats


def sets_of(crowd: Crowd, attribute: str, band: Band, *, seed: int) -> Sets:
    """One set of each person with enough images; where there are R releases, R sets with images drawn anew."""
    rng = np.random.default_rng(seed)
    codes_N = crowd.attributes[attribute]
    rows: list[Ints] = []
    release, classes = [], []
    for images in _images_by_person(crowd):
        if len(images) < band.fewest:
            continue
        for r in range(len(crowd.releases_RND)):
            chosen = rng.permutation(images)[: band.most]
            if (found := _majority(codes_N[chosen])) is not None:
                rows.append(chosen)
                release.append(r)
                classes.append(found)
    return Sets(tuple(rows), np.array(release, dtype=np.int64), np.array(classes, dtype=np.int64))


def read_persons(
    folds: Sequence[Fold],
    attribute: str,
    classes: int,
    *,
    labelled: bool,
    law: ReleaseLaw | None,
    seed: int,
    clock: Clock,
) -> dict[str, PersonBand]:
    """Read an attribute of the protected persons from their images together.

    Args:
        folds: with their own attackers each; the protected persons of all folds are judged together.
        attribute: the column.
        classes: K.
        labelled: whether the attackers also see the true desired label of each image.
        law: of one release; None where it is not known, or where there is no noise.
        seed: of networks and sets.
        clock: the time for all attackers; it is looked at before each of them, and at each step of a network.

    Raises:
        OutOfTime: the time is over.

    Returns:
        Name of the band (:data:`BANDS`) → figures. A band with fewer than 5 persons of a class, to choose or to judge
        in one of the folds, is left out.
    """
    sets = [
        {
            band.name: (
                sets_of(fold.choosing, attribute, band, seed=seed),
                sets_of(fold.protected, attribute, band, seed=seed),
            )
            for band in BANDS
        }
        for fold in folds
    ]
    bands = [
        band.name
        for band in BANDS
        if all(
            np.bincount(side.classes_S, minlength=classes).min() >= _FEWEST
            for of_fold in sets
            for side in of_fold[band.name]
        )
    ]
    sees: Sees = "both" if labelled else "release"
    found: dict[Sees, dict[str, dict[str, list[_Answer]]]] = {sees: {}, "label": {}}
    for fold, of_fold in zip(folds, sets, strict=True):
        mine = {name: of_fold[name] for name in bands}
        for view, into in found.items():
            problem = _Problem(fold, attribute, classes, view, law, seed)
            for attack, band, answer in _answers(problem, mine, clock):
                into.setdefault(band, {}).setdefault(attack, []).append(answer)
    result = {}
    for name in bands:
        of_band = [of_fold[name] for of_fold in sets]
        attacks, floors = (
            {attack: _judge(answers, of_band) for attack, answers in found[view][name].items()} for view in found
        )
        best, floor = (max(judged, key=lambda attack: judged[attack][0]) for judged in (attacks, floors))
        persons_K = sum(np.bincount(test.classes_S, minlength=classes) for _, test in of_band)
        result[name] = PersonBand(
            persons=tuple(int(count) for count in np.atleast_1d(persons_K)),
            best=best,
            attacks={attack: figures for attack, (_, figures) in attacks.items()},
            label_floor=floors[floor][1],
        )
    return result


def _judge(answers: Sequence[_Answer], sets: Sequence[tuple[Sets, Sets]]) -> tuple[float, PersonFigures]:
    """The mean AUROC on the choosing persons, and the figures on the protected persons of all folds."""
    value, given, truth, scores = [], [], [], []
    for answer, (choose, test) in zip(answers, sets, strict=True):
        yes_no = answer.at_choice_SK.shape[1] == 2
        value.append(selection_score(answer.at_choice_SK, choose.classes_S))
        threshold = choose_threshold(answer.at_choice_SK[:, 1], choose.classes_S) if yes_no else None
        given.append(decide(answer.at_test_SK, threshold))
        truth.append(test.classes_S)
        scores.append(answer.at_test_SK)
    labels = np.concatenate(truth)
    balanced, interval = balanced_accuracy_interval(labels, np.concatenate(given) == labels)
    auroc = metrics.evaluate(labels, np.concatenate(scores), "single")["auroc"]
    return float(np.mean(value)), PersonFigures(balanced_accuracy=balanced, ci95=interval, auroc=auroc)


@dataclass(frozen=True)
class _Problem:
    """What is to be read, and by what."""

    fold: Fold
    attribute: str
    classes: int
    sees: Sees
    law: ReleaseLaw | None
    seed: int


def _answers(
    problem: _Problem, bands: Mapping[str, tuple[Sets, Sets]], clock: Clock
) -> Iterator[tuple[str, str, _Answer]]:
    """Attack, band and answers, for every attack that is possible.

    Raises:
        OutOfTime: the time is over.
    """
    fold = problem.fold
    chosen, judged = [choose for choose, _ in bands.values()], [test for _, test in bands.values()]
    computed = problem.sees == "label" or (problem.law is not None and fold.own.bounded_NF is not None)
    for attack, read in (("mixture-images", _by_images), ("mixture-persons", _by_persons)) if computed else ():
        clock.check()
        at_choice, at_test = read(problem, fold.choosing, chosen), read(problem, fold.protected, judged)
        for band, *scores in zip(bands, at_choice, at_test, strict=True):
            yield attack, band, _Answer(*scores)
    for attack in ("network-images", "network-sets"):
        clock.check()
        for band, answer in _Network(problem, single=attack == "network-images").train(bands, clock).items():
            yield attack, band, answer


def _images_by_person(crowd: Crowd) -> list[Ints]:
    number_N, images_P = person_numbers(crowd)
    return np.split(np.argsort(number_N, kind="stable"), np.cumsum(images_P)[:-1])


def _majority(codes: Ints) -> int | None:
    """The class of most images; None where it is a draw, or no class is known."""
    counts = np.bincount(codes[codes >= 0])
    if not len(counts) or (counts == counts.max()).sum() > 1:
        return None
    return int(counts.argmax())


# -- attackers that compute


def _by_images(problem: _Problem, crowd: Crowd, sets: Sequence[Sets]) -> list[Floats]:
    """The product of the likelihoods of the images, as if they were independent: probabilities (S, K) for each sets."""
    own, classes = problem.fold.own, problem.classes
    codes_N = own.attributes[problem.attribute]
    known = np.flatnonzero(codes_N >= 0)
    weight_NK = np.zeros((len(own), classes))
    weight_NK[known, codes_N[known]] = 1 / np.bincount(codes_N[known], minlength=classes)[codes_N[known]]
    logs_RMK = []
    for release in range(len(crowd.releases_RND)):
        density_MK = _densities(problem, crowd, release) @ weight_NK
        logs_RMK.append(np.log(density_MK + 1e-9 * density_MK.max(axis=1, keepdims=True) + 1e-300))
    return [metrics.softmax(_summed(logs_RMK, each)) for each in sets]


def _by_persons(problem: _Problem, crowd: Crowd, sets: Sequence[Sets]) -> list[Floats]:
    """The posterior if the person is one of the attacker's own, and each image is drawn from that person's images."""
    own, classes = problem.fold.own, problem.classes
    number_N, images_P = person_numbers(own)
    share_NP = np.zeros((len(own), len(images_P)))
    share_NP[np.arange(len(own)), number_N] = 1 / images_P[number_N]
    weight_PK = np.zeros((len(images_P), classes))
    for person, images in enumerate(_images_by_person(own)):
        if (found := _majority(own.attributes[problem.attribute][images])) is not None:
            weight_PK[person, found] = 1
    weight_PK /= np.maximum(weight_PK.sum(axis=0), 1)
    logs_RMP = []
    for release in range(len(crowd.releases_RND)):
        density_MN = _densities(problem, crowd, release)
        density_MN /= np.maximum(density_MN.mean(axis=1, keepdims=True), 1e-300)
        # A person's own images are few. A part of the density of all images keeps one image from ruling a person out.
        logs_RMP.append(np.log((1 - _SMOOTHING) * density_MN @ share_NP + _SMOOTHING))
    found_of = []
    for each in sets:
        logs_SP = _summed(logs_RMP, each)
        likelihood_SK = np.exp(logs_SP - logs_SP.max(axis=1, keepdims=True)) @ weight_PK + 1e-30
        found_of.append(likelihood_SK / likelihood_SK.sum(axis=1, keepdims=True))
    return found_of


def _densities(problem: _Problem, crowd: Crowd, release: int) -> Floats:
    """How likely what is seen of each image is for each own image, float64 (M, N); each row up to a factor."""
    own, sees, law = problem.fold.own, problem.sees, problem.law
    same_MN = crowd.desired_N[:, None] == own.desired_N
    if sees == "label":
        return np.asarray(same_MN, dtype=np.float64)
    assert law is not None
    assert own.bounded_NF is not None
    log_MN = law.log_density(law.statistic(crowd.releases_RND[release][None]), law.inputs(own.bounded_NF))
    if sees == "both":
        log_MN = np.where(same_MN, log_MN, -np.inf)
    highest_M1 = log_MN.max(axis=1, keepdims=True)
    return np.asarray(np.exp(log_MN - np.where(np.isfinite(highest_M1), highest_M1, 0.0)))


def _summed(logs_RMX: Sequence[Floats], sets: Sets) -> Floats:
    """The sum over the images of each set, (S, X)."""
    return np.stack([logs_RMX[r][rows].sum(axis=0) for rows, r in zip(sets.rows, sets.release_S, strict=True)])


# -- attackers that learn


class _Network:
    """A network on what is seen of a set: the mean of its images' embeddings, and their number (Zaheer et al. 2017).

    Args:
        problem: what it learns from, chooses by, and attacks.
        single: it learns from single images, and the log-posteriors of a set's images are added up.
    """

    def __init__(self, problem: _Problem, *, single: bool) -> None:
        self.classes, self.single, fold = problem.classes, single, problem.fold
        columns = Columns(fold.own, problem.sees)
        self.own_RNE, self.at_choice_RNE, self.at_test_RNE = (
            torch.from_numpy(columns(crowd)).float() for crowd in (fold.own, fold.choosing, fold.protected)
        )
        codes_N = fold.own.attributes[problem.attribute]
        self.images_by_class: list[list[Ints]] = [[] for _ in range(problem.classes)]
        for images in _images_by_person(fold.own):
            if (found := _majority(codes_N[images])) is not None:
                self.images_by_class[found].append(images)
        self.seed = derive_seed(problem.seed, "audit", "persons")
        self.rng = np.random.default_rng(self.seed)

    def train(self, bands: Mapping[str, tuple[Sets, Sets]], clock: Clock) -> dict[str, _Answer]:
        """Train; of each band the answers at the step that was best on the choosing sets.

        Raises:
            OutOfTime: the time is over.
        """
        best, kept = dict[str, float](), dict[str, _Answer]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _SetNetwork(self.own_RNE.shape[2], self.classes)
            optimizer = in_one_pass(AdamW(network.parameters(), lr=_RATE, weight_decay=0.05))

            def turns(epoch: int) -> Generator[int, None, None]:
                network.train()
                yield from range(_EVERY)

            def step(turn: int, progress: Progress) -> None:
                clock.check()
                rows, labels_S = self._batch()
                release_S = self.rng.integers(len(self.own_RNE), size=len(rows))
                loss = F.cross_entropy(network(*_padded(self.own_RNE, rows, release_S)), torch.from_numpy(labels_S))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            def look(progress: Progress) -> None:
                choosing = self._read(network, self.at_choice_RNE, {name: sides[0] for name, sides in bands.items()})
                value = {name: selection_score(choosing[name], bands[name][0].classes_S) for name in bands}
                better = [name for name in bands if name not in best or value[name] > best[name]]
                protected = self._read(network, self.at_test_RNE, {name: bands[name][1] for name in better})
                for name in better:
                    best[name], kept[name] = value[name], _Answer(choosing[name], protected[name])

            fit(step, turns, Progress(_LOOKS, _EVERY), rates=cosine(optimizer, _RATE), after_epoch=look)
        return kept

    def _batch(self) -> tuple[list[Ints], Ints]:
        """Sets of persons; all classes are equally frequent, and so are all sizes that a person's images allow."""
        labels_S = self.rng.integers(self.classes, size=_BATCH)
        rows = []
        for label in labels_S:
            images = self.images_by_class[label][self.rng.integers(len(self.images_by_class[label]))]
            size = 1 if self.single else int(self.rng.integers(1, min(len(images), _MOST) + 1))
            rows.append(self.rng.permutation(images)[:size])
        return rows, labels_S

    @torch.no_grad()
    def _read(self, network: _SetNetwork, seen_RNE: Tensor, bands: Mapping[str, Sets]) -> dict[str, Floats]:
        network.eval()
        if self.single:
            rows = [np.array([row]) for row in range(seen_RNE.shape[1])]
            logs_RMK = []
            for r in range(len(seen_RNE)):
                logits_MK = network(*_padded(seen_RNE, rows, np.full(len(rows), r)))
                logs_RMK.append(F.log_softmax(logits_MK, dim=1).double().numpy())
            return {name: metrics.softmax(_summed(logs_RMK, sets)) for name, sets in bands.items()}
        return {
            name: metrics.softmax(network(*_padded(seen_RNE, sets.rows, sets.release_S)).double().numpy())
            for name, sets in bands.items()
        }


class _SetNetwork(nn.Module):
    """Sets (S, I, E), padded, and which of their images are there (S, I) → logits (S, K)."""

    def __init__(self, columns: int, classes: int) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Linear(columns, 128), nn.LayerNorm(128), nn.GELU(), nn.Dropout(0.2), nn.Linear(128, 128), nn.GELU()
        )
        self.together = nn.Sequential(nn.Linear(129, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, seen_SIE: Tensor, present_SI: Tensor) -> Tensor:
        """Logits."""
        count_S1 = present_SI.sum(dim=1, keepdim=True)
        mean_SH = (self.each(seen_SIE) * present_SI[:, :, None]).sum(dim=1) / count_S1
        return torch.as_tensor(self.together(torch.cat([mean_SH, count_S1.log()], dim=1)))


def _padded(seen_RNE: Tensor, rows: Sequence[Ints], release_S: Ints) -> tuple[Tensor, Tensor]:
    place_SI = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    present_SI = np.zeros(place_SI.shape, dtype=np.float32)
    for s, chosen in enumerate(rows):
        place_SI[s, : len(chosen)] = chosen
        present_SI[s, : len(chosen)] = 1
    return seen_RNE[torch.from_numpy(release_S)[:, None], torch.from_numpy(place_SI)], torch.from_numpy(present_SI)
