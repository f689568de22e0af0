"""Adversarial exits: weights and targets against counting, losses against plain loops, shapes, resets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from smartedge.models.released import SimulatedRelease
from smartedge.models.suppression.adversary import AdversarialExit, Adversaries, TrainingLabels
from smartedge.models.suppression.confusion import adversary_losses, balance, confusion_losses, hsic, rise_at
from smartedge.types import Task

SHAPES = [(64, 16, 16), (8, 4, 4), (4, 1, 1), (3, 5, 7), (24, 24, 40), (65, 192), (300, 32), (8,)]
TASK = Task("single", ("smile",), ("no", "yes"))
MULTI = Task("multi", ("smile", "hat", "beard"), ("smile", "hat", "beard"))
COLUMNS = {"group": Task("single", ("group",), ("a", "b", "c")), "club": Task("single", ("club",), ("no", "yes"))}


def labels(size: int, task: Task = TASK) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    desired = torch.randint(0, 2, (size,) if task.kind == "single" else (size, 3), generator=generator)
    hidden = {name: torch.randint(0, one.outputs, (size,), generator=generator) for name, one in COLUMNS.items()}
    return desired if task.kind == "single" else desired.float(), hidden


def adversaries(
    shapes=("linear", "mlp"), *, task: Task = TASK, confusion: str = "conditional", feature_shape=(2, 3, 3)
) -> Adversaries:
    desired, hidden = labels(60, task)
    known = TrainingLabels(task, desired, COLUMNS, hidden)
    return Adversaries(shapes, feature_shape, known, confusion=confusion, seed=1)


# -- shapes


@pytest.mark.parametrize("feature_shape", SHAPES)
@pytest.mark.parametrize("shape", ["linear", "mlp", "conv", "deep"])
def test_every_shape_takes_every_tensor_that_can_cross(shape, feature_shape):
    one = AdversarialExit(shape, feature_shape, 3, desired=2)
    logits = one(SimulatedRelease(torch.randn(4, *feature_shape)), torch.tensor([0, 1, 1, 0]))
    assert logits.shape == (4, 1, 3)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in one.parameters())


def test_an_exit_has_a_classifier_for_each_desired_class():
    one = AdversarialExit("linear", (5,), 3, desired=2)
    features, desired = torch.randn(6, 5), torch.tensor([0, 1, 1, 0, 1, 0])
    found = one(SimulatedRelease(features), desired)[:, 0]
    for image in range(6):
        rows = slice(3 * int(desired[image]), 3 * int(desired[image]) + 3)
        plain = one.classify.weight[rows] @ features[image] + one.classify.bias[rows]
        torch.testing.assert_close(found[image], plain)


def test_the_deep_exit_finds_what_the_linear_one_cannot():
    """The parity of two positions of a map is invisible to any linear rule."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 2, (512, 2), generator=generator)
    features = 0.3 * torch.randn(512, 2, 4, 4, generator=generator)
    features[:, 0, 0, 0] += 2.0 * bits[:, 0] - 1
    features[:, 0, 3, 3] += 2.0 * bits[:, 1] - 1
    parity = bits.sum(dim=1) % 2
    reached = {}
    for shape in ("linear", "mlp", "deep"):
        torch.manual_seed(0)
        one = AdversarialExit(shape, (2, 4, 4), 2)
        optimizer = torch.optim.Adam(one.parameters(), lr=3e-3)
        for start in range(0, 384 * 14, 64):
            part = torch.arange(start, start + 64) % 384
            loss = adversary_losses(one(SimulatedRelease(features[part])), parity[part], torch.ones(1, 2)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        one.eval()
        reached[shape] = (
            (one(SimulatedRelease(features[384:]))[:, 0].argmax(dim=1) == parity[384:]).float().mean().item()
        )
    assert reached["linear"] < 0.75
    assert reached["deep"] > 0.9
    assert reached["mlp"] > 0.9


# -- weights and targets


def test_balanced_weights_make_equal_shares_the_answer_of_an_exit_that_finds_nothing():
    counts = torch.tensor([[30.0, 10.0, 0.0], [5.0, 5.0, 10.0]])
    one = balance(counts, "conditional")
    shares = counts / counts.sum(dim=1, keepdim=True)
    torch.testing.assert_close(one.weights_YS, torch.tensor([[2 / 3, 2.0, 0.0], [4 / 3, 4 / 3, 2 / 3]]))
    torch.testing.assert_close(one.targets_YS, torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
    torch.testing.assert_close((shares * one.weights_YS).sum(dim=1), torch.ones(2))
    plain = balance(counts.sum(dim=0, keepdim=True), "prior")
    torch.testing.assert_close(plain.targets_YS, torch.tensor([[35 / 60, 15 / 60, 10 / 60]]))
    assert torch.equal(plain.weights_YS, torch.ones(1, 3))


@pytest.mark.parametrize("confusion", ["conditional", "prior", "uniform"])
@pytest.mark.parametrize("counts", [[[30.0, 10.0], [4.0, 16.0]], [[990.0, 10.0], [500.0, 0.0]]])
def test_the_target_is_what_an_uninformed_exit_learns(confusion, counts):
    """Minimise the exit's expected loss over answers that depend on y alone, by gradient descent."""
    counts_YS = torch.tensor(counts)
    if confusion != "conditional":
        counts_YS = counts_YS.sum(dim=0, keepdim=True)
    one = balance(counts_YS, confusion)
    for row in range(len(counts_YS)):
        logits = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

        def loss(row=row, logits=logits, optimizer=optimizer):
            share = counts_YS[row] / counts_YS[row].sum()
            value = -(share * one.weights_YS[row] * torch.log_softmax(logits, dim=0)).sum()
            optimizer.zero_grad()
            value.backward()
            return value

        optimizer.step(loss)
        torch.testing.assert_close(torch.softmax(logits.detach(), 0), one.targets_YS[row], atol=2e-3, rtol=0)


@pytest.mark.parametrize("confusion", ["conditional", "prior", "uniform", "minimax"])
def test_the_losses_equal_plain_loops(confusion):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 3, 4, generator=generator)
    sensitive = torch.tensor([0, 3, 1, 2, 2])
    weights, targets = torch.rand(5, 4, generator=generator), torch.rand(5, 4, generator=generator)
    targets[0, 1] = 0.0
    targets = targets / targets.sum(dim=1, keepdim=True)
    mine = adversary_losses(logits, sensitive, weights)
    confused = confusion_losses(logits, sensitive, weights, targets, confusion)
    for image in range(5):
        for outcome in range(3):
            scores = [math.exp(value) for value in logits[image, outcome].tolist()]
            shares = [score / sum(scores) for score in scores]
            truth = int(sensitive[image])
            loss = -weights[image, truth].item() * math.log(shares[truth])
            assert mine[image, outcome].item() == pytest.approx(loss, rel=1e-5)
            if confusion == "minimax":
                expected = -loss
            else:
                pairs = zip(targets[image].tolist(), shares, strict=True)
                expected = sum(t * math.log(t / d) for t, d in pairs if t > 0)
            assert confused[image, outcome].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_confusion_is_zero_at_the_target_and_pulls_a_sure_exit_back():
    targets = torch.tensor([[0.25, 0.75]])
    at_target = confusion_losses(targets.log()[:, None], torch.tensor([0]), torch.ones(1, 2), targets, "conditional")
    assert at_target.item() == pytest.approx(0.0, abs=1e-6)
    sure = torch.tensor([[[40.0, 0.0]]], requires_grad=True)
    confusion_losses(sure, torch.tensor([0]), torch.ones(1, 2), targets, "conditional").sum().backward()
    torch.testing.assert_close(sure.grad[0, 0], torch.tensor([0.75, -0.75]))


def test_lambda_rises_over_the_warm_up():
    rising = [3.0 * rise_at(step, 100, warmup=0.2) for step in (0, 10, 20, 99)]
    assert rising == pytest.approx([0.0, 1.5, 3.0, 3.0])
    assert rise_at(0, 100, warmup=0.0) == 1.0


# -- all exits together


def test_the_mean_over_shapes_and_the_sum_over_columns():
    both = adversaries(confusion="uniform")
    desired, hidden = labels(60)
    released = SimulatedRelease(torch.randn(60, 2, 3, 3))
    found, confused = both.loss(released, desired, hidden), both.confuse(released, desired, hidden)
    total = confusing = 0.0
    for exits in both.exits:
        for one, (name, task) in zip(exits, COLUMNS.items(), strict=True):
            counts = torch.bincount(hidden[name], minlength=task.outputs)
            weight = len(desired) / (task.outputs * counts)
            log_shares = torch.log_softmax(one(released)[:, 0], dim=1)
            for image in range(60):
                truth = int(hidden[name][image])
                total -= weight[truth].item() * log_shares[image, truth].item() / 60
                confusing += (-log_shares[image].mean().item() - math.log(task.outputs)) / 60
    assert found.item() == pytest.approx(total / 2, rel=1e-4)
    assert confused.item() == pytest.approx(confusing / 2, rel=1e-4)


def test_conditional_on_a_multi_label_task_aims_at_what_the_labels_alone_tell():
    """Features that hold nothing: trained exits answer as the label head does, and confusion ends near 0."""
    desired, _ = labels(400, MULTI)
    likely = 0.2 + 0.6 * desired[:, 0]  # of the club, given the first label
    hidden = {
        "group": torch.zeros(400, dtype=torch.int64),
        "club": (torch.rand(400, generator=torch.Generator().manual_seed(1)) < likely).long(),
    }
    one = Adversaries(
        ("linear",), (4,), TrainingLabels(MULTI, desired, COLUMNS, hidden), confusion="conditional", seed=0
    )
    features = torch.zeros(400, 4)
    optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
    for _ in range(150):
        loss = one.loss(SimulatedRelease(features), desired, hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answered = torch.softmax(one.label_heads[1](desired), dim=1)[:, 1]
    with_label, without = answered[desired[:, 0] == 1].mean().item(), answered[desired[:, 0] == 0].mean().item()
    assert with_label == pytest.approx(0.8, abs=0.1)
    assert without == pytest.approx(0.2, abs=0.1)
    assert one.confuse(SimulatedRelease(features), desired, hidden).item() < 0.02
    revealing = torch.zeros(400, 4)
    revealing[:, 0] = 5 * hidden["club"] - 2.5
    with torch.no_grad():
        one.exits[0][1].classify.weight[1, 0] = 5.0
    assert one.confuse(SimulatedRelease(revealing), desired, hidden).item() > 0.5


def test_confusion_reaches_the_features_and_the_label_head_is_a_constant_to_it():
    desired, hidden = labels(12, MULTI)
    one = adversaries(task=MULTI)
    features = torch.randn(12, 2, 3, 3, requires_grad=True)
    one.confuse(SimulatedRelease(features), desired, hidden).backward()
    assert features.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in one.label_heads.parameters())


def test_a_restart_changes_one_shape_and_forgets_its_optimizer_state():
    one = adversaries()
    desired, hidden = labels(60)
    optimizer = torch.optim.Adam(one.parameters())
    one.loss(SimulatedRelease(torch.randn(60, 2, 3, 3)), desired, hidden).backward()
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    outside = torch.get_rng_state()
    one.restart(3, 99, optimizer)  # the second of two
    assert torch.equal(outside, torch.get_rng_state())
    after = one.state_dict()
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"1"}
    assert not any(parameter in optimizer.state for parameter in one.exits[1].parameters())
    assert all(parameter in optimizer.state for parameter in one.exits[0].parameters())
    again = adversaries()
    again.restart(1, 99, torch.optim.Adam(again.parameters()))
    for name, tensor in again.exits[1].state_dict().items():
        assert torch.equal(tensor, one.exits[1].state_dict()[name]), "a function of the seed"


def test_no_name_of_a_column_is_in_what_is_saved():
    assert not [name for name in adversaries().state_dict() if "group" in name or "club" in name]


# -- kernel dependence


def plain_hsic(kernel: torch.Tensor, same: torch.Tensor) -> float:
    size = len(kernel)
    centre = torch.eye(size) - torch.full((size, size), 1 / size)
    return (torch.trace(kernel @ centre @ same @ centre) / (size - 1) ** 2).item()


def test_hsic_is_the_trace_of_four_matrices_also_within_groups():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(20, 2, 2, generator=generator)
    sensitive, groups = torch.randint(0, 3, (20,), generator=generator), torch.randint(0, 2, (20,), generator=generator)
    kernel = SimulatedRelease(features).similarities()
    distances = torch.cdist(features.flatten(1), features.flatten(1)).square()
    median = distances[~torch.eye(20, dtype=torch.bool)].median()
    torch.testing.assert_close(kernel, torch.exp(-distances / (2 * median)), atol=1e-5, rtol=0)
    same = (sensitive[:, None] == sensitive[None]).float()
    assert hsic(kernel, sensitive).item() == pytest.approx(plain_hsic(kernel, same), rel=1e-4)
    parts = 0.0
    for group in (0, 1):
        rows = torch.nonzero(groups == group).squeeze(1)
        parts += len(rows) / 20 * plain_hsic(kernel[rows][:, rows], same[rows][:, rows])
    assert hsic(kernel, sensitive, groups).item() == pytest.approx(parts, rel=1e-4)
    too_few = hsic(kernel[:3, :3], torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.int64))
    assert too_few.item() == 0


def test_hsic_tells_dependence_from_none_and_its_gradient_lowers_it():
    generator = torch.Generator().manual_seed(4)
    sensitive = torch.randint(0, 2, (200,), generator=generator)
    noise = torch.randn(200, 3, generator=generator)
    shifted = (noise + 2.0 * sensitive[:, None]).requires_grad_()
    apart, together = (
        hsic(SimulatedRelease(shifted).similarities(), sensitive),
        hsic(SimulatedRelease(noise).similarities(), sensitive),
    )
    assert apart > 5 * together > 0
    apart.backward()
    assert hsic(SimulatedRelease((shifted - 200 * shifted.grad).detach()).similarities(), sensitive) < apart


def test_similarity_of_codewords_is_the_chance_of_the_same_outcome():
    shares = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    found = SimulatedRelease(torch.eye(3), shares).similarities()
    for one in range(5):
        for other in range(5):
            chance = 1.0 if one == other else sum(shares[one, o] * shares[other, o] for o in range(3)).item()
            assert found[one, other].item() == pytest.approx(chance, rel=1e-5)


# -- what heads are shown


def test_expectation_over_outcomes_is_exact():
    torch.manual_seed(0)
    head, outcomes = nn.Linear(3, 2), torch.eye(3)
    shares = torch.softmax(torch.randn(4, 3), dim=1)
    released = SimulatedRelease(outcomes, shares)
    answers = released.answers(head)
    assert answers.shape == (4, 3, 2)
    expected = torch.stack([sum(shares[b, o] * head(outcomes[o]) for o in range(3)) for b in range(4)])
    torch.testing.assert_close(released.expect(answers), expected)
    drawn = SimulatedRelease(shares)
    torch.testing.assert_close(drawn.expect(drawn.answers(head)), head(shares))


def test_an_exit_that_is_shown_the_label_answers_every_pair_of_outcome_and_image():
    one = AdversarialExit("mlp", (3,), 2, desired=2)
    shares, desired = torch.softmax(torch.randn(4, 3), dim=1), torch.tensor([0, 1, 1, 0])
    pairs = one(SimulatedRelease(torch.eye(3), shares), desired)
    for image in range(4):
        for outcome in range(3):
            alone = one(SimulatedRelease(torch.eye(3)[outcome : outcome + 1]), desired[image : image + 1])[0, 0]
            torch.testing.assert_close(pairs[image, outcome], alone)
