"""Identity: are two releases of one person? Attackers that link releases ("linkers"), and how they are judged.

A linker gives every pair of images a score; a high one says "one person". It learns from the attacker's own persons,
and is judged on persons that it has never met. Of all settings of a kind, and of all kinds, the one with the highest
AUROC on the choosing persons counts; no protected image chooses.

Every person counts once: a pair of one person is two images of a person that is drawn from those with two or more
images; a pair of strangers is an image of each of two persons.

Letters: N images, M pairs, P persons, E columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.artifacts.attacks import Identity, LinkFigures
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.crowd import Columns, Crowd, Fold, person_numbers
from smartedge.lab.audit.pairs import RESAMPLES, Pairs
from smartedge.methods.loop import Best, Progress, cosine, fit
from smartedge.models.optim import AdamW, in_one_pass
from smartedge.privacy.laws import ReleaseLaw
from smartedge.runs.seeds import derive_seed
from smartedge.types import Floats, Ints

__all__ = ["link_releases"]

_SHRINKS = (0.02, 0.2)  # of the covariance within persons, towards its diagonal
_SHARES = (0.03, 0.1, 0.3, 1.0)  # of a linker's scores, in standard deviations, beside the labels' log-likelihood ratio
_WITH_LABEL, _LABEL, _ATTRIBUTES = "+label", "label", "attributes"
_LOOKS, _EVERY, _RATE = 4, 100, 2e-3  # at the choosing persons; steps of a network before each; its learning rate
_PERSONS = 96  # in a batch of the network, two images of each
_EMBEDDED = 64
_TEMPERATURE = 0.1
_FEWEST_RESAMPLES = 30  # of persons, for an interval
_CHOICE_SHARE = 0.5  # of the time, to choose linkers; the rest is for their intervals

Linker = Callable[[Crowd], Floats]  # a crowd → the scores (N, N) of all pairs, symmetric


def link_releases(
    folds: Sequence[Fold],
    *,
    labelled: bool,
    law: ReleaseLaw | None,
    seed: int,
    clock: Clock,
) -> Identity:
    """Link the releases of protected persons.

    Args:
        folds: with their own attackers each; figures are means over the folds, and no person is protected in two.
        labelled: whether the attacker also sees the true desired label of each image. Then each linker is also tried
            with the log-likelihood ratio of the two labels added to its scores: ``plda+label`` and so on.
        law: of one release; None where it is not known, or where there is no noise.
        seed: of networks and bootstrap.
        clock: the time for everything. Linkers for which there is none are left out, and intervals come from fewer
            resamples.

    Raises:
        OutOfTime: there is no time for the first linker, or for the intervals.
    """
    chosen: dict[str, list[float]] = {}
    judged: dict[str, list[tuple[Floats, Floats]]] = {}
    persons, linked, resamples = 0, 0, RESAMPLES
    for fold in folds:
        judges, pairs = Pairs(fold.choosing), Pairs(fold.protected)
        persons, linked = persons + pairs.persons, linked + pairs.linked
        by_label = _by_labels(fold.own, ())
        part = clock.part(clock.remaining() * _CHOICE_SHARE)
        best = _best_settings(fold, judges, law, by_label if labelled else None, seed, part)
        for name, (value, _) in best.items():
            chosen.setdefault(name, []).append(value)
        linkers = {name: linker for name, (_, linker) in best.items()}
        linkers |= {_LABEL: by_label, _ATTRIBUTES: _by_labels(fold.own, tuple(fold.own.attributes))}
        for place, (name, linker) in enumerate(linkers.items()):
            clock.check()
            scores_NN = linker(fold.protected)
            if place == 0:  # of all figures from the same persons, as :func:`_mean` needs them
                resamples = min(resamples, _affordable(pairs, scores_NN, clock, len(linkers)))
            found = pairs.figures(scores_NN, resamples=resamples, seed=seed, clock=clock)
            judged.setdefault(name, []).append(found)
    mean = {name: float(np.mean(values)) for name, values in chosen.items()}
    figures = {
        name: _mean([(value, drawn_R2[:resamples]) for value, drawn_R2 in of_folds])
        for name, of_folds in judged.items()
    }
    return Identity(
        persons=persons,
        persons_with_pairs=linked,
        labelled=labelled,
        resamples=resamples,
        best=max(mean, key=mean.__getitem__),
        best_of_release=max((name for name in mean if not name.endswith(_WITH_LABEL)), key=mean.__getitem__),
        label_floor=figures.pop(_LABEL),
        attribute_floor=figures.pop(_ATTRIBUTES),
        linkers=figures,
    )


def _affordable(pairs: Pairs, scores_NN: Floats, clock: Clock, linkers: int) -> int:
    """How many resamples there is time for, for each of so many linkers; as many as wanted without a limit.

    Raises:
        OutOfTime: these are too few for an interval.
    """
    if math.isinf(clock.remaining()):
        return RESAMPLES
    begun = clock.elapsed()
    pairs.figures(scores_NN, resamples=1, clock=clock)  # one resample, and what is done once for all of them
    each = max(clock.elapsed() - begun, 1e-9)
    fit = int(clock.remaining() / linkers / each)
    if fit < _FEWEST_RESAMPLES:
        raise OutOfTime(
            f"{_FEWEST_RESAMPLES} resamples for each of {linkers} linkers would take "
            f"{_FEWEST_RESAMPLES * linkers * each:.0f} s; the time for them was {clock.remaining():.0f} s"
        )
    return min(fit, RESAMPLES)


def _mean(of_folds: Sequence[tuple[Floats, Floats]]) -> LinkFigures:
    """The mean over folds; their persons are independent, so the resampled figures are averaged one by one."""
    auroc, error = np.mean([value for value, _ in of_folds], axis=0)
    low, high = np.quantile(np.mean([drawn_R2 for _, drawn_R2 in of_folds], axis=0), [0.025, 0.975], axis=0)
    return LinkFigures(
        auroc=float(auroc),
        auroc_ci95=(float(low[0]), float(high[0])),
        equal_error_rate=float(error),
        equal_error_rate_ci95=(float(low[1]), float(high[1])),
    )


def _best_settings(
    fold: Fold, judges: Pairs, law: ReleaseLaw | None, by_label: Linker | None, seed: int, clock: Clock
) -> dict[str, tuple[float, Linker]]:
    """Kind → AUROC on the choosing persons, and the linker, in the setting for which this is highest."""
    best: dict[str, tuple[float, Linker]] = {}

    def consider(name: str, linker: Linker, scores_NN: Floats) -> None:
        value = judges.auroc(scores_NN)
        if name not in best or value > best[name][0]:
            best[name] = value, linker

    label_NN = by_label(fold.choosing) if by_label else None
    for name, linker in _linkers(fold, judges, law, seed, clock):
        scores_NN = linker(fold.choosing)
        consider(name, linker, scores_NN)
        if by_label is None or label_NN is None:
            continue
        deviation = float(judges.of(scores_NN).std()) + 1e-12
        for share in _SHARES:
            if clock.remaining() == 0:
                break
            weight = share / deviation
            joined = _sum(by_label, linker, weight)
            consider(name + _WITH_LABEL, joined, label_NN + weight * scores_NN)
    if not best:
        raise OutOfTime("no time was left")
    return best


def _sum(one: Linker, other: Linker, weight: float) -> Linker:
    return lambda crowd: np.asarray(one(crowd) + weight * other(crowd))


def _linkers(
    fold: Fold, judges: Pairs, law: ReleaseLaw | None, seed: int, clock: Clock
) -> Iterator[tuple[str, Linker]]:
    """Kind and linker, in every setting for which there is time."""
    own, columns = fold.own, Columns(fold.own, "release")
    made: list[tuple[str, Callable[[], Linker]]] = [
        ("cosine", lambda: lambda crowd: _cosine(columns(crowd)[0])),
        ("euclid", lambda: lambda crowd: -_square_distance(columns(crowd)[0])),
        *(("plda", partial(_two_covariances, columns, own, shrink)) for shrink in _SHRINKS),
    ]
    if law is not None and own.bounded_NF is not None:
        made.append(("mixture", partial(_mixture, own, law)))
    made.append(("siamese", partial(_siamese, columns, fold, judges, derive_seed(seed, "audit", "siamese"), clock)))
    for name, make in made:
        if clock.remaining() > 0:
            yield name, make()


# -- linkers that compute


def _cosine(columns_NE: Floats) -> Floats:
    unit_NE = columns_NE / np.maximum(np.linalg.norm(columns_NE, axis=1, keepdims=True), 1e-9)
    return np.asarray(unit_NE @ unit_NE.T)


def _square_distance(columns_NE: Floats) -> Floats:
    square_N = (columns_NE**2).sum(axis=1)
    return np.asarray(square_N[:, None] + square_N - 2 * columns_NE @ columns_NE.T)


def _two_covariances(columns: Columns, own: Crowd, shrink: float) -> Linker:
    """The log-likelihood ratio of one mean against two, in the simplest form of PLDA.

    An image is its person's mean plus a deviation, and both are Gaussian: the two-covariance model (Brümmer & de
    Villiers, *The speaker partitioning problem*, Odyssey 2010). In the basis where deviations have covariance 1 and
    means have the diagonal covariance λ, the ratio is a sum over columns.
    """
    columns_RNE = columns(own)
    number_N, images_P = person_numbers(own)
    mean_E = columns_RNE.mean(axis=(0, 1))
    width = len(mean_E)
    within_EE, total_EE = np.zeros((width, width)), np.zeros((width, width))
    for columns_NE in columns_RNE:
        means_PE = np.zeros((len(images_P), width))
        np.add.at(means_PE, number_N, columns_NE)
        within_NE, spread_NE = columns_NE - (means_PE / images_P[:, None])[number_N], columns_NE - mean_E
        within_EE += within_NE.T @ within_NE / max(1, len(own) - len(images_P)) / len(columns_RNE)
        total_EE += spread_NE.T @ spread_NE / len(own) / len(columns_RNE)
    between_EE = total_EE - within_EE
    within_EE = (1 - shrink) * within_EE + shrink * np.diag(np.diag(within_EE))
    within_EE += 1e-6 * np.trace(within_EE) / len(within_EE) * np.eye(len(within_EE))
    root_EE = np.linalg.inv(np.linalg.cholesky(within_EE))
    values, vectors = np.linalg.eigh(root_EE @ between_EE @ root_EE.T)
    kept = values > 1e-3
    basis_EL, between_L = root_EE.T @ vectors[:, kept], values[kept]
    # u = (x₁ + x₂)/√2 has variance 1 + 2λ in one person and 1 + λ in two; v = (x₁ − x₂)/√2 has 1 and 1 + λ.
    of_u_L, of_v_L = 1 / (1 + between_L) - 1 / (1 + 2 * between_L), 1 / (1 + between_L) - 1

    def score(crowd: Crowd) -> Floats:
        x_NL = (columns(crowd)[0] - mean_E) @ basis_EL
        alone_N = (x_NL**2) @ (of_u_L + of_v_L) / 4
        return np.asarray(alone_N[:, None] + alone_N + (x_NL * ((of_u_L - of_v_L) / 2)) @ x_NL.T)

    return score


def _mixture(own: Crowd, law: ReleaseLaw) -> Linker:
    """The likelihood ratio under the exact law of the noise, as if all persons were those of ``own``.

    One person: a person of ``own`` with two or more images, and two different images of it. Strangers: any two images.
    """
    assert own.bounded_NF is not None
    inputs_ND = law.inputs(own.bounded_NF)
    number_N, images_P = person_numbers(own)
    images_N = images_P[number_N]
    pair_N = np.where(images_N > 1, 1.0 / np.maximum(images_N * (images_N - 1), 1), 0.0) / max(1, (images_P > 1).sum())
    alone_N = 1 / images_N / len(images_P)
    member_NP = np.zeros((len(own), len(images_P)))
    member_NP[np.arange(len(own)), number_N] = np.sqrt(pair_N)

    def score(crowd: Crowd) -> Floats:
        log_MN = law.log_density(law.statistic(crowd.releases_RND[:1]), inputs_ND)
        density_MN = np.exp(log_MN - log_MN.max(axis=1, keepdims=True))
        density_MN /= np.maximum(density_MN @ alone_N, 1e-300)[:, None]
        by_person_MP = density_MN @ member_NP
        ratio_MM = by_person_MP @ by_person_MP.T - (density_MN * pair_N) @ density_MN.T
        return np.asarray(np.log(np.maximum(ratio_MM, 1e-6)))

    return score


def _by_labels(own: Crowd, names: Sequence[str]) -> Linker:
    """The likelihood ratio of a pair given only its true labels: the desired one, and these attributes."""

    def codes_of(crowd: Crowd) -> list[tuple[int, ...]]:
        return list(zip(crowd.desired_N.tolist(), *(crowd.attributes[name].tolist() for name in names), strict=True))

    place = {code: number for number, code in enumerate(sorted(set(codes_of(own))))}
    kinds = len(place) + 1  # the last one: a combination that no own image has

    def kinds_of(crowd: Crowd) -> Ints:
        return np.array([place.get(code, kinds - 1) for code in codes_of(crowd)], dtype=np.int64)

    pairs, own_N = Pairs(own), kinds_of(own)
    mass_2KK = np.zeros((2, kinds, kinds))
    np.add.at(mass_2KK, (pairs.same.astype(np.int64), own_N[pairs.first], own_N[pairs.second]), pairs.weight_M)
    mass_2KK += mass_2KK.transpose(0, 2, 1)
    mass_2KK /= mass_2KK.sum(axis=(1, 2), keepdims=True)
    ratio_KK = np.log((mass_2KK[1] + 1e-4) / (mass_2KK[0] + 1e-4))

    def score(crowd: Crowd) -> Floats:
        kind_N = kinds_of(crowd)
        return np.asarray(ratio_KK[kind_N[:, None], kind_N])

    return score


# -- a linker that learns


def _siamese(columns: Columns, fold: Fold, judges: Pairs, seed: int, clock: Clock) -> Linker:
    """A network that puts images of one person close together, by the contrastive loss of Khosla et al. 2020.

    The step counts at which the choosing persons are told apart best. Training ends early where the time is over.
    """
    own = fold.own
    own_RNE, at_choice_NE = torch.from_numpy(columns(own)).float(), torch.from_numpy(columns(fold.choosing)[0]).float()
    number_N, images_P = person_numbers(own)
    order_N = np.argsort(number_N, kind="stable")
    start_P = np.concatenate([[0], np.cumsum(images_P)[:-1]])
    several = np.flatnonzero(images_P > 1)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(own_RNE.shape[2], 256),
            nn.LayerNorm(256),
            nn.GELU(),
            nn.Dropout(0.2),
            nn.Linear(256, _EMBEDDED),
        )
        optimizer, best = in_one_pass(AdamW(network.parameters(), lr=_RATE, weight_decay=0.05)), Best(network, -1.0)

        def batches(epoch: int) -> Generator[Ints, None, None]:
            network.train()
            for _ in range(_EVERY):
                persons = rng.permutation(several)[:_PERSONS]
                one = rng.integers(images_P[persons])
                other = (one + rng.integers(1, images_P[persons])) % images_P[persons]
                yield order_N[np.concatenate([start_P[persons] + one, start_P[persons] + other])]

        def step(rows: Ints, progress: Progress) -> None:
            embedded_BE = F.normalize(network(own_RNE[rng.integers(len(own_RNE), size=len(rows)), rows]), dim=1)
            logits_BB = (embedded_BE @ embedded_BE.T / _TEMPERATURE).fill_diagonal_(-1e4)
            loss = F.cross_entropy(logits_BB, torch.arange(len(rows)).roll(len(rows) // 2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        fit(
            step,
            batches,
            Progress(_LOOKS, _EVERY),
            rates=cosine(optimizer, _RATE),
            after_epoch=lambda _: best.offer(judges.auroc(_closeness(network, at_choice_NE))),
            stop=lambda: best.score >= 0 and clock.remaining() == 0,
        )
        best.restore()
    return lambda crowd: _closeness(network, torch.from_numpy(columns(crowd)[0]).float())


@torch.no_grad()
def _closeness(network: nn.Module, columns_NE: Tensor) -> Floats:
    embedded_NE = F.normalize(network.eval()(columns_NE), dim=1).double()
    return np.asarray((embedded_NE @ embedded_NE.T).numpy())
