"""The edge's files at the end of a run: each fact has its place."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.artifacts.results import Figures
from smartedge.artifacts.run import SharedRun
from smartedge.artifacts.summary import EdgeSummary
from smartedge.codec import get_codec
from smartedge.config import load_config
from smartedge.data import DataSet
from smartedge.data.dataset import Split
from smartedge.edge import summary
from smartedge.edge.sender import Traffic
from smartedge.edge.state import Counts
from smartedge.edge.summary import Process, save_samples, summarise, write_shared
from smartedge.methods.base import get_method
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Gaussian
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.types import Task

TASK = Task("single", ("smile",), ("no", "yes"))
FIGURES = Figures(accuracy=0.5, balanced_accuracy=0.25, auroc=None, loss=1.5, base_rate=0.75)


class Store:
    """Images of random pixels."""

    streamed = False

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def read(self, indices: np.ndarray) -> Tensor:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (400, self._channels, 8, 8), dtype=np.uint8)
        return torch.from_numpy(pixels[indices])


def faces(channels: int = 3, train: int = 300) -> DataSet:
    counts = {"train": train, "val": 4, "test": 30}
    splits = {
        name: Split(Store(channels), np.arange(count), torch.zeros(count, dtype=torch.int64), {})  # type: ignore[arg-type]
        for name, count in counts.items()
    }
    return DataSet("faces", TASK, splits, skipped={"damaged": 2}, notes=("a note",))  # type: ignore[arg-type]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Two training images were released twice, a test image three times."""
    noise = Gaussian((2, 2, 2), 1.0, 5.0, 1e-5)
    ledger = Ledger(tmp_path / "ledger.sqlite", "run", policy=noise.policy(), budget=Budget(9.0, 1e-5), existing=False)
    made = Gate(
        noise, ledger, Noise(bytes(32)), task=None, label_epsilon=None, training_only=False, front_is_final=True
    )
    for seq, split in enumerate(["train"] * 2 + ["test"] * 3):
        features_BF = np.full((2, 2, 2, 2), seq / 9, np.float32)
        made.release(np.arange(2), features_BF, np.zeros(2, np.int64), split=split, seq=seq)
    return made


@pytest.fixture
def of_a_run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., EdgeSummary]:
    """``of_a_run(gate, ...)``: the summary of a run whose figures all differ."""
    monkeypatch.setattr(summary, "peak_rss_bytes", lambda: 2000)
    clock = SimpleNamespace(monotonic=lambda: 15.0, time=lambda: 3.0)  # the machine's clock was set back meanwhile
    monkeypatch.setattr("smartedge.artifacts.summary.time", clock)

    def make(
        gate: Gate | None = None,
        *,
        method: str = "hierarchical",
        given: bool = False,
        finished: bool = True,
        frozen: tuple[bool, ...] = (False, False),
        dataset: DataSet | None = None,
        processor_counts: bool = True,
    ) -> EdgeSummary:
        front = nn.Linear(1, 1)
        for parameter, stays in zip(front.parameters(), frozen, strict=True):
            parameter.requires_grad_(not stays)
        learner = SimpleNamespace(feature_shape=(2, 3, 4), modules={"front": front})
        counts = Counts(2, 5, 11.0, 10.0, 12.0, 13.0, FIGURES, FIGURES.model_copy(update={"loss": 2.5}))
        counts.traffic = Traffic({"train": 14}, {"train": 15}, {"train": 16}, "socket", 17.0, 18.0, 19.0)
        return summarise(
            Process(
                threaded=True,
                processor_counts=processor_counts,
                epochs_before=3,
                started=80.0,
                begun=5.0,
                rss_bytes=1000,
            ),
            counts,
            get_method(method),
            dataset or faces(),
            gate,
            learner,  # type: ignore[arg-type]
            given=given,
            finished=finished,
        )

    return make


def test_every_figure_is_in_its_place(of_a_run: Callable[..., EdgeSummary], gate: Gate) -> None:
    found = of_a_run(gate)
    assert found.threaded and found.finished
    assert (found.session.started, found.session.ended, found.session.epochs) == (80.0, 90.0, 4), "7, of which 3 before"
    assert found.processor_seconds == 10.0 and of_a_run(gate, processor_counts=False).processor_seconds is None
    assert (found.busy_seconds, found.data_wait_seconds, found.data_busy_seconds) == (11.0, 12.0, 13.0)
    assert found.test == FIGURES and found.teacher_val is not None and found.teacher_val.loss == 2.5
    assert (found.traffic.up, found.traffic.link_seconds) == ({"train": 14}, 19.0)
    assert found.feature_shape == (2, 3, 4) and (found.task.columns, found.task.names) == (TASK.columns, TASK.names)
    assert (found.images, found.skipped) == ({"train": 300, "val": 4, "test": 30}, {"damaged": 2})
    assert found.notes == ("a note",) and (found.peak_rss_bytes, found.baseline_rss_bytes) == (2000, 1000)
    assert found.releases_per_image == 2, "of a training image"
    assert found.privacy is not None and found.privacy.releases_max == 3


def test_a_run_that_has_not_finished_states_no_guarantee(of_a_run: Callable[..., EdgeSummary], gate: Gate) -> None:
    for found in (of_a_run(gate, finished=False), of_a_run(None)):
        assert (found.releases_per_image, found.privacy) == (0, None)


@pytest.mark.parametrize(
    ("how", "front"),
    [
        ({}, "trained"),
        ({"frozen": (True, False)}, "trained"),
        ({"frozen": (True, True)}, "frozen"),
        ({"frozen": (True, True), "given": True}, "given"),
    ],
)
def test_the_summary_says_what_the_front_learned_from_the_images(
    of_a_run: Callable[..., EdgeSummary], gate: Gate, how: dict[str, object], front: str
) -> None:
    found = of_a_run(gate, **how).privacy
    assert found is not None and found.front == front


def test_bytes_for_comparison_are_those_of_one_image(of_a_run: Callable[..., EdgeSummary]) -> None:
    for count in (300, 5):  # of no more than 256 images
        found = of_a_run(dataset=faces(train=count)).reference_bytes
        looked_at = min(count, 256)
        payload, side = get_codec("jpeg").encode(Store(3).read(np.arange(looked_at)).numpy())
        assert found.jpeg_q90 == (len(payload) + len(side)) / looked_at
        assert (found.raw_uint8, found.feature_float32) == (3 * 8 * 8, 4 * 2 * 3 * 4)
    assert of_a_run(method="upload").reference_bytes.feature_float32 is None, "no features are sent"


def test_other_channels_than_three_are_grey_pictures_of_the_same_quality(of_a_run: Callable[..., EdgeSummary]) -> None:
    found = of_a_run(dataset=faces(channels=2, train=3)).reference_bytes
    size = 0
    for plane in Store(2).read(np.arange(3)).numpy().reshape(-1, 8, 8):
        Image.fromarray(plane).save(file := io.BytesIO(), "JPEG", quality=90)
        size += len(file.getvalue())
    assert (found.jpeg_q90, found.raw_uint8) == (size / 3, 2 * 8 * 8)


def test_the_first_test_images_are_kept_for_the_report(tmp_path: Path) -> None:
    save_samples(tmp_path, faces())
    kept = load_file(tmp_path / "samples.safetensors")
    assert kept["ids"].tolist() == list(range(24)) and len(kept["images"]) == len(kept["labels"]) == 24


def test_what_a_server_needs_holds_no_column_that_is_to_be_hidden(tmp_path: Path) -> None:
    config = load_config({"data": {"desired": "smile", "sensitive": ["club"]}})
    write_shared(tmp_path / "shared", config, TASK, (2, 3, 4))
    found = SharedRun.read(tmp_path / "shared" / "run.json")
    assert (found.settings, found.feature_shape) == (config.agreement(), (2, 3, 4))
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o700
    assert found.task.names == ("0", "1") and "club" not in (tmp_path / "shared" / "run.json").read_text()
