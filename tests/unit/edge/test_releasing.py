"""An edge that releases with a published front: what it refuses, and what it sends, also where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from runs import share_key

from smartedge.artifacts.run import Shipped
from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.config import Config, load_config
from smartedge.edge.releasing import Releaser
from smartedge.errors import DataError, FrontError, PrivacyError, RunError
from smartedge.methods.mechanism import mechanism_of
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.noise import Noise
from smartedge.runs.progress import Quiet, Update
from smartedge.types import Task
from smartedge.wire.memory import MemoryLink

COLOURS = {"train": (10, 20, 30, 200, 210), "val": (220,), "test": (15, 120, 230)}  # from 100 on: of class "light"


class Front(SimpleNamespace):
    """The brightness of an image, and an exit that takes an image from half of it on for light."""

    def features(self, pixels_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(pixels_BCHW), 2, 2, 2), pixels_BCHW[:, :1, :1, :1] / 255, np.float32)

    def logits(self, features_BF: NDArray[np.float32], *, released: bool) -> NDArray[np.float32]:
        assert not released
        bright_B = features_BF[:, 0, 0, 0]
        return np.stack([0.5 - bright_B, bright_B - 0.5], axis=1)


class Told(Quiet):
    """Keeps what was told, and stops the release at an update."""

    releaser: Releaser

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.stop, self.lines, self.bars = threading.Event(), list[str](), list[tuple[str, int, int]]()
        self._stop_at = stop_at

    def update(self, update: Update) -> None:
        if update.text:
            self.lines.append(update.text)
        else:
            self.bars.append((update.phase, update.done, update.total))
        if (update.phase, update.done) == self._stop_at:
            written = threading.Event()
            self.releaser.sender.when_durable(written.set)
            assert written.wait(timeout=30), "of what was sent before, nothing is lost"
            self.stop.set()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    weights = tmp_path / "front.safetensors"  # which nobody reads here: the stand-in above is the front
    weights.write_bytes(b"weights")
    return load_config(
        {
            "run_dir": str(tmp_path / "run"),
            "schedule": "freeze-and-log",
            "data": {"image_size": 8},
            "model": {"bottleneck": "2x2x2", "front": str(weights)},
            "train": {"batch_size": 2},
            "codec": {"name": "float32"},
            "dp": {"mechanism": "gaussian", "epsilon": 8.0},
        }
    )


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FeatureLog]:
    with contextlib.closing(FeatureLog(tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    for split, colours in COLOURS.items():
        for colour in colours:
            file = folder / split / ("light" if colour >= 100 else "dark") / f"{colour:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (colour,) * 3).save(file)
    return folder


@pytest.fixture
def open_releaser(config: Config, log: FeatureLog, photographs: Path) -> Callable[..., Releaser]:
    """``open_releaser(told, resume=..., run_dir=..., log=...)``: of these photographs, to this log."""
    task = Task("single", ("light",), ("dark", "light"))
    front = Front(feature_shape=(2, 2, 2), mechanism=mechanism_of(config, (2, 2, 2)), task=task)

    def make(told: Told, *, resume: bool = False, run_dir: Path = config.run_dir, log: FeatureLog = log) -> Releaser:
        link, chosen = MemoryLink(StoreHandler(log)), config.model_copy(update={"run_dir": run_dir})
        told.releaser = Releaser(front, chosen, photographs, link, told, resume=resume)  # type: ignore[arg-type]
        return told.releaser

    return make


def test_randomised_labels_need_an_order_that_does_not_tell_them(config: Config, tmp_path: Path) -> None:
    """Its images lie in a folder for each class, so their numbers tell the class."""
    config = load_config(config, {"dp": {"label_epsilon": 1.0}})
    front = SimpleNamespace(feature_shape=(2, 2, 2), mechanism=mechanism_of(config, (2, 2, 2)))
    with pytest.raises(DataError, match=r"in the order of their labels.*dp\.label_epsilon of this front hides nothing"):
        Releaser(front, config, tmp_path, MemoryLink(None), Quiet(), resume=False)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_front_with_other_noise_than_that_of_one_release_is_refused(config: Config, tmp_path: Path) -> None:
    several = load_config(config, {"schedule": "two-stage", "model": {"front": None}, "epochs": 5})
    manifest = SimpleNamespace(manifest=SimpleNamespace(name="door"))
    front = SimpleNamespace(feature_shape=(2, 2, 2), mechanism=mechanism_of(several, (2, 2, 2)), published=manifest)
    with pytest.raises(FrontError, match="front 'door': was trained and audited with noise for several releases"):
        Releaser(front, config, tmp_path, MemoryLink(None), Quiet(), resume=False)  # type: ignore[arg-type]


def test_an_image_that_cannot_be_decoded_is_told_and_left_out(
    open_releaser: Callable[..., Releaser], photographs: Path, log: FeatureLog
) -> None:
    (photographs / "train" / "dark" / "020.png").write_bytes(b"no image")
    told = Told()
    assert open_releaser(told).release(told.stop)
    assert told.lines[0].startswith(f"{photographs / 'train' / 'dark' / '020.png'}: ")
    assert told.lines[0].endswith("; left out") and len(told.lines) == 2
    assert [frame.batch.ids.tolist() for frame in log.frames()] == [[0, 2], [3, 4], [0], [0, 1], [2]]


def test_every_image_is_released_once_and_the_exit_is_judged(
    open_releaser: Callable[..., Releaser], log: FeatureLog, config: Config
) -> None:
    told = Told()
    releaser = open_releaser(told)
    assert releaser.release(told.stop)
    streams = [(each.split, each.epoch, each.first_seq, each.frames, each.train_steps) for each in log.streams]
    assert streams == [("train", 0, 0, 3, 2), ("val", 0, 3, 1, 2), ("test", 0, 4, 2, 2)], "two whole batches of five"
    assert {each.run for each in log.streams} == {releaser.run}
    assert [frame.batch.ids.tolist() for frame in log.frames()] == [[0, 1], [2, 3], [4], [0], [0, 1], [2]]
    assert [frame.batch.labels.tolist() for frame in log.frames()] == [[0, 0], [0, 1], [1], [1], [0, 1], [1]]
    assert told.lines == ["the exit answers 66.7 % of 3 test images right"], (
        "the one of brightness 120 is taken for dark"
    )
    assert told.bars == [
        *(("release train", done, 3) for done in (1, 2, 3)),
        ("release val", 1, 1),
        *(("release test", done, 2) for done in (1, 2)),
    ]
    assert releaser.sender.traffic.images == {"train": 5, "val": 1, "test": 3}
    assert Shipped.read(config.run_dir / "edge" / "shipped.json").confirmed == 6


@pytest.mark.parametrize("stop_at", [("release train", 2), ("release test", 1)])
def test_a_release_that_was_stopped_goes_on_with_what_is_left(
    open_releaser: Callable[..., Releaser], log: FeatureLog, stop_at: tuple[str, int]
) -> None:
    told = Told(stop_at)
    assert not open_releaser(told).release(told.stop)
    again = Told()
    assert open_releaser(again, resume=True).release(again.stop)
    assert [frame.batch.ids.tolist() for frame in log.frames()] == [[0, 1], [2, 3], [4], [0], [0, 1], [2]]
    assert not set(told.bars) & set(again.bars), "nothing is released twice"
    assert len(told.bars) + len(again.bars) == 6
    judged = stop_at[0] != "release test"  # else the images that went before it were not looked at again
    assert bool(again.lines) == judged and not told.lines


@pytest.mark.parametrize("stop_at", [None, ("release train", 2), ("release test", 1)])
def test_another_image_changes_its_own_release_alone(
    open_releaser: Callable[..., Releaser],
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: tuple[str, int] | None,
) -> None:
    """Also where the edge was stopped and went on. The random words are the same, whatever is released."""
    nonce = Noise.nonce
    monkeypatch.setattr(Noise, "nonce", lambda self, *purpose, ids=None, content=None: nonce(self, *purpose))
    crossed: list[list[tuple[object, ...]]] = []
    for run, colour in (("one", 20), ("other", 90)):
        Image.new("RGB", (8, 8), (colour,) * 3).save(photographs / "train" / "dark" / "020.png")
        share_key(tmp_path / run)
        with contextlib.closing(FeatureLog(tmp_path / f"{run}-store")) as log:
            told = Told(stop_at)
            done = open_releaser(told, run_dir=tmp_path / run, log=log).release(told.stop)
            assert done == (stop_at is None)
            if not done:
                again = Told()
                assert open_releaser(again, run_dir=tmp_path / run, log=log, resume=True).release(again.stop)
            streams = [(dataclasses.replace(each, run="run"),) for each in log.streams]
            batches = [frame.batch for frame in log.frames()]
            frames = [(*each.ids.tolist(), *each.labels.tolist(), each.side, *each.payload) for each in batches]
            crossed.append([*streams, *frames])
    one, other = crossed
    assert [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b] == [3], "after three headers"
    bytes_of_image = 4 * 8
    assert one[3][:-bytes_of_image] == other[3][:-bytes_of_image], "ids, labels, and the other image's release"
    assert len(one[3]) == len(other[3])


def test_a_folder_that_holds_a_release_is_continued_with_the_same_images_alone(
    open_releaser: Callable[..., Releaser], photographs: Path
) -> None:
    told = Told(("release train", 1))
    assert not open_releaser(told).release(told.stop)
    with pytest.raises(RunError, match="--resume"):
        open_releaser(Told())
    (photographs / "val" / "light" / "220.png").rename(photographs / "val" / "light" / "221.png")
    with pytest.raises(RunError, match="began with other images or labels, so the ledger would not fit them"):
        open_releaser(Told(), resume=True)


def test_nothing_is_released_where_the_ledger_lacks_what_was_sent(
    open_releaser: Callable[..., Releaser], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(("release train", 2))
    releaser = open_releaser(told)
    assert not releaser.release(told.stop)
    asked: list[int] = []
    monkeypatch.setattr(Ledger, "holds", lambda _, frames: asked.append(frames))
    with pytest.raises(PrivacyError, match=rf"frames before {releaser.sender.next_seq} were sent"):
        open_releaser(Told(), resume=True)
    assert asked == [releaser.sender.next_seq] == [2]
