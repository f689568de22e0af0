from __future__ import annotations

import numpy as np
import pytest

from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.crowd import Crowd, Fold
from smartedge.lab.audit.identity import _mixture, link_releases
from smartedge.lab.audit.pairs import Pairs
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Gaussian

ALWAYS = {"seed": 0, "clock": Clock(None)}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that train for fewer steps: these data are easy."""
    monkeypatch.setattr("smartedge.lab.audit.identity._LOOKS", 3)
    monkeypatch.setattr("smartedge.lab.audit.identity._EVERY", 40)


def crowd(
    seed: int, persons: int, *, spread: float, images: int = 4, numbers: int = 8, label_of_person: bool = False
) -> Crowd:
    """Images at a person's place plus a deviation of 1 in each number; places lie ``spread`` apart."""
    rng = np.random.default_rng(seed)
    persons_N = np.repeat(np.arange(persons), rng.integers(1, images + 1, persons)) + 10_000 * seed
    places = spread * rng.standard_normal((persons, numbers))
    number_N = persons_N - 10_000 * seed
    features = places[number_N] + rng.standard_normal((len(persons_N), numbers))
    luck = rng.random(persons)[number_N] if label_of_person else rng.random(len(persons_N))
    return Crowd(features[None].astype(np.float32), persons_N, (luck < 0.5).astype(np.int64))


def fold(spread: float, *, persons: int = 120, label_of_person: bool = False) -> Fold:
    return Fold(*(crowd(seed, persons, spread=spread, label_of_person=label_of_person) for seed in (1, 2, 3)))


def slow_auroc(scores: np.ndarray, persons: np.ndarray) -> float:
    """P(pair of one person above pair of strangers), each person once, by all pairs of pairs."""
    same, strangers = [], []
    for i in range(len(persons)):
        for j in range(i):
            n, m = (persons == persons[i]).sum(), (persons == persons[j]).sum()
            if persons[i] == persons[j]:
                same.append((scores[i, j], 1 / (n * (n - 1) / 2)))
            else:
                strangers.append((scores[i, j], 1 / (n * m)))
    won = sum(w * v * ((a > b) + (a == b) / 2) for a, w in same for b, v in strangers)
    return float(won / sum(w for _, w in same) / sum(v for _, v in strangers))


def test_auroc_counts_every_person_once() -> None:
    made = crowd(0, 12, spread=1.0)
    scores = np.random.default_rng(5).integers(0, 6, (len(made), len(made))).astype(float)
    scores += scores.T  # with ties
    assert Pairs(made).auroc(scores) == pytest.approx(slow_auroc(scores, made.persons_N), abs=1e-12)


def test_equal_error_rate_is_where_both_errors_are_equal() -> None:
    made = Crowd(np.zeros((1, 4, 1), np.float32), np.array([0, 0, 1, 1]), np.zeros(4, np.int64))
    scores = np.zeros((4, 4))
    # Pairs of one person: 2 and 0. Pairs of strangers: 1, 0, 0, 0. Above ½: one half missed, a quarter is false.
    # At 0 nothing is missed and all is false. The straight line between (¼, ½) and (1, 0) has equal errors at 0.4.
    for i, j, value in ((0, 1, 2.0), (0, 2, 1.0)):
        scores[i, j] = scores[j, i] = value
    figures, _ = Pairs(made).figures(scores, resamples=1, clock=Clock(None))
    assert figures == pytest.approx([0.5 + 0.5 * (0.75 * 0.5), 0.4])


def test_resampling_ends_where_the_time_is_over() -> None:
    seconds = iter(range(100))
    with pytest.raises(OutOfTime):  # each look at the clock takes a second
        Pairs(crowd(0, 12, spread=1.0)).figures(np.zeros((200, 200)), clock=Clock(5.0, lambda: next(seconds)))
    assert next(seconds) < 10


def test_persons_who_differ_are_linked_and_those_who_do_not_are_not() -> None:
    found = link_releases([fold(2.0)], labelled=False, law=None, **ALWAYS)
    assert found.linkers[found.best].auroc > 0.95
    assert found.linkers[found.best].equal_error_rate < 0.12
    assert found.best == found.best_of_release
    nothing = link_releases([fold(0.0)], labelled=False, law=None, **ALWAYS)
    # About 110 linked persons: a deviation of 0.03, so five of them.
    assert nothing.linkers[nothing.best].auroc == pytest.approx(0.5, abs=0.15)
    low, high = nothing.linkers[nothing.best].auroc_ci95
    assert low < nothing.linkers[nothing.best].auroc < high


def test_a_label_that_belongs_to_the_person_links_and_is_the_floor() -> None:
    found = link_releases([fold(0.0, label_of_person=True)], labelled=True, law=None, **ALWAYS)
    # Same person, same label; strangers have the same label half of the time: ¾.
    assert found.label_floor.auroc == pytest.approx(0.75, abs=0.03)
    assert found.best.endswith("+label")
    assert found.linkers[found.best].auroc == pytest.approx(0.75, abs=0.08)
    assert found.linkers[found.best_of_release].auroc == pytest.approx(0.5, abs=0.15)


def test_attributes_that_persons_have_are_a_floor_too() -> None:
    plain = fold(0.0)

    def known(made: Crowd) -> Crowd:
        return Crowd(made.releases_RND, made.persons_N, made.desired_N, {"tall": made.persons_N % 2})

    found = link_releases(
        [Fold(known(plain.own), known(plain.choosing), known(plain.protected))], labelled=False, law=None, **ALWAYS
    )
    assert found.attribute_floor.auroc == pytest.approx(0.75, abs=0.03)
    assert found.label_floor.auroc == pytest.approx(0.5, abs=0.1)


def test_folds_are_averaged() -> None:
    one, other = fold(2.0), fold(0.0)
    both = link_releases([one, other], labelled=False, law=None, **ALWAYS)
    parts = [link_releases([each], labelled=False, law=None, **ALWAYS) for each in (one, other)]
    for name in ("cosine", "siamese"):
        assert both.linkers[name].auroc == pytest.approx(np.mean([each.linkers[name].auroc for each in parts]))
    assert both.persons == sum(each.persons for each in parts)


def test_mixture_is_the_likelihood_ratio_of_two_different_images_of_one_own_person() -> None:
    law = release_law(Gaussian((2,), 2.0, 0.5, 1e-5))
    rng = np.random.default_rng(0)
    bounded = rng.uniform(-1, 1, (7, 2)).astype(np.float32)
    persons = np.array([0, 0, 0, 1, 1, 2, 3])
    own = Crowd(bounded[None], persons, np.zeros(7, np.int64), {}, bounded)
    seen = Crowd(rng.uniform(-1, 1, (1, 2, 2)).astype(np.float32), np.array([8, 9]), np.zeros(2, np.int64))
    scores = _mixture(own, law)(seen)
    density = np.exp(law.log_density(law.statistic(seen.releases_RND), law.inputs(bounded)))
    pairs = {
        person: [(i, j) for i in range(7) for j in range(7) if i != j and persons[i] == persons[j] == person]
        for person in (0, 1)
    }
    same = np.mean([np.mean([density[0, i] * density[1, j] for i, j in of]) for of in pairs.values()])
    alone = [np.mean([density[k, persons == person].mean() for person in range(4)]) for k in range(2)]
    assert scores[0, 1] == pytest.approx(np.log(same / alone[0] / alone[1]))


def test_without_time_there_is_no_result() -> None:
    with pytest.raises(OutOfTime):
        link_releases([fold(0.0, persons=20)], labelled=False, law=None, seed=0, clock=Clock(0.0))
