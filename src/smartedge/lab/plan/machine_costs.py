"""Measures the costs that do not depend on the network: a frame over loopback, a checkpoint on disk."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from smartedge.artifacts.profile import CheckpointCost, Transport
from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.edge.spool import Spool
from smartedge.runs.checkpoint import Checkpoints
from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.frame import serialise
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver

__all__ = ["BETWEEN_FRAMES_S", "checkpoint_cost", "transport_cost"]

BETWEEN_FRAMES_S = 0.02  # in a run the edge computes then; a thread that slept meanwhile costs more than a busy one


def checkpoint_cost(folder: Path) -> CheckpointCost:
    """Seconds per checkpoint and per byte, from a small one and a large one."""
    seconds: dict[int, float] = {}
    for numbers in (2**14, 2**23):  # 64 KiB, 32 MiB
        store, state = Checkpoints(folder / str(numbers)), {"weights": torch.zeros(numbers)}
        tries = []
        for number in range(3):
            begun = time.perf_counter()
            store.save(number, state)
            tries.append(time.perf_counter() - begun)
        seconds[4 * numbers] = statistics.median(tries)
    fixed, per_byte = _line(seconds)
    return CheckpointCost(seconds=fixed, seconds_per_byte=per_byte)


def transport_cost(folder: Path, repeats: int) -> Transport:
    """Seconds per frame and per byte from spool over loopback to log, from small frames and large ones."""
    wall: dict[int, float] = {}
    cpu: dict[int, float] = {}
    frames, batch = min(4 * repeats, 31), 64
    for numbers in (16, 4096):
        shape, payload = (numbers,), np.random.default_rng(0).standard_normal((batch, numbers), np.float32).tobytes()
        encoded = EncodedBatch(np.arange(batch), np.zeros(batch, np.int64), payload, b"")
        header = StreamHeader.of(
            run="profile",
            agreement={},
            task=Task("single", ("label",), ("no", "yes")),
            codec="float32",
            feature_shape=shape,
            batch_size=batch,
            split="train",
            frames=frames,
        )
        log, spool = FeatureLog(folder / f"log-{numbers}"), Spool(folder / f"spool-{numbers}", waiting=lambda why: None)
        receiver = GrpcReceiver(StoreHandler(log), "127.0.0.1")
        receiver.start()
        link = GrpcLink(f"127.0.0.1:{receiver.port}")
        try:
            link.open(header)
            spool.open(header)
            begun, begun_cpu = time.perf_counter(), time.process_time()
            for seq in range(frames):
                time.sleep(BETWEEN_FRAMES_S)
                spool.write(serialise(Frame(seq, encoded), header))
                link.write(spool.message(seq))
            spool.sync()
            link.close()
            wall[len(payload)] = (time.perf_counter() - begun) / frames - BETWEEN_FRAMES_S
            cpu[len(payload)] = (time.process_time() - begun_cpu) / frames
        finally:
            link.disconnect()
            receiver.close()
            spool.close()
            log.close()
    fixed, per_byte = _line(wall)
    fixed_cpu, per_byte_cpu = _line(cpu)
    return Transport(
        seconds_per_frame=fixed,
        seconds_per_byte=per_byte,
        cpu_seconds_per_frame=fixed_cpu,
        cpu_seconds_per_byte=per_byte_cpu,
    )


def _line(seconds: dict[int, float]) -> tuple[float, float]:
    """Intercept and slope through two points (bytes, seconds), neither below zero."""
    (few, short), (many, long) = sorted(seconds.items())
    slope = max(0.0, (long - short) / (many - few))
    return max(0.0, short - slope * few), slope
