"""What an edge tells of itself while it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from headers import stream_header

from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.codec import get_codec
from smartedge.edge import outage, telemetry
from smartedge.edge.sender import Sender, Traffic
from smartedge.edge.shipper import Shipper
from smartedge.edge.spool import Spool
from smartedge.edge.telemetry import edge_telemetry
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Gaussian, Laplace, Mechanism, Unprotected
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.runs.telemetry import Telemetry
from smartedge.wire.memory import MemoryLink

NOISE = Gaussian((2, 2, 2), 1.0, 5.0, 1e-5)


@pytest.fixture
def make_sender(tmp_path: Path) -> Callable[..., Sender]:
    """``make_sender(mechanism, epsilon)``: of an edge with a spool, whose cloud is not there yet."""

    def make(mechanism: Mechanism = NOISE, epsilon: float = math.inf, apply_to: str = "always") -> Sender:
        path, budget = tmp_path / "ledger.sqlite", Budget(epsilon, 1e-5)
        policy = {**mechanism.policy(), "apply_to": apply_to}
        ledger = Ledger(path, "run", policy=policy, budget=budget, existing=False)
        link = MemoryLink(StoreHandler(FeatureLog(tmp_path / "store")))
        spool = Spool(tmp_path / "spool", max_bytes=2**20, when_full="wait", waiting=lambda why: None)
        spool.begin(0, spooled=True)
        traffic = Traffic()
        shipper = Shipper(spool, link, tmp_path / "shipped.json", traffic, tell=lambda text: None)
        return Sender(
            link,
            get_codec("float32"),
            Gate(
                mechanism,
                ledger,
                Noise(bytes(32)),
                task=None,
                label_epsilon=None,
                training_only=apply_to == "training",
                front_is_final=True,
            ),
            next_seq=0,
            queue_frames=2,
            threaded=False,
            traffic=traffic,
            shipper=shipper,
        )

    return make


def release(sender: Sender, seq: int) -> None:
    sender.send(np.arange(3), np.zeros((3, 2, 2, 2), np.float32), np.zeros(3, np.int64))


def told(asked: Telemetry) -> dict[str, object]:
    return {figure.name: figure.value for figure in asked.figures()}


def test_an_edge_that_sends_nothing_tells_its_epochs() -> None:
    asked = edge_telemetry(None, lambda: 7)
    assert told(asked) == {"edge_epoch": 7.0} and asked.trouble() == []
    assert told(edge_telemetry(None)) == {}


def test_the_budget_that_is_left_is_that_of_the_image_that_spent_most(make_sender, monkeypatch) -> None:
    now = 1000.0
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now)
    sender = make_sender(epsilon=8.0)
    asked = edge_telemetry(sender)
    assert told(asked)["edge_budget_left_epsilon"] == 8.0, "known at once"
    sender.open(stream_header(batch_size=3, frames=4, train_steps=4))
    release(sender, 0)
    spent = sender.gate.ledger.balance().worst().epsilon
    assert 0 < spent < 8
    now += 60.0
    assert told(asked)["edge_budget_left_epsilon"] == 8.0, "the ledger is read once a minute"
    now += 0.1
    assert told(asked)["edge_budget_left_epsilon"] == pytest.approx(8 - spent)


@pytest.mark.parametrize("apply_to", ["always", "training"])
def test_the_budget_that_is_left_is_of_the_images_that_have_one(make_sender, apply_to: str) -> None:
    """The test image spent more. Where its split goes without noise, it has no budget."""
    sender = make_sender(epsilon=8.0, apply_to=apply_to)
    for seq, split in enumerate(("train", "test", "test")):
        sender.gate.release(np.arange(1), np.full((1, 2, 2, 2), seq / 9, np.float32), np.zeros(1), split=split, seq=seq)
    spent = sender.gate.ledger.balance().worst("train" if apply_to == "training" else "test").epsilon
    assert told(edge_telemetry(sender))["edge_budget_left_epsilon"] == pytest.approx(8 - spent)


@pytest.mark.parametrize("made", [(Unprotected((2, 2, 2)),), (Laplace((2, 2, 2), 1.0, 4.0, "element"), 8.0)])
def test_a_ledger_without_a_budget_of_an_image_is_not_read(make_sender, monkeypatch, made) -> None:
    monkeypatch.setattr(telemetry, "read_balance", None)
    assert told(edge_telemetry(make_sender(*made)))["edge_budget_left_epsilon"] is None


def test_a_ledger_that_cannot_be_read_leaves_the_figure_open(make_sender) -> None:
    sender = make_sender(epsilon=8.0)
    sender.gate.ledger.path = sender.gate.ledger.path.with_name("gone")
    assert told(edge_telemetry(sender))["edge_budget_left_epsilon"] is None


def test_what_was_released_waits_and_is_confirmed(make_sender) -> None:
    sender = make_sender()
    sender.traffic.up, sender.traffic.down = {"train": 1000, "val": 200}, {"train": 30}
    sender.open(stream_header(batch_size=3, frames=2, train_steps=2))
    release(sender, 0)
    release(sender, 1)
    sender.close_stream()
    asked = edge_telemetry(sender, lambda: 1)
    before = told(asked)
    counters = {"releases", "sent_bytes", "received_bytes", "frames", "frames_confirmed", "outages"}
    gauges = {"epoch", "budget_left_epsilon", "spool_bytes", "spool_age_seconds", "outage_seconds"}
    assert {(each.name, each.kind) for each in asked.figures()} == {
        *((f"edge_{name}", "counter") for name in counters),
        *((f"edge_{name}", "gauge") for name in gauges),
    }
    assert all(each.help for each in asked.figures())
    assert before["edge_releases"] == {"train": 6.0}
    assert (before["edge_sent_bytes"], before["edge_received_bytes"]) == (1200.0, 30.0)
    assert (before["edge_frames"], before["edge_frames_confirmed"]) == (2.0, 0.0)
    assert before["edge_spool_bytes"] == sender.shipper.spool.total_bytes > 0
    assert (before["edge_outages"], before["edge_outage_seconds"]) == (0.0, 0.0) and asked.trouble() == []
    sender.shipper.ship_all()
    assert told(asked)["edge_frames_confirmed"] == 2.0


def test_an_outage_and_a_full_spool_are_trouble(make_sender, monkeypatch) -> None:
    sender = make_sender()
    asked = edge_telemetry(sender)
    now, over = 1000.0, threading.Event()
    monkeypatch.setattr(outage.time, "monotonic", lambda: now)
    over.set()
    sender.shipper.outage.wait("4 frames are on disk", over)
    now += 61.0
    assert asked.trouble() == ["the cloud has been unreachable for 61 s; 4 frames are on disk"]
    assert (told(asked)["edge_outages"], told(asked)["edge_outage_seconds"]) == (1.0, 61.0)
    sender.shipper.spool.full = True
    assert asked.trouble()[1:] == ["the spool is full, and training waits"]
