from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from smartedge.lab.audit.evidence import Evidence, Persons
from smartedge.lab.audit.floors import label_floor, prediction_floor, table_attack
from smartedge.types import Task


def correlated(count: int, seed: int, options: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A desired label, and a hidden one that is 1 with a probability that depends on it."""
    rng = np.random.default_rng(seed)
    desired = rng.integers(options, size=count)
    hidden = rng.random(count) < np.linspace(0.2, 0.7, options)[desired]
    return torch.from_numpy(desired), torch.from_numpy(hidden.astype(np.int64))


@pytest.mark.parametrize("options", [2, 3, 5])
def test_label_floor_is_the_best_of_all_functions_of_the_label(
    evidence_of: Callable[..., Evidence], options: int
) -> None:
    parts = [correlated(4000, seed, options) for seed in range(3)]
    task = Task("single", ("x",), tuple(map(str, range(options))))
    evidence = evidence_of([torch.zeros(4000, 1)] * 3, [s for _, s in parts], [y for y, _ in parts], task=task)
    floor = label_floor(evidence, "hidden")
    desired, hidden = parts[2][0].numpy(), parts[2][1].numpy()
    best = max(
        np.mean([(np.array(rule)[desired] == hidden)[hidden == cls].mean() for cls in (0, 1)])
        for rule in itertools.product([0, 1], repeat=options)
    )
    # The rule is learned from 8000 images; a rule that is not the test images' best one is as good within noise:
    # a balanced accuracy over 4000 images has a deviation below 0.01.
    assert best - 0.02 <= floor.balanced_accuracy <= best + 1e-9
    assert floor.attack == "table"


def test_where_the_labels_are_independent_the_floor_is_chance(evidence_of: Callable[..., Evidence]) -> None:
    rng = np.random.default_rng(3)
    labels = [torch.from_numpy(rng.integers(2, size=4000)) for _ in range(6)]
    floor = label_floor(evidence_of([torch.zeros(4000, 1)] * 3, labels[:3], labels[3:]), "hidden")
    # Deviation of a balanced accuracy over 4000 images: 0.008; five of them: false alarm below 1e-6.
    assert floor.balanced_accuracy == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("classes", [2, 3])
def test_no_floor_is_below_a_guess(evidence_of: Callable[..., Evidence], classes: int) -> None:
    """In train and val the label tells the attribute, in test it says the contrary: who trusts it is always wrong."""
    desired = [torch.arange(60) % classes] * 3
    hidden = [*desired[:2], (desired[2] + 1) % classes]
    task = Task("single", ("x",), tuple(map(str, range(classes))))
    evidence = evidence_of([torch.zeros(60, 1)] * 3, hidden, desired, task=task, classes=classes)
    floor = label_floor(evidence, "hidden")
    assert floor.balanced_accuracy == pytest.approx(1 / classes) and floor.attack == "chance"


def test_of_several_desired_labels_a_classifier_reads_what_they_tell_together(
    evidence_of: Callable[..., Evidence],
) -> None:
    """The hidden label is whether both desired ones agree: neither alone tells anything."""
    rng = np.random.default_rng(4)
    desired = [torch.from_numpy(rng.integers(2, size=(600, 2))).float() for _ in range(3)]
    hidden = [(part[:, 0] == part[:, 1]).long() for part in desired]
    task = Task("multi", ("a", "b"), ("a", "b"))
    floor = label_floor(evidence_of([torch.zeros(600, 1)] * 3, hidden, desired, task=task), "hidden")
    assert floor.balanced_accuracy == 1.0 and floor.attack == "trees"


def test_prediction_floor_sees_the_answer_and_not_the_label(evidence_of: Callable[..., Evidence]) -> None:
    hidden = [torch.arange(200) % 2 for _ in range(3)]
    evidence = evidence_of([torch.zeros(200, 1)] * 3, hidden, [torch.zeros(200, dtype=torch.int64)] * 3)
    assert prediction_floor(evidence, "hidden") is None
    tells = {split: torch.eye(2)[part] for split, part in zip(("train", "val", "test"), hidden, strict=True)}
    found = prediction_floor(replace(evidence, exit_scores=tells), "hidden")
    assert found is not None and found.balanced_accuracy == 1.0
    assert label_floor(evidence, "hidden").balanced_accuracy == 0.5


def test_a_floor_counts_persons_as_attacks_do(evidence_of: Callable[..., Evidence]) -> None:
    """The label tells the attribute of one person, who has nine of ten images, and not that of four others."""
    hidden = [torch.arange(40) % 2 for _ in range(3)]
    persons = torch.where(torch.arange(40) < 36, 0, torch.arange(40))
    desired = torch.where(persons == 0, hidden[2], 1 - hidden[2])
    evidence = evidence_of([torch.zeros(40, 1)] * 3, hidden, [hidden[0], hidden[1], desired])
    assert label_floor(evidence, "hidden").balanced_accuracy_by_person is None
    floor = label_floor(replace(evidence, persons=Persons("who", persons, persons, persons)), "hidden")
    assert floor.balanced_accuracy == pytest.approx(0.9)
    assert floor.balanced_accuracy_by_person == pytest.approx(0.2)  # half of person 0, and two others, in each class


def test_table_attack_counts_shares_within_classes() -> None:
    answers, labels = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 0, 0, 0, 1])
    (scores,) = table_attack(answers, labels, np.array([0, 1]), options=2, classes=2)
    # P(answer 0 | 0) = 1/4, P(answer 0 | 1) = 1/2; P(answer 1 | 0) = 3/4, P(answer 1 | 1) = 1/2.
    assert scores[:, 1] == pytest.approx([2 / 3, 0.4], abs=2e-3)
