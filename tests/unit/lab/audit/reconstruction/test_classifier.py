from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import create_autospec

import pytest
import torch

from smartedge.lab.audit.reconstruction import classifier as module
from smartedge.lab.audit.reconstruction.classifier import (
    Classifier,
    LabelledImages,
    Question,
    labels_of,
    questions_of,
    read_labels,
    recipe_of,
    train_classifier,
)
from smartedge.lab.audit.reconstruction.recipe import Fitted
from smartedge.types import Task

EXACT = torch.autocast("cpu", dtype=torch.bfloat16, enabled=False)


def test_questions_are_the_desired_columns_and_the_sensitive_ones_that_are_not_desired(shuffled):
    assert questions_of(shuffled, ["masculine", "smile"]) == (
        Question("smile", True, 2),
        Question("masculine", False, 2),
    )
    multi = replace(shuffled, task=Task("multi", ("smile", "hat"), ("smile", "hat")))
    assert [(q.name, q.desired) for q in questions_of(multi, ["masculine"])] == [
        ("smile", True),
        ("hat", True),
        ("masculine", False),
    ]


def test_labels_stand_in_the_order_of_the_questions():
    questions = (Question("a", True, 2), Question("b", True, 2), Question("s", False, 3))
    labels = labels_of(questions, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), {"s": torch.tensor([2, -1])})
    assert labels.tolist() == [[1, 0, 2], [0, 1, -1]]


def test_loss_is_class_balanced_and_leaves_unknown_labels_out():
    questions = (Question("a", True, 2), Question("s", False, 3))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    classifier = Classifier(network, questions, EXACT, torch.device("cpu"))
    images = torch.rand(4, 3, 2, 2)
    labels = torch.tensor([[0, 2], [1, -1], [1, 0], [1, -1]])
    weights = [torch.tensor([2.0, 0.5]), torch.tensor([1.0, 0.0, 3.0])]
    logits = network((images - 0.5) / 0.25).detach()
    losses = []
    for column, (start, size) in enumerate([(0, 2), (2, 3)]):
        total = weight = 0.0
        for row in range(4):
            label = int(labels[row, column])
            if label < 0:
                continue
            row_logits = logits[row, start : start + size]
            total += float(weights[column][label] * (row_logits.logsumexp(0) - row_logits[label]))
            weight += float(weights[column][label])
        losses.append(total / weight)
    assert classifier.loss(images, labels, weights).item() == pytest.approx(sum(losses) / 2, abs=1e-5)
    nothing = torch.tensor([[0, -1]] * 4)
    assert torch.isfinite(classifier.loss(images, nothing, weights))


class Reads(torch.nn.Module):
    """Answers by the mean of the red channel, for both questions."""

    def forward(self, x):
        red = x[:, 0].mean(dim=(1, 2))
        return torch.stack([-red, red, -red, red], dim=1)


def test_read_labels_measures_each_question_and_skips_unknown_labels():
    images = torch.zeros(6, 3, 2, 2, dtype=torch.uint8)
    images[3:, 0] = 255
    labels = torch.tensor([[0, 0], [0, 1], [1, -1], [1, -1], [1, 0], [1, 1]])
    questions = (Question("a", True, 2), Question("s", False, 2))
    read = read_labels(Classifier(Reads(), questions, EXACT, torch.device("cpu")), images, labels)
    assert read["a"]["balanced_accuracy"] == pytest.approx((2 / 2 + 3 / 4) / 2)
    assert read["s"]["balanced_accuracy"] == pytest.approx(0.5)
    low, high = read["a"]["ci95"]
    assert low <= read["a"]["balanced_accuracy"] <= high
    unknown = labels.clone()
    unknown[:, 1] = -1
    assert set(read_labels(Classifier(Reads(), questions, EXACT, torch.device("cpu")), images, unknown)) == {"a"}


def test_each_question_has_scores_of_its_own_and_nothing_is_dropped(shuffled):
    classifier = Classifier.of(shuffled, (Question("a", True, 2), Question("s", False, 3)))
    classifier.network.train()
    scores = classifier.scores(shuffled.images(shuffled.val.split)[:4])
    assert {name: each.shape for name, each in scores.items()} == {"a": (4, 2), "s": (4, 3)}
    assert all(each.sum(axis=1) == pytest.approx(1) for each in scores.values())
    assert not classifier.network.training


def coloured(evidence):
    """The same evidence, where red faces smile and blue ones do not, in train and val."""

    def paint(auxiliary):
        pixels = auxiliary.split._store.pixels_NCHW.clone()
        pixels[auxiliary.desired == 1, 0] = 255
        pixels[auxiliary.desired == 0, 2] = 255
        store = type(auxiliary.split._store)(pixels)
        split = type(auxiliary.split)(store, auxiliary.split.ids, auxiliary.split.labels, {})
        return replace(auxiliary, split=split)

    return replace(evidence, train=paint(evidence.train), val=paint(evidence.val), test=None)


def test_it_learns_what_can_be_seen_and_adapts_to_what_reconstructions_show(shuffled, monkeypatch):
    monkeypatch.setattr(module, "_EPOCHS", 12)
    monkeypatch.setattr(module, "_LEAST_STEPS", 1)
    monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(module, "_LR", 5e-3)
    evidence = coloured(shuffled)
    questions = questions_of(evidence, [])
    classifier, fitted = train_classifier(evidence, questions, seconds=float("inf"), seed=0, report=lambda *_: None)
    val = evidence.images(evidence.val.split)
    labels = labels_of(questions, evidence.val.desired, evidence.val.labels)
    assert read_labels(classifier, val, labels)["smile"]["balanced_accuracy"] > 0.95
    assert fitted.score > 0.95
    # Reconstructions with the colours exchanged: the first classifier is wrong about them, the adapted one is not.
    exchanged = val.flip(1)
    assert read_labels(classifier, exchanged, labels)["smile"]["balanced_accuracy"] < 0.3
    adapted, _ = classifier.adapted(
        LabelledImages(
            lambda rows, _: evidence.images(evidence.train.split, rows).flip(1).float() / 255,
            labels_of(questions, evidence.train.desired, evidence.train.labels),
            exchanged,
            labels,
        ),
        recipe_of(len(evidence.train), epochs=20, seconds=float("inf"), lr=5e-3),
        seed=0,
        report=lambda *_: None,
    )
    assert read_labels(adapted, exchanged, labels)["smile"]["balanced_accuracy"] > 0.95
    assert read_labels(classifier, val, labels)["smile"]["balanced_accuracy"] > 0.95  # a copy was changed


def test_where_no_label_of_the_attackers_own_val_images_is_known_no_epoch_is_better():
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    classifier = Classifier(network, (Question("a", True, 2),), EXACT, torch.device("cpu"))
    labels = torch.tensor([[0], [1], [0], [1]])
    for known, score in ((torch.full_like(labels, -1), 0.0), (labels, 0.5)):  # all images are alike
        given = LabelledImages(lambda rows, _: images[rows].float(), labels, images, known)
        recipe = recipe_of(4, epochs=1, seconds=float("inf"), lr=1e-3)
        _, fitted = classifier.adapted(given, recipe, seed=0, report=lambda *_: None)
        assert fitted.score == score


def test_it_learns_from_train_images_mirrored_at_random_and_is_chosen_by_val_images(shuffled, monkeypatch):
    given = {}

    def note(classifier, images, recipe, *, seed, report):
        given.update(images=images, recipe=recipe, seed=seed)
        return Fitted(1.0, 1, 0.5)

    monkeypatch.setattr(module, "_train", create_autospec(module._train, side_effect=note))
    train_classifier(shuffled, questions_of(shuffled, []), seconds=9.0, seed=4, report=lambda *_: None)
    images, recipe = given["images"], given["recipe"]
    assert torch.equal(images.val_images, shuffled.images(shuffled.val.split))
    assert images.val_labels_MQ[:, 0].tolist() == shuffled.val.desired.tolist()
    assert images.labels_NQ[:, 0].tolist() == shuffled.train.desired.tolist()
    plain = shuffled.images(shuffled.train.split).float() / 255
    shown = images.images(torch.arange(len(plain)), torch.Generator().manual_seed(0))
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(shown, plain, strict=True)]
    assert any(mirrored) and not all(mirrored)
    assert all(same or torch.equal(one, other) for same, one, other in zip(mirrored, shown, plain, strict=True))
    # 1500 steps at least, of 32 images each
    assert recipe.epochs == math.ceil(1500 * 32 / len(plain)) > 8 and recipe.seconds == 9.0 and given["seed"] == 4
