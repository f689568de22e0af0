"""What a protected learner keeps between epochs: resets in turn, and a state that goes on where it stopped."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from smartedge.config import load_config
from smartedge.methods.base import get_method
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.learner import Learned
from smartedge.methods.loop import Progress, take_step
from smartedge.methods.protected_step import Protection, protected_step
from smartedge.types import ImageBatch, Task

TASK = Task("single", ("smile",), ("no", "yes"))


@dataclass
class Images:
    """As much of a data set as a learner looks at."""

    batch: ImageBatch
    task: Task = TASK

    @property
    def splits(self):
        return {"train": self}

    @property
    def labels(self):
        return self.batch.labels

    @property
    def sensitive_labels(self):
        return self.batch.sensitive

    @property
    def sensitive(self):
        return dict.fromkeys(self.batch.sensitive, Task("single", ("club",), ("no", "yes")))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (16, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels, club = (torch.randint(0, 2, (16,), generator=generator) for _ in range(2))
    return Images(ImageBatch(np.arange(16), pixels, labels, {"club": club}))


def learner(images: Images, *, task: Task = TASK, **changes) -> ExitLearner:
    config = load_config(
        {
            "data": {"image_size": 32, "sensitive": ["club"]},
            "model": {"name": "narrow:build", "bottleneck": "2x2x2", "exit": {"width": 8}},
            "adversary": {"exits": ["linear", "mlp"], "steps": 1, "reset_every": 2},
            "dp": {"mechanism": "gaussian", "sigma": 0.5},
            "hardware": {"edge_device": "cpu"},
        },
        changes,
    )
    made = get_method(config.method).edge(config, task, torch.device("cpu"), images)
    assert isinstance(made, ExitLearner)
    return made


def learn(one: ExitLearner, batch: ImageBatch, step: int, steps: int, *, sending: bool = False) -> Learned:
    """One update, at this place of a training."""

    def update(batch: ImageBatch, progress: Progress) -> Learned:
        return one.learn(batch, progress, sending=sending)

    return take_step(update, batch, Progress(1, steps, step=step), rates=one.rates)


def moved(one: ExitLearner, epoch: int) -> set[str]:
    before = {name: tensor.clone() for name, tensor in one.adversaries.state_dict().items()}
    one.begin_epoch(epoch)
    after = one.adversaries.state_dict()
    return {
        one.adversaries.shapes[int(name.split(".")[1])] for name in before if not torch.equal(before[name], after[name])
    }


def test_one_exit_in_turn_starts_anew(images):
    one = learner(images)
    assert [moved(one, epoch) for epoch in range(7)] == [set(), set(), {"linear"}, set(), {"mlp"}, set(), {"linear"}]
    never = learner(images, adversary={"reset_every": 0})
    assert not any(moved(never, epoch) for epoch in range(7))


def test_adversaries_begin_by_the_seed_of_the_run_and_know_the_layout_of_the_cut(images):
    made = [learner(images, seed=seed).adversaries for seed in (0, 0, 1)]
    weights = [torch.cat([each.flatten() for each in one.parameters()]) for one in made]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert [one.layout for one in made] == ["channels-first"] * 3 and all(one.training for one in made)


def test_split_learning_infers_in_evaluation_mode_and_learns_in_training_mode(images):
    config = learner(images).config
    split = load_config(
        {**config.model_dump(), "method": "split", "adversary": {}, "dp": {}, "model": {"name": "narrow:build"}},
        {"data": {"sensitive": []}},
    )
    one = get_method("split").edge(split, TASK, torch.device("cpu"))
    features = [one.infer(images.batch)[0] for _ in range(2)]
    learned = one.learn(images.batch, Progress(1, 4)).sent_BF
    assert torch.equal(*features) and not torch.equal(features[0], learned), "batch statistics are of a batch"
    assert torch.equal(one.learn(images.batch, Progress(1, 4)).sent_BF, learned)


@pytest.mark.parametrize("mixture", [0.0, 2.0])
def test_a_state_goes_on_where_it_stopped(images, mixture):
    def go_on(one: ExitLearner) -> list[torch.Tensor]:
        torch.manual_seed(7)
        one.begin_epoch(2)
        for step in range(2, 4):
            learn(one, images.batch, step, 6)
        return [*one.modules["front"].state_dict().values(), *one.adversaries.state_dict().values()]

    first, second = (learner(images, adversary={"mixture": mixture}) for _ in range(2))
    torch.manual_seed(1)
    for step in range(2):
        learn(first, images.batch, step, 6)
    saved = copy.deepcopy(first.state())
    uninterrupted = go_on(first)
    second.load_state(saved)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(go_on(second), uninterrupted, strict=True))


def test_lambda_rises_and_figures_name_no_column(images):
    one = learner(images, adversary={"warmup": 0.5, "weight": 4.0, "dependence": 2.0})
    figures = [learn(one, images.batch, step, 4).step.figures for step in range(4)]
    assert [part["lambda"] for part in figures] == pytest.approx([0.0, 2.0, 4.0, 4.0])
    assert set(figures[-1]) == {"adversary_loss", "confusion", "lambda", "dependence"}


def test_dependence_alone_needs_no_exits(images):
    one = learner(images, adversary={"exits": [], "dependence": 2.0})
    figures = learn(one, images.batch, 3, 4).step.figures
    assert set(figures) == {"dependence"}
    assert "adversaries" not in one.state()


def test_the_memory_of_the_mixture_term_is_part_of_the_state(images):
    """A run that goes on with an empty memory ends with other weights than one that was not interrupted."""
    ends = []
    for keep in (True, False):
        one = learner(images, adversary={"exits": [], "mixture": 2.0})
        torch.manual_seed(1)
        learn(one, images.batch, 2, 6)
        saved = copy.deepcopy(one.state())
        assert sorted(saved) == ["mixtures", "modules", "optimizer"]
        other = learner(images, adversary={"exits": [], "mixture": 2.0})
        if not keep:
            saved["mixtures"] = other.state()["mixtures"]
        other.load_state(saved)
        assert (other.mixtures.ids >= 0).any() == keep
        strangers = ImageBatch(
            images.batch.ids + 16, images.batch.images_BCHW, images.batch.labels, images.batch.sensitive
        )
        for two in (one, other):
            torch.manual_seed(7)
            learn(two, strangers, 3, 6)
        ends.append(
            [
                torch.equal(a, b)
                for a, b in zip(one.modules["front"].parameters(), other.modules["front"].parameters(), strict=True)
            ]
        )
    assert all(ends[0]) and not all(ends[1])


def test_the_mixture_term_alone_needs_no_exits_and_its_weight_rises(images, monkeypatch):
    weights = []

    def spy(*args, **settings):
        weights.append(next(one.suppression.mixture.weight for one in args if isinstance(one, Protection)))
        return protected_step(*args, **settings)

    monkeypatch.setattr("smartedge.methods.hierarchical.protected_step", spy)
    one = learner(images, adversary={"exits": [], "mixture": 4.0, "warmup": 0.5})
    figures = [learn(one, images.batch, step, 4).step.figures for step in range(4)]
    assert all(set(part) == {"mixture"} for part in figures)
    assert weights == pytest.approx([0.0, 2.0, 4.0, 4.0])
    assert one.mixtures.ids[:16].tolist() == list(range(16))


def test_what_is_inferred_is_bounded_and_free_of_noise(images):
    one = learner(images, dp={"clip": 0.1})
    features, _ = one.infer(images.batch)
    assert features.flatten(1).norm(dim=1).max() <= 0.1
    assert torch.equal(features, one.infer(images.batch)[0])


@pytest.mark.parametrize("task", [TASK, Task("multi", ("smile", "hat"), ("smile", "hat"))])
def test_answers_to_codewords_are_averaged_as_the_task_asks(images, task):
    codewords = {
        "model": {"bottleneck": None, "codebook": 4},
        "dp": {"mechanism": "randomised-response", "sigma": None, "epsilon": 1.0},
    }
    one = learner(images, task=task, adversary={"exits": []}, data={"sensitive": []}, **codewords)
    features, logits = one.infer(images.batch)
    channel = torch.from_numpy(one.mechanism.channel())
    to_shares = (lambda x: torch.softmax(x, dim=1)) if task.kind == "single" else torch.sigmoid
    with torch.no_grad():
        expected = features @ channel @ to_shares(one.modules["exit"](torch.eye(4)))
    torch.testing.assert_close(to_shares(logits), expected, rtol=1e-4, atol=1e-5)


def test_exits_need_the_labels_of_a_data_set(images):
    with pytest.raises(ValueError, match="data set"):
        get_method("hierarchical").edge(learner(images).config, TASK, torch.device("cpu"))


def test_the_noise_that_the_front_learns_through_rises(images, monkeypatch):
    given = []

    def spy(*args, **settings):
        given.append(next(one.noise for one in args if isinstance(one, Protection)))
        return protected_step(*args, **settings)

    monkeypatch.setattr("smartedge.methods.hierarchical.protected_step", spy)
    one = learner(images, dp={"warmup": 0.5})
    for step in range(4):
        learn(one, images.batch, step, 4)
    assert given == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_a_private_release_of_an_image_does_not_depend_on_the_others_beside_it(images):
    """Batch normalisation mixes a batch; replace-one noise on one image's own features would not cover that."""
    sent = []
    for replaced in (False, True):
        pixels = images.batch.images_BCHW.clone()
        if replaced:
            pixels[0] = 255 - pixels[0]
        one = learner(images, dp={"clip": 4.0})
        batch = ImageBatch(images.batch.ids, pixels, images.batch.labels, images.batch.sensitive)
        sent.append(learn(one, batch, 3, 10, sending=True).sent_BF)
    assert torch.equal(sent[0][1:], sent[1][1:])
    assert not torch.equal(sent[0][0], sent[1][0])
    assert one.alone and not learner(images, dp={"mechanism": "none", "sigma": None}).alone


def test_a_front_is_trained_for_the_rate_unless_noise_takes_its_bits(images):
    alone = {"adversary": {"exits": []}, "data": {"sensitive": []}, "dp": {"mechanism": "none", "sigma": None}}
    for changes, trains in ((alone, True), ({"dp": alone["dp"]}, True), ({}, False)):
        made = learner(images, codec={"name": "learned", "bytes": 16}, **changes)
        figures = take_step(made.learn, images.batch, Progress(1, 4), rates=made.rates).step.figures
        assert ("rate_bytes" in figures) == trains
        assert ("rate" in made.state()) == trains
    made, again = (learner(images, codec={"name": "learned", "bytes": 16}, **alone) for _ in range(2))
    take_step(made.learn, images.batch, Progress(1, 4), rates=made.rates)
    again.load_state(copy.deepcopy(made.state()))
    for _ in range(2):
        losses = []
        for each in (made, again):
            torch.manual_seed(0)
            losses.append(take_step(each.learn, images.batch, Progress(1, 4, step=1), rates=each.rates).step)
        assert losses[0].loss == losses[1].loss and losses[0].figures == losses[1].figures
