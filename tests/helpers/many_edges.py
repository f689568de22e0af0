"""A cloud with several edges in one process: each edge is a thread that sends seeded frames over a link in memory."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from headers import stream_header
from numpy.typing import NDArray

from smartedge.artifacts.fleet_run import OrderLine
from smartedge.cloud.runner import CloudRunner
from smartedge.codec import get_codec, pack
from smartedge.config import Config, load_config
from smartedge.methods.schedules import get_schedule
from smartedge.privacy.release import release
from smartedge.runs.progress import Quiet
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink

SHAPE = (512, 1, 1)
SIZE = 4  # images in a frame


def fleet_config(**changes: Any) -> Config:
    """A back of one linear layer behind the cut, float32 features."""
    return load_config(
        {
            "epochs": 2,
            "data": {"image_size": 32},
            "model": {"name": "narrow:build", "cut": "layer4", "bottleneck": None},
            "train": {"batch_size": SIZE, "lr": 0.01},
            "codec": {"name": "float32"},
            "hardware": {"cloud_device": "cpu"},
            "fleet": {"patience": 30.0},
        },
        changes,
    )


@dataclasses.dataclass
class SimulatedEdge:
    """An edge that sends ``steps`` training frames per epoch, a validation frame, and a test frame."""

    name: str
    config: Config
    steps: int = 3
    seed: int = 0
    wrong_labels: bool = False
    shape: tuple[int, ...] = SHAPE
    mostly: int | None = None  # most training images are of this class
    share: float = 0.9  # how many of them
    tests: int = 1  # test frames

    @property
    def size(self) -> int:
        """Images in a frame."""
        return self.config.train.batch_size

    def streams(self) -> list[StreamHeader]:
        made: list[StreamHeader] = []
        for epoch, split in get_schedule(self.config.schedule).streams(self.config):
            made.append(
                stream_header(
                    run=f"run of {self.name}",
                    agreement=json.dumps(self.config.agreement()),
                    feature_shape=self.shape,
                    codec=self.config.codec_name,
                    batch_size=self.size,
                    epoch=epoch,
                    split=split,
                    frames={"train": self.steps, "val": 1, "test": self.tests}[split],
                    first_seq=made[-1].end_seq if made else 0,
                    train_steps=self.steps,
                )
            )
        return made

    def frame(self, seq: int, split: str = "train") -> Frame:
        """One frame; the seed and its number say what is in it."""
        rng = np.random.default_rng((self.seed, seq))
        labels = rng.integers(0, 2, self.size)
        if self.mostly is not None and split == "train":
            labels = np.where(rng.random(self.size) < self.share, self.mostly, 1 - self.mostly)
        features_BF = self.features(labels, rng)
        sent = 1 - labels if self.wrong_labels and split == "train" else labels
        return Frame(
            seq,
            pack(release(np.arange(self.size) + self.size * seq, features_BF, sent), get_codec(self.config.codec_name)),
        )

    def features(self, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        """Two classes, apart along one direction."""
        features_BF = rng.normal(size=(self.size, *self.shape)).astype(np.float32)
        features_BF[:, :8] += (2.0 * labels - 1)[:, None, None, None]
        return features_BF

    def send(self, runner: CloudRunner, *, before: Callable[[StreamHeader], None] = lambda header: None) -> None:
        link = MemoryLink(runner.ingest, self.name)
        for header in self.streams():
            before(header)
            for seq in range(link.open(header), header.end_seq):
                link.write(serialise(self.frame(seq, header.split), header))
            link.close()


def edges_of(config: Config, count: int, **facts: Any) -> list[SimulatedEdge]:
    return [SimulatedEdge(f"edge{number}", config, seed=number, **facts) for number in range(count)]


def run_fleet(
    config: Config, folder: Path, edges: Sequence[SimulatedEdge], *, resume: bool = False, **before: Any
) -> CloudRunner:
    """Run the cloud while all edges send at once, to the end; the runner is closed."""
    runner = CloudRunner(config, folder, Quiet(), resume=resume, inline=False)
    failures: list[BaseException] = []

    stop = threading.Event()

    def work(edge: SimulatedEdge) -> None:
        try:
            edge.send(runner, **before)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(edge,)) for edge in edges]
    for thread in threads:
        thread.start()
    try:
        ended = runner.run(stop)
    finally:
        for thread in threads:
            thread.join(timeout=60)
        runner.close()
    assert not failures, failures
    assert ended
    return runner


def lines_of(folder: Path) -> Iterator[OrderLine]:
    for line in (folder / "order.jsonl").read_text().splitlines():
        yield OrderLine.model_validate_json(line)
