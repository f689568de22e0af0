"""Training from frames: a function of settings and frames, resumable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from headers import stream_header
from torch import nn
from torch.nn import functional

from smartedge.artifacts.metrics import read_metrics
from smartedge.cloud.order.shuffled import Shuffled
from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.training.from_logs import TrainingFromLogs
from smartedge.cloud.training.in_sequence import consume, skip
from smartedge.codec import unpack
from smartedge.config import load_config
from smartedge.models.network import to_input
from smartedge.runs.progress import Quiet
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch


def back() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 2))


def frames_of(log: FeatureLog, threads: int = 0) -> Shuffled:
    return Shuffled(
        {"edge": log},
        lambda key: unpack(log.frame(key[1]).batch, log.header_of(key[1])),
        batch_size=5,
        seed=0,
        threads=threads,
    )


def trainer(folder, *, resume: bool = False, **changes) -> BackTrainer:
    folder.mkdir(exist_ok=True)
    config = load_config({"epochs": 4, "schedule": "freeze-and-log", "train": {"batch_size": 5, "lr": 0.01}, **changes})
    return BackTrainer(
        config, back(), task_kind="single", device=torch.device("cpu"), folder=folder, monitor=Quiet(), resume=resume
    )


def test_the_same_log_gives_the_same_weights(log, tmp_path):
    trained = []
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)  # what others drew does not matter
        one = trainer(tmp_path / name)
        TrainingFromLogs(one, frames_of(log)).run()
        trained.append(one.back.state_dict())
        assert one.finished
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_stopped_and_resumed_gives_the_same_weights(log, tmp_path):
    whole = trainer(tmp_path / "whole")
    TrainingFromLogs(whole, frames_of(log)).run()
    broken = trainer(tmp_path / "broken")

    class StopInThirdEpoch:
        def is_set(self) -> bool:
            return broken.progress.step >= 10

    TrainingFromLogs(broken, frames_of(log)).run(stop=StopInThirdEpoch())
    assert not broken.finished
    resumed = trainer(tmp_path / "broken", resume=True)
    assert 0 < resumed.progress.epoch < 4
    TrainingFromLogs(resumed, frames_of(log)).run()
    assert resumed.test == whole.test
    for name, tensor in whole.back.state_dict().items():
        assert torch.equal(tensor, resumed.back.state_dict()[name])


def test_the_last_two_checkpoints_are_kept(log, tmp_path):
    """An edge of split learning may go back by one."""
    one = trainer(tmp_path / "run")
    TrainingFromLogs(one, frames_of(log)).run()
    assert one.checkpoints.numbers() == [3, 4]


@pytest.mark.parametrize("shards", [1, 2])
def test_reading_ahead_gives_the_same_weights(log, tmp_path, shards):
    trained = []
    for threads in (0, 3):
        one = trainer(tmp_path / str(threads), cloud={"shards": shards})
        training = TrainingFromLogs(one, frames_of(log, threads))
        training.run()
        trained.append(one)
    plain, ahead = trained
    assert training.supply.waited > 0
    assert plain.test == ahead.test
    for name, tensor in plain.back.state_dict().items():
        assert torch.equal(tensor, ahead.back.state_dict()[name])


def test_images_that_are_augmented_ahead_are_those_of_their_update(tmp_path):
    """The update's number decides how its images are changed. Ahead of it, the number must be told."""
    inputs = trainer(tmp_path / "run", method="upload", data={"augment": "flip-crop"}).inputs
    images_BCHW = np.random.default_rng(0).integers(256, size=(8, 3, 8, 8), dtype=np.uint8)
    batch = FeatureBatch(np.arange(8), images_BCHW, np.arange(8) % 2)
    for number in (0, 7):
        ready = inputs.ready(number, batch).inputs
        assert ready is not None and torch.equal(ready[0], inputs.of(batch, (number,)))
        assert not torch.equal(ready[0], inputs.of(batch, (number + 1,)))


class Watched(nn.Module):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 2)
        self.given: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given.append(x.detach().clone())
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


def one_batch(folder: Path, batch: FeatureBatch, split: str, network: nn.Module, **settings) -> BackTrainer:
    folder.mkdir()
    config = load_config(settings)
    trainer = BackTrainer(
        config, network, task_kind="single", device=torch.device("cpu"), folder=folder, monitor=Quiet(), resume=False
    )
    consume(trainer, stream_header(split=split, frames=1), 0, batch)
    return trainer


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_uploaded_images_are_augmented_where_they_are_learned_from_and_nowhere_else(tmp_path, split):
    images_BCHW = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = FeatureBatch(np.arange(16), images_BCHW.numpy(), np.arange(16) % 2)
    network = Watched()
    settings = {"method": "upload", "data": {"augment": "flip-crop"}}
    one_batch(tmp_path / "run", batch, split, network, **settings)
    (given,) = network.given
    as_they_are = torch.equal(given, to_input(images_BCHW, torch.device("cpu")))
    assert as_they_are == (split != "train")


@pytest.mark.parametrize(("smoothing", "split"), [(0.0, "train"), (0.3, "train"), (0.3, "val")])
def test_labels_are_smoothed_as_the_settings_say_where_the_back_learns(tmp_path, smoothing, split):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    features, labels = torch.randn(4, 2, 2, 2), torch.tensor([0, 1, 1, 0])
    batch = FeatureBatch(np.arange(4), features.numpy(), labels.numpy())
    with torch.no_grad():
        logits_BK = network(features)
    expected = functional.cross_entropy(
        logits_BK, labels, label_smoothing=smoothing if split == "train" else 0.0
    ).item()
    one_batch(tmp_path / "run", batch, split, network, train={"label_smoothing": smoothing})
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row["split"] == split and row["loss"] == pytest.approx(expected, rel=1e-6)


def test_seconds_of_a_row_are_those_since_the_row_before(tmp_path):
    one = trainer(tmp_path / "a")
    for busy in (3.0, 5.0):
        one.busy = busy
        one.predictions["train"].add(np.arange(2), torch.tensor([0, 1]), torch.zeros(2, 2), 0.5)
        one.record(0, "train")
    one.close()
    assert [row.seconds for row in read_metrics(tmp_path / "a" / "metrics.jsonl")] == [3.0, 2.0]


def test_what_was_predicted_after_a_checkpoint_is_forgotten_with_it(tmp_path):
    one = trainer(tmp_path / "a")
    one.save()
    one.predictions["train"].add(np.arange(2), torch.tensor([0, 1]), torch.zeros(2, 2), 0.5)
    assert not one.rewind(7) and one.predictions
    assert one.rewind(0) and not one.predictions
    one.close()


def test_a_checkpoint_brings_back_seconds_place_and_label_shares(tmp_path):
    one = trainer(tmp_path)
    one.label_shares.see("door", np.array([0, 0, 1]), 2)
    one.busy, one.next_seq = 3.5, 7
    one.save()
    one.close()
    other = trainer(tmp_path, resume=True)
    assert (other.busy, other.next_seq) == (3.5, 7)
    assert (
        str(other.label_shares.state()) == str(one.label_shares.state()) != str(trainer(tmp_path).label_shares.state())
    )


def test_no_number_is_dropped_where_the_back_is_evaluated(tmp_path):
    one = trainer(tmp_path)
    batch = FeatureBatch(np.arange(8), np.ones((8, 2, 3, 3), np.float32), np.zeros(8, np.int64))
    one.back.train()
    one.evaluate(batch, "val")
    assert len(one.predictions["val"].tensors()["scores"].unique(dim=0)) == 1, "equal features, equal answers"


def test_a_training_frame_that_was_lost_counts_as_a_step(tmp_path):
    """So the rates of the steps after it are those of a run that lost nothing."""
    one = trainer(tmp_path)
    for split, seq, steps in (("val", 0, 0), ("train", 1, 1), ("train", 2, 2)):
        skip(one, stream_header(split=split, frames=9, train_steps=5), seq)
        assert (one.progress.step, one.next_seq) == (steps, seq + 1)
    assert one.progress.steps_per_epoch == 5


def test_images_of_many_frames_are_mixed_and_each_shard_by_numbers_of_its_own(log, monkeypatch):
    """A batch has five images, a frame four, and there are six frames."""
    first = next(frames_of(log).epoch(0))
    assert len(set((first.ids // 4).tolist())) >= 4
    drawn = []

    def noted(seed, *purpose):
        drawn.append((seed, *purpose))
        return derive_seed(seed, *purpose)

    monkeypatch.setattr("smartedge.cloud.order.shuffled.derive_seed", noted)
    next(frames_of(log).sharded_epoch(3, shards=2, own=range(2)))
    assert drawn == [(0, "log", 3), (0, "log", 3, 0), (0, "log", 3, 1)]
