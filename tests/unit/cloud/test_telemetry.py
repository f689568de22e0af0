"""The figures that the cloud tells of itself, each with its kind, value and text: a public interface."""

from __future__ import annotations

import dataclasses
from unittest.mock import create_autospec

import numpy as np
import pytest
from small_cloud import CONFIG, HEADER, VAL

from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.telemetry import cloud_telemetry
from smartedge.codec import get_codec, pack
from smartedge.errors import FrameError
from smartedge.privacy.release import release
from smartedge.runs.progress import Quiet
from smartedge.runs.telemetry import Figure
from smartedge.types import Frame
from smartedge.wire.frame import serialise
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.link import UNNAMED_EDGE
from smartedge.wire.memory import MemoryLink
from smartedge.wire.sockets import ByteCount

RECEIVER = create_autospec(GrpcReceiver, instance=True, refusals=7)
RECEIVER.counters.return_value = {
    UNNAMED_EDGE: ByteCount(1000, 30, "kernel tcp_info"),
    "a stranger": ByteCount(5, 6, "payload"),
}


def counter(name: str, text: str, value: object) -> Figure:
    return Figure(name, text, "counter", value)  # type: ignore[arg-type]


def gauge(name: str, text: str, value: object) -> Figure:
    return Figure(name, text, "gauge", value)  # type: ignore[arg-type]


def send_training_frames(runner: CloudRunner | Receiving) -> MemoryLink:
    """Both frames of ``HEADER``; then the stream of the validation images is open."""
    link = MemoryLink(runner.ingest)
    for seq in range(link.open(HEADER), HEADER.end_seq):
        batch = pack(
            release(np.arange(4), np.full((4, 256, 2, 2), seq, np.float32), np.array([0, 1, 0, 1])), get_codec("uint8")
        )
        link.write(serialise(Frame(seq, batch), HEADER))
    link.close()
    link.open(VAL)
    return link


def of_edge(value: float) -> dict[str, float]:
    return {UNNAMED_EDGE: value}


def test_every_figure(tmp_path) -> None:
    runner = CloudRunner(CONFIG, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    telemetry = cloud_telemetry(runner, RECEIVER)  # type: ignore[arg-type]
    assert [figure for figure in telemetry.figures() if figure.value not in ({}, 0.0)] == [
        counter("cloud_refused_calls", "Calls of anybody that were refused or broke off", 7.0)
    ]
    send_training_frames(runner)
    with pytest.raises(FrameError):
        runner.ingest.accept(UNNAMED_EDGE, dataclasses.replace(VAL, batch_size=64))
    trainer, log = runner.trainer, runner.learning.logs[UNNAMED_EDGE]
    assert trainer is not None and trainer.latest_loss is not None and log.total_bytes > 0
    assert list(telemetry.figures()) == [
        counter("cloud_frames", "Frames in the log of an edge", of_edge(2.0)),
        counter("cloud_images", "Images that came since the cloud was started", of_edge(8.0)),
        counter("cloud_refused", "Streams and frames of a known edge that were refused", of_edge(1.0)),
        gauge("cloud_store_bytes", "Size of the log of an edge", of_edge(float(log.total_bytes))),
        gauge("cloud_watermark_frames", "Frames before this number are durable", of_edge(2.0)),
        gauge("cloud_stream_open", "Whether a stream of the edge is open", of_edge(1.0)),
        gauge("cloud_edges_done", "Edges that have sent everything", 0.0),
        gauge("cloud_complete", "Whether nothing more is taken in", 0.0),
        gauge("cloud_lag_frames", "Frames that wait to be learned from", of_edge(0.0)),
        counter("cloud_refused_calls", "Calls of anybody that were refused or broke off", 7.0),
        counter("cloud_received_bytes", "Bytes from an edge, at the socket", of_edge(1000.0)),
        counter("cloud_sent_bytes", "Bytes to an edge, at the socket", of_edge(30.0)),
        gauge("cloud_step", "Updates of the back", 2.0),
        gauge("cloud_epoch", "Epochs completed", 0.0),
        gauge("cloud_loss", "Training loss of the latest step", trainer.latest_loss.item()),
    ]
    runner.close()


def test_frames_wait_where_other_processes_train_and_there_is_no_step(tmp_path) -> None:
    receiving = Receiving(CONFIG, tmp_path / "run" / "cloud", Quiet(), resume=False, start=None)
    send_training_frames(receiving)
    handover = receiving.ingest.handover
    with handover.changed:
        handover.complete = True
    told = {figure.name: figure.value for figure in cloud_telemetry(receiving, RECEIVER).figures()}  # type: ignore[arg-type]
    assert told["cloud_lag_frames"] == of_edge(2.0) and told["cloud_complete"] == 1.0
    assert not {"cloud_step", "cloud_epoch", "cloud_loss"} & told.keys()
    receiving.ingest.close()


def test_trouble_is_named(tmp_path) -> None:
    runner = CloudRunner(CONFIG, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    telemetry = cloud_telemetry(runner, RECEIVER)  # type: ignore[arg-type]
    assert telemetry.trouble() == []
    handover = runner.ingest.handover
    with handover.changed:
        handover.failure, handover.quarantined = RuntimeError("bad"), {"b": 3, "a": 1}
    assert telemetry.trouble() == ["training has failed", "edge a is in quarantine", "edge b is in quarantine"]
    runner.close()
