"""Whole runs of an edge with a front of one layer, in this process: what it sends, writes, tells and goes on from."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.artifacts.metrics import read_metrics
from smartedge.artifacts.run import Confirmed, SharedRun
from smartedge.artifacts.summary import EdgeSummary
from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.config import Config, load_config
from smartedge.data import DataSet
from smartedge.data.dataset import Split
from smartedge.edge.images import Images
from smartedge.edge.runner import EdgeRunner
from smartedge.errors import CutError, RunError
from smartedge.models.exits import TaskExit
from smartedge.models.network import Divided, EdgeParts
from smartedge.models.zoo.weights import Loaded, Pixels, Rescale
from smartedge.runs.progress import Quiet, Update
from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.frame import ReceivedFrame
from smartedge.wire.memory import MemoryLink

TASK = Task("single", ("smile",), ("no", "yes"))
COUNTS = {"train": 9, "val": 5, "test": 6}  # in batches of four: 2, 2 and 2 steps
SETTINGS = {
    "epochs": 2,
    "data": {"path": "faces", "image_size": 8},
    "model": {"bottleneck": "2x2x2", "exit": {"width": 4, "depth": 1}},
    "train": {"batch_size": 4},
    "codec": {"name": "float32"},
    "hardware": {"edge_device": "cpu"},
}


class Store:
    """Dark and light images."""

    streamed = False

    def shuffled(self, indices: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return random.permutation(len(indices))

    def read(self, indices: np.ndarray) -> Tensor:
        pixels = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8) // 4
        return torch.stack([pixels + 20 * int(index) for index in indices])


@pytest.fixture
def faces() -> DataSet:
    splits = {name: Split(Store(), np.arange(n), torch.arange(n) % 2, {}) for name, n in COUNTS.items()}  # type: ignore[arg-type]
    return DataSet("faces", TASK, splits)  # type: ignore[arg-type]


class Told(Quiet):
    """Keeps what was told, and stops the run at an update."""

    runner: EdgeRunner

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.stop, self.stop_at = threading.Event(), stop_at
        self.bars: list[tuple[str, int, int, str]] = []
        self.lines: list[tuple[str, str]] = []

    def update(self, update: Update) -> None:
        assert update.side == "edge"
        if update.total:
            self.bars.append((update.phase, update.done, update.total, update.text))
        else:
            self.lines.append((update.phase, update.text))
        if (update.phase, update.done) == self.stop_at:
            if self.runner.sender is not None:
                written = threading.Event()
                self.runner.sender.when_durable(written.set)
                assert written.wait(timeout=30), "of what was sent before, nothing is lost"
            self.stop.set()


class Link(MemoryLink):
    """Keeps the headers of the streams that are opened."""

    def __init__(self, log: FeatureLog) -> None:
        super().__init__(StoreHandler(log))
        self.opened: list[StreamHeader] = []

    def open(self, header: StreamHeader) -> int:
        self.opened.append(header)
        return super().open(header)


def parts(front: nn.Module | None = None) -> EdgeParts:
    torch.manual_seed(1)
    front = front or nn.Sequential(nn.Conv2d(3, 2, 4, stride=4), nn.Dropout(0.5))
    return EdgeParts(front, TaskExit((2, 2, 2), 2, width=4, depth=1), (2, 2, 2), "channels-first")


@pytest.fixture
def edge_of(tmp_path: Path, faces: DataSet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EdgeRunner]]:
    """``edge_of(told, run="run", threaded=..., schedule=...)``: an edge that sends to a store beside its folder."""
    monkeypatch.setattr("smartedge.runs.record._open_board", lambda *_: None)
    with contextlib.ExitStack() as logs:
        opened: dict[str, FeatureLog] = {}

        def make(
            told: Told,
            run: str = "run",
            *,
            threaded: bool = False,
            resume: bool = False,
            given: EdgeParts | None = None,
            **changes: object,
        ) -> EdgeRunner:
            config = load_config({**SETTINGS, "run_dir": str(tmp_path / run)}, changes)
            if run not in opened:
                opened[run] = logs.enter_context(contextlib.closing(FeatureLog(tmp_path / f"store of {run}")))
            link = Link(opened[run]) if config.method != "local" else None
            folder, given = config.run_dir / "edge", given or parts()
            told.runner = EdgeRunner(config, faces, link, folder, told, resume=resume, threaded=threaded, parts=given)
            return told.runner

        yield make


def log_of(runner: EdgeRunner) -> FeatureLog:
    log = runner.sender.link._handler.log
    assert isinstance(log, FeatureLog)
    return log


def streams_of(runner: EdgeRunner) -> list[tuple[str, int, int, int]]:
    return [(each.split, each.epoch, each.first_seq, each.frames) for each in log_of(runner).streams]


def ids_of(runner: EdgeRunner) -> list[list[int]]:
    return [frame.batch.ids.tolist() for frame in log_of(runner).frames()]


def features_of(runner: EdgeRunner) -> list[np.ndarray]:
    payloads = [frame.batch.payload for frame in log_of(runner).frames()]
    return [np.frombuffer(payload, np.float32).reshape(-1, 2, 2, 2) for payload in payloads]


def rows_of(runner: EdgeRunner) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"time", "seconds"}) for row in read_metrics(runner.folder / "metrics.jsonl")]


def summary_of(runner: EdgeRunner) -> EdgeSummary:
    return EdgeSummary.read(runner.folder / "summary.json")


WHOLE = [[0, 1, 2, 3], [4]], [[0, 1, 2, 3], [4, 5]]  # val, test


def trained_on(config: Config, faces: DataSet, epoch: int) -> list[list[int]]:
    return [batch.ids.tolist() for batch in Images(config, faces).training(epoch)]


def test_an_edge_that_learns_sends_each_epoch_as_it_comes(edge_of: Callable[..., EdgeRunner], faces: DataSet) -> None:
    told = Told()
    runner = edge_of(told)
    assert runner.run(told.stop)
    assert streams_of(runner) == [
        ("train", 0, 0, 2),
        ("val", 0, 2, 2),
        ("train", 1, 4, 2),
        ("val", 1, 6, 2),
        ("test", 1, 8, 2),
    ]
    assert {each.train_steps for each in log_of(runner).streams} == {2}
    val, test = WHOLE
    first, second = (trained_on(runner.config, faces, epoch) for epoch in (0, 1))
    assert first != second and ids_of(runner) == [*first, *val, *second, *val, *test]
    assert all((frame.batch.labels == frame.batch.ids % 2).all() for frame in log_of(runner).frames())
    assert [(row["epoch"], row["split"]) for row in rows_of(runner)] == [
        (0, "train"),
        (0, "val"),
        (1, "train"),
        (1, "val"),
        (1, "test"),
    ]
    assert [line for line in told.lines if line[0] == "epoch"] == [
        (
            "epoch",
            f"epoch {epoch + 1}/2, {split}: loss {row['loss']:.3f}, balanced accuracy "
            f"{100 * row['balanced_accuracy']:.1f} %",
        )
        for (epoch, split), row in zip(
            [(row["epoch"], row["split"]) for row in rows_of(runner)], rows_of(runner), strict=True
        )
        if split != "train"
    ]
    (bar,) = told.bars
    assert bar[:3] == ("train", 4, 4) and bar[3].startswith("epoch 2/2 loss ")


def test_what_an_edge_writes_at_its_end_is_of_its_last_weights(
    edge_of: Callable[..., EdgeRunner], faces: DataSet
) -> None:
    runner = edge_of(Told())
    assert runner.run(threading.Event())
    front, task_exit = (module.eval() for module in parts().__dict__.values() if isinstance(module, nn.Module))
    begun = front[0].weight.detach().clone()
    front.load_state_dict(load_file(runner.folder / "front.safetensors"), strict=True)
    task_exit.load_state_dict(load_file(runner.folder / "exit.safetensors"), strict=True)
    assert not torch.equal(begun, front[0].weight), "it has learned"
    images = faces.splits["test"].read(np.arange(6))
    with torch.no_grad():
        features = front((images.images_BCHW.float() / 255 - 0.5) / 0.25)
        logits = task_exit(features)
    np.testing.assert_allclose(np.concatenate(features_of(runner)[-2:]), features.numpy(), rtol=0, atol=1e-6)
    told = load_file(runner.folder / "predictions.safetensors")
    assert told["ids"].tolist() == list(range(6)) and torch.equal(told["labels"], images.labels)
    torch.testing.assert_close(told["scores"], logits.softmax(1), rtol=0, atol=1e-6)
    summary, row = summary_of(runner), rows_of(runner)[-1]
    assert summary.test is not None and summary.test.loss == row["loss"]
    assert row["loss"] == pytest.approx(nn.functional.cross_entropy(logits, images.labels).item(), abs=1e-6)
    assert row["accuracy"] == (logits.argmax(1) == images.labels).float().mean().item()
    assert summary.finished and not summary.threaded and summary.session.epochs == 2
    assert summary.traffic.images == {"train": 16, "val": 10, "test": 6}
    assert summary.privacy is not None and summary.releases_per_image == 2
    assert load_file(runner.folder / "samples.safetensors")["ids"].tolist() == list(range(6))
    shared = SharedRun.read(runner.folder.parent / "shared" / "run.json")
    assert (shared.feature_shape, shared.settings) == ((2, 2, 2), runner.config.agreement())


def test_a_frozen_front_sends_the_same_features_in_each_epoch(
    edge_of: Callable[..., EdgeRunner], faces: DataSet
) -> None:
    told = Told()
    runner = edge_of(told, schedule="two-stage", train={"front_epochs": 1})
    assert runner.run(told.stop)
    assert streams_of(runner) == [
        ("train", 1, 0, 2),
        ("val", 1, 2, 2),
        ("train", 2, 4, 2),
        ("val", 2, 6, 2),
        ("test", 2, 8, 2),
    ]
    val, test = WHOLE
    assert ids_of(runner) == [*trained_on(runner.config, faces, 1), *val, *trained_on(runner.config, faces, 2), *val,
                              *test]  # fmt: skip
    sent = features_of(runner)
    assert all(np.array_equal(*pair) for pair in zip(sent[2:4], sent[6:8], strict=True))
    assert [(row["epoch"], row["split"]) for row in rows_of(runner)] == [(0, "train"), (0, "val"), (0, "test")]
    assert [bar[:3] for bar in told.bars if bar[0] == "release val"] == [("release val", n, 4) for n in range(1, 5)]
    assert [text.split(":")[0] for phase, text in told.lines if phase == "epoch"] == [
        "epoch 1/1, val",
        "epoch 1/1, test",
    ]
    assert summary_of(runner).session.epochs == 3


def test_an_edge_that_releases_once_sends_the_images_as_they_are(edge_of: Callable[..., EdgeRunner]) -> None:
    runner = edge_of(Told(), schedule="freeze-and-log", epochs=1)
    assert runner.run(threading.Event())
    assert streams_of(runner) == [("train", 1, 0, 3), ("val", 1, 3, 2), ("test", 1, 5, 2)]
    assert ids_of(runner) == [[0, 1, 2, 3], [4, 5, 6, 7], [8], *WHOLE[0], *WHOLE[1]]


@pytest.mark.parametrize(
    ("threaded", "schedule", "stop_at", "left"),
    [
        (True, "joint", ("train", 4), 1),
        (False, "two-stage", ("release train", 2), 2),
        (True, "two-stage", ("release val", 3), 1),
    ],
)
def test_an_edge_that_was_stopped_goes_on_at_its_newest_checkpoint(
    edge_of: Callable[..., EdgeRunner], threaded: bool, schedule: str, stop_at: tuple[str, int], left: int
) -> None:
    """Stopped in the last epoch of training, or of the release."""
    settings = {
        "schedule": schedule,
        "threaded": threaded,
        **({} if schedule == "joint" else {"train": {"front_epochs": 1}}),
    }
    whole = edge_of(Told(), "whole", **settings)
    assert whole.run(threading.Event())
    told = Told(stop_at)
    stopped = edge_of(told, **settings)
    assert not stopped.run(told.stop)
    half, again = summary_of(stopped), edge_of(Told(), resume=True, **settings)
    assert (again.state.run, again.state.counts.epochs) == (stopped.state.run, half.session.epochs)
    assert again.run(threading.Event())
    assert (rows_of(again), streams_of(again)) == (rows_of(whole), streams_of(whole))
    assert ids_of(again) == ids_of(whole)
    assert all(np.array_equal(*pair) for pair in zip(features_of(again), features_of(whole), strict=True))
    ended = summary_of(again)
    assert not half.finished and ended.finished and ended.session.epochs == left
    assert ended.threaded == threaded and ended.traffic.images == summary_of(whole).traffic.images


def test_an_edge_that_goes_on_in_one_process_sends_what_its_spool_holds_first(
    edge_of: Callable[..., EdgeRunner],
) -> None:
    settings = {"schedule": "two-stage", "train": {"front_epochs": 1}, "epochs": 3}
    whole = edge_of(Told(), "whole", **settings)
    assert whole.run(threading.Event())
    told = Told(("release train", 3))
    assert not edge_of(told, threaded=True, **settings).run(told.stop)
    again = edge_of(Told(), resume=True, **settings)
    assert again.shipper is None and again.run(threading.Event())
    assert ids_of(again) == ids_of(whole)
    assert Confirmed.read(again.folder / "confirmed.json").spooled is False


def test_an_edge_with_a_spool_keeps_all_of_its_last_epoch_and_one_without_needs_no_such_checkpoint(
    edge_of: Callable[..., EdgeRunner],
) -> None:
    for threaded, kept in ((True, 2), (False, 1)):
        runner = edge_of(Told(), f"threaded {threaded}", threaded=threaded)
        assert runner.run(threading.Event()) and streams_of(runner)[-1] == ("test", 1, 8, 2)
        confirmed = Confirmed.read(runner.folder / "confirmed.json")
        assert (confirmed.checkpoint, confirmed.spooled) == (kept, threaded)
        assert (runner.folder / "spool").exists() == threaded
        assert summary_of(runner).threaded == threaded


def test_a_teacher_is_trained_first_and_judged(
    edge_of: Callable[..., EdgeRunner], faces: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartedge.methods.local.undivided", lambda _: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    told = Told()
    runner = edge_of(told, train={"distill": {"epochs": 3}})
    assert runner.run(told.stop)
    assert [bar[:3] for bar in told.bars] == [("teach", 4, 6), ("teach", 6, 6), ("train", 4, 4)]
    teacher = nn.Linear(192, 2)
    weights = load_file(runner.folder / "teacher.safetensors")
    teacher.load_state_dict({name.split(".")[1]: tensor for name, tensor in weights.items()}, strict=True)
    images = faces.splits["val"].read(np.arange(5))
    with torch.no_grad():
        logits = teacher(((images.images_BCHW.float() / 255 - 0.5) / 0.25).flatten(1))
    figures, summary = summary_of(runner).teacher_val, summary_of(runner)
    assert figures is not None
    assert figures.loss == pytest.approx(nn.functional.cross_entropy(logits, images.labels).item(), abs=1e-5)
    assert rows_of(runner)[0]["distillation_loss"] > 0
    assert summary.session.epochs == 5 and {row["epoch"] for row in rows_of(runner)} == {0, 1}
    assert not (runner.folder / "network.safetensors").exists()

    monkeypatch.setattr("smartedge.edge.state.EdgeState.keep_teacher", lambda _: pytest.fail("it is trained already"))
    again = edge_of(told, resume=True, train={"distill": {"epochs": 3}})
    assert again.state.counts.taught == 3


def test_a_folder_that_holds_a_run_is_not_begun_again(edge_of: Callable[..., EdgeRunner]) -> None:
    assert edge_of(Told()).run(threading.Event())
    with pytest.raises(RunError, match="--resume"):
        edge_of(Told())


class Rounding(nn.Conv2d):
    """Its parameters get no gradient."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return super().forward(images_BCHW).detach()


def test_what_does_not_learn_is_told(edge_of: Callable[..., EdgeRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    half = nn.Conv2d(3, 2, 4, stride=4)
    half.bias.requires_grad_(False)
    pixels = Pixels((0.5,) * 3, (0.25,) * 3)
    loaded = Rescale(pixels, Loaded("a file", 7, (), pixels, None))
    for front, lines in (
        (nn.Conv2d(3, 2, 4, stride=4), []),
        (nn.Sequential(loaded, nn.Conv2d(3, 2, 4, stride=4)), ["weights: 7 tensors from a file"]),
        (half, ["the network's own code keeps something as it is: 1 of 7 parameters do not learn"]),
        (
            Rounding(3, 2, 4, stride=4),
            ["a part of the network keeps the values that it begins with: 2 of 2 parameters"],
        ),
    ):
        told = Told()
        edge_of(told, type(front).__name__ + str(len(lines)), given=parts(front))
        assert [phase for phase, _ in told.lines] == ["network"] * len(lines)
        assert all(text.startswith(line) for (_, text), line in zip(told.lines, lines, strict=True))
    told = Told()
    edge_of(told, "frozen by the settings", given=parts(half), train={"freeze": ["0"]})
    assert told.lines == []
    for network, error in (
        (nn.Sequential(nn.Flatten(), Untaught(192, 2)), "nothing of the network can be trained"),
        (nn.Conv2d(3, 2, 1), "logits"),
    ):
        monkeypatch.setattr("smartedge.methods.local.undivided", lambda _, network=network: network)
        with pytest.raises(CutError, match=error):
            edge_of(Told(), "local", method="local")


class Untaught(nn.Linear):
    """Its parameters get no gradient."""

    def forward(self, inputs_BD: Tensor) -> Tensor:
        return super().forward(inputs_BD).detach()


def test_an_edge_that_sends_nothing_trains_the_whole_network(
    edge_of: Callable[..., EdgeRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartedge.methods.local.undivided", lambda _: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    told = Told(("train", 4))
    stopped = edge_of(told, method="local")
    assert not stopped.run(told.stop), "within the second epoch"
    runner = edge_of(Told(), method="local", resume=True)
    assert runner.state.counts.done == 1 and runner.run(threading.Event())
    assert [(row["epoch"], row["split"]) for row in rows_of(runner)] == [
        (0, "train"),
        (0, "val"),
        (1, "train"),
        (1, "val"),
        (1, "test"),
    ]
    summary = summary_of(runner)
    assert summary.finished and summary.test is not None and summary.privacy is None
    assert Confirmed.read(runner.folder / "confirmed.json").checkpoint == 2
    assert load_file(runner.folder / "network.safetensors")["1.weight"].shape == (2, 192)


class Answering(StoreHandler):
    """Answers each training frame with a gradient of ones."""

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> Frame | None:
        super().ingest(edge, header, frame)
        if not header.answered:
            return None
        ids = frame.batch.ids
        return Frame(frame.seq, EncodedBatch(ids, None, np.ones((len(ids), 2, 2, 2), np.float32).tobytes(), b""))


@pytest.mark.parametrize("threaded", [False, True])
def test_an_edge_that_waits_for_answers_learns_from_them_and_ends_its_last_stream_again_where_it_is_resumed(
    edge_of: Callable[..., EdgeRunner], monkeypatch: pytest.MonkeyPatch, threaded: bool
) -> None:
    """It has no spool, and cannot know whether the cloud has heard of the end."""
    made = Divided(**{**parts(nn.Conv2d(3, 2, 4, stride=4)).__dict__, "back": nn.Identity()})
    monkeypatch.setattr("smartedge.methods.split.divide", lambda _: made)
    monkeypatch.setattr(f"{__name__}.StoreHandler", Answering)
    runner = edge_of(Told(), method="split", threaded=threaded)
    begun = made.front.bias.detach().clone()
    assert runner.run(threading.Event())
    assert bool((made.front.bias < begun).all()), "against the gradient"
    assert [(each.split, each.answered) for each in runner.sender.link.opened] == [
        ("train", True),
        ("val", False),
        ("train", True),
        ("val", False),
        ("test", False),
    ]
    assert not (runner.folder / "spool").exists() and not summary_of(runner).threaded
    assert {row["split"] for row in rows_of(runner)} == set(), "it has no exit"
    if not threaded:
        return
    assert Confirmed.read(runner.folder / "confirmed.json").checkpoint == 2
    again = edge_of(Told(), method="split", threaded=True, resume=True)
    assert again.run(threading.Event())
    (last,) = again.sender.link.opened
    assert last == runner.sender.link.opened[-1] and (last.split, last.first_seq, last.end_seq) == ("test", 8, 10)
    assert summary_of(again).finished and summary_of(again).session.epochs == 0
