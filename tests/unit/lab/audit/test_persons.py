from __future__ import annotations

import numpy as np
import pytest

from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.crowd import Crowd, Fold, numbered
from smartedge.lab.audit.persons import BANDS, Band, read_persons, sets_of
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Gaussian

ALWAYS = {"seed": 0, "clock": Clock(None)}
LAW = release_law(Gaussian((4,), 2.0, 1.0, 1e-5))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that train for fewer steps: these data are easy."""
    monkeypatch.setattr("smartedge.lab.audit.persons._LOOKS", 3)
    monkeypatch.setattr("smartedge.lab.audit.persons._EVERY", 20)


@pytest.fixture
def _of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only persons with 4 to 9 images are read."""
    monkeypatch.setattr("smartedge.lab.audit.persons.BANDS", BANDS[2:3])


def crowd(seed: int, *, told: float, label: float, persons: int = 160) -> Crowd:
    """Persons with 1 to 9 images; each image tells the attribute in its first number and, by chance, in its label."""
    rng = np.random.default_rng(seed)
    number_N = np.repeat(np.arange(persons), rng.integers(1, 10, persons))
    hidden_N = (number_N % 2).astype(np.int64)
    bounded = rng.uniform(-0.5, 0.5, (len(number_N), 4)).astype(np.float32)
    bounded[:, 0] = told * (2 * hidden_N - 1)
    desired_N = (rng.random(len(number_N)) < np.where(hidden_N == 1, 0.5 + label, 0.5 - label)).astype(np.int64)
    released = bounded + rng.standard_normal((2, *bounded.shape)).astype(np.float32)
    return Crowd(released, number_N + 10_000 * seed, desired_N, {"hidden": hidden_N}, bounded)


def fold(**how: float) -> Fold:
    return Fold(*(crowd(seed, **how) for seed in (1, 2, 3)))  # type: ignore[arg-type]


def test_several_images_tell_more_than_one() -> None:
    found = read_persons([fold(told=0.5, label=0.0)], "hidden", 2, labelled=True, law=LAW, **ALWAYS)
    one, several = found["1"], found["4-9"]
    assert set(one.attacks) == {"mixture-images", "mixture-persons", "network-images", "network-sets"}
    # Of one image: Φ(0.5) = 69 %; of 4 to 9: Φ(0.5·√6.5) = 90 % on the whole. 250 and 170 persons: ± 3 points.
    assert one.attacks[one.best].balanced_accuracy == pytest.approx(0.69, abs=0.1)
    assert several.attacks[several.best].balanced_accuracy == pytest.approx(0.90, abs=0.09)
    assert several.label_floor.balanced_accuracy == pytest.approx(0.5, abs=0.15)
    assert "10-" not in found  # nobody has so many


@pytest.mark.usefixtures("_of_some")
def test_what_labels_tell_is_the_floor() -> None:
    found = read_persons([fold(told=0.0, label=0.25)], "hidden", 2, labelled=True, law=LAW, **ALWAYS)["4-9"]
    best = found.attacks[found.best].balanced_accuracy
    assert found.label_floor.balanced_accuracy > 0.8
    assert best == pytest.approx(found.label_floor.balanced_accuracy, abs=0.1)
    blind = read_persons([fold(told=0.0, label=0.25)], "hidden", 2, labelled=False, law=LAW, **ALWAYS)["4-9"]
    assert blind.attacks[blind.best].balanced_accuracy == pytest.approx(0.5, abs=0.15)
    assert blind.label_floor.balanced_accuracy > 0.8


@pytest.mark.usefixtures("_of_some")
def test_without_a_law_only_networks_attack_and_folds_are_judged_together() -> None:
    one = fold(told=0.5, label=0.0)
    found = read_persons(
        [one, Fold(one.choosing, one.protected, one.own)],
        "hidden",
        2,
        labelled=False,
        law=None,
        seed=0,
        clock=Clock(None),
    )
    assert set(found["4-9"].attacks) == {"network-images", "network-sets"}
    people = [len(sets_of(each, "hidden", BANDS[2], seed=0).rows) // 2 for each in (one.protected, one.own)]
    assert sum(found["4-9"].persons) == 2 * sum(people)  # each of the two releases is a set


def test_sets_are_of_one_person_of_the_right_size_and_of_the_class_of_most_images() -> None:
    persons_N = np.array([5, 7, 5, 5, 7, 9, 5, 8, 8])
    codes_N = np.array([1, 0, 1, 0, 1, 1, -1, 0, 0])
    made = Crowd(np.zeros((3, 9, 1), np.float32), persons_N, np.zeros(9, np.int64), {"hidden": codes_N})
    found = sets_of(made, "hidden", Band(2, 4), seed=0)
    # Person 7 has a draw, person 9 one image only.
    assert [sorted(rows.tolist()) for rows in found.rows] == [[0, 2, 3, 6]] * 3 + [[7, 8]] * 3
    assert found.classes_S.tolist() == [1] * 3 + [0] * 3
    assert found.release_S.tolist() == [0, 1, 2] * 2
    assert {len(rows) for rows in sets_of(made, "hidden", Band(1, 1), seed=0).rows} == {1}
    assert [band.name for band in BANDS] == ["1", "2-3", "4-9", "10-"]


def test_without_time_there_is_no_result() -> None:
    with pytest.raises(OutOfTime):
        read_persons([fold(told=0.0, label=0.0)], "hidden", 2, labelled=False, law=None, seed=0, clock=Clock(0.0))


def test_labels_are_numbers_that_are_equal_over_all_parts() -> None:
    single = [np.array([5, 2]), np.array([2, 9, 5])]
    assert [part.tolist() for part in numbered(single)] == [[1, 0], [0, 2, 1]]
    several = [np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), np.array([[0.5, 1.0], [0.0, 1.0]], np.float32)]
    first, second = numbered(several)
    assert first.dtype == np.int64 and second[1] == first[0] and len({*first.tolist(), second[0]}) == 3
