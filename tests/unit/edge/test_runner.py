"""How an edge counts the time of its own computing and reading, and how far it says that a release is."""

from __future__ import annotations

import contextlib
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smartedge.config import load_config
from smartedge.edge import runner
from smartedge.edge.runner import EdgeRunner
from smartedge.edge.state import Counts
from smartedge.methods.learner import Learned
from smartedge.methods.schedules import Epoch, get_schedule
from smartedge.runs.progress import Quiet, Update
from smartedge.types import ImageBatch

BATCH = ImageBatch(np.arange(2), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


class Batches:
    """Three batches that took a second to read, of which half a second was waited for."""

    busy_seconds, wait_seconds = 1.0, 0.5

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        yield from [BATCH] * 3


class Shown(Quiet):
    def __init__(self) -> None:
        self.bars: list[tuple[str, int, int]] = []

    def update(self, update: Update) -> None:
        self.bars.append((update.phase, update.done, update.total))


@pytest.fixture
def edge():
    """As much of an edge as goes through its images: split learning, so that it sends while it computes."""
    images = SimpleNamespace(training=lambda epoch: Batches(), whole=lambda split: Batches(), steps=3)
    made = EdgeRunner.__new__(EdgeRunner)
    made.images, made.monitor, made._stop = images, Shown(), threading.Event()
    made.random = SimpleNamespace(active=contextlib.nullcontext)
    made.state = SimpleNamespace(counts=Counts())
    made.sent = []
    made.sender = SimpleNamespace(
        inline_seconds=7.0,
        open=lambda header: None,
        send=lambda ids, features_BF, labels: made.sent.append(ids.tolist()),
        close_stream=lambda: None,
        next_seq=0,
    )
    made.streams = SimpleNamespace(header=lambda *facts: facts)
    return made


def test_reading_adds_up_and_computing_is_without_the_time_that_sending_took(edge, monkeypatch) -> None:
    """A clock that goes on by ten seconds in each update; four of these are the link's."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr(runner.time, "perf_counter", lambda: float(next(clock)))
    processor = itertools.count(0, 3)
    monkeypatch.setattr(runner.time, "thread_time", lambda: float(next(processor)))

    def exchange(ids, features_BF, labels):
        edge.sender.inline_seconds += 4.0
        return features_BF

    finished = []
    edge.sender.exchange = exchange
    learner = SimpleNamespace(
        begin_epoch=lambda epoch: None,
        rates=lambda progress: None,
        learn=lambda batch, progress, sending: Learned(None, torch.ones(2, 3), finished.append),
    )
    epochs = [Epoch(number, learns=True, sends=True, splits=("train",)) for number in range(2)]
    seconds: list[float] = []
    assert edge._fit(learner, "train", epochs, 0, lambda predictions, busy: seconds.append(busy))
    counts = edge.state.counts
    assert (counts.data_busy, counts.data_wait) == (2.0, 1.0), "over both epochs"
    assert counts.busy == 6 * (10 - 4) and seconds == [18.0, 18.0] and len(finished) == 6
    assert counts.processor == 6 * 3, "without the time in which other programs had the processor"
    assert edge.monitor.bars[-1] == ("train", 6, 6)


def test_a_release_counts_the_epochs_in_which_a_frozen_front_sends(edge) -> None:
    config = load_config({"schedule": "two-stage", "epochs": 2, "train": {"front_epochs": 3}})
    edge.epochs = get_schedule("two-stage").epochs(config)
    edge.learner = SimpleNamespace(infer=lambda batch: (torch.ones(2, 3), None))
    for epoch in edge.epochs[3:]:
        assert edge._send_split(epoch, "train")
    assert edge.monitor.bars == [("release train", done, 6) for done in range(1, 7)] and len(edge.sent) == 6
    edge._stop.set()
    assert not edge._send_split(edge.epochs[-1], "train") and len(edge.sent) == 6
