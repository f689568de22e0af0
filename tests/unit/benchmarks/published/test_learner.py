"""What all rows share: the update of a front that learns with a defence, and the back."""

from __future__ import annotations

import torch
from published.learner import Defence, DefendedLearner, Seen
from published.reader import Reader

from smartedge.config import load_config
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.loop import Progress
from smartedge.types import ImageBatch, Task

TASK = Task("single", ("smile",), ("no", "yes"))
CPU = torch.device("cpu")
SETTINGS = {"model": {"name": "resnet18", "cut": "layer1", "bottleneck": "2x1x1"}, "data": {"image_size": 32}}


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(8) % 2
    return ImageBatch(labels.numpy(), images, labels, {"masculine": 1 - labels})


def weights(learner: ExitLearner) -> dict[str, torch.Tensor]:
    return {**learner.modules["front"].state_dict(), **learner.modules["exit"].state_dict()}


def test_a_defence_that_does_nothing_is_the_librarys_plain_update():
    # SGD without a bound on the gradients: a step of AdamW would hide a wrong factor.
    config = load_config({**SETTINGS, "train": {"optimizer": "sgd", "clip_grad_norm": 1e9}})
    plain, defended = ExitLearner(config, TASK, CPU), DefendedLearner(config, TASK, CPU, Defence())
    for learner in (plain, defended):
        learner.rates(Progress(1, 1))
        learner.learn(batch(), Progress(1, 1))
    ours, theirs = weights(defended), weights(plain)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Watching(Defence):
    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.ones(()))
        self.seen: list[Seen] = []

    def learned(self):
        return (self.number,)

    def penalty(self, features_BF, seen):
        self.seen.append(seen)
        return self.number * 1.0


def test_a_penalty_sees_images_and_both_labels_and_rises_from_nothing():
    config, defence = load_config(SETTINGS), Watching()
    learner = DefendedLearner(config, TASK, CPU, defence)
    for step, after in ((0, lambda number: number == 1.0), (9, lambda number: number < 1.0)):
        learner.rates(Progress(1, 10, step=step))
        learner.learn(batch(), Progress(1, 10, step=step))
        assert after(defence.number.item())
    assert torch.equal(defence.seen[0].labels_B, batch().labels)
    assert torch.equal(defence.seen[0].sensitive_B, batch().sensitive["masculine"])
    assert defence.seen[0].inputs_BCHW.shape == (8, 3, 32, 32)


def test_the_back_learns_what_can_be_read_and_keeps_its_best_epoch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(512) % 2
    features = torch.randn(512, 3, 1, 1, generator=generator)
    features[:, 0, 0, 0] += 6.0 * labels
    reader = Reader((3, 1, 1), "channels-first", torch.device("cpu"), seed=0)
    reader.learn(lambda rows: features[rows], labels, (features[:128], labels[:128]), epochs=4)
    assert reader.score(features, labels) > 0.95
    assert reader.scores(features).shape == (512, 2)
