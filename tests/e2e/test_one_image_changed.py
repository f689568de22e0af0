"""What crosses depends on the content of an image through its release alone.

A run is made twice. In the second, one image (or one label) is another one. The random words of the noise are the
same, whatever is released, so what differs on the link is what the image itself changed. Nothing may differ but the
release of that image: no header, order, count, id, label or size, nor the release of another image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import share_key

from smartedge.codec import get_codec, pack
from smartedge.config import Config
from smartedge.data.layouts.in_python import keep_given
from smartedge.edge import sender as sending
from smartedge.privacy.noise import Noise
from smartedge.runs.progress import Quiet
from smartedge.training import train
from smartedge.types import Frame, ReleasedBatch, StreamHeader
from smartedge.wire import memory
from smartedge.wire.frame import Message, header_to_json, serialise

SLOW = pytest.mark.slow
COUNTS = {"train": 24, "val": 8, "test": 10}
CHANGED = 5  # place of the image that is another one
FIXED = {"name": "tiny:build_exact", "bottleneck": None}  # a front without weights: an image changes no other features
FROZEN = {"freeze": "front"}
NOISY = {"mechanism": "gaussian", "sigma": 0.5, "clip": 2.0}


@dataclass
class Crossed:
    """All that a run put on the link, in its order, and the releases behind it."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    releases: list[tuple[StreamHeader, ReleasedBatch, Message]] = field(default_factory=list)


@pytest.fixture
def crossing(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Crossed]:
    """``crossing("name", data, settings)``: train, and return what crossed."""
    found = Crossed()

    class Watched(memory.MemoryLink):
        def open(self, header: StreamHeader) -> int:
            wanted = super().open(header)
            self.header = header
            found.calls.append(("open", header_to_json(dataclasses.replace(header, run="run")), wanted))
            return wanted

        def write(self, message: Message) -> None:
            self._sent("write", message)
            super().write(message)

        def exchange(self, message: Message) -> Any:
            self._sent("exchange", message)
            return super().exchange(message)

        def flush(self) -> None:
            found.calls.append(("flush",))
            super().flush()

        def close(self) -> None:
            found.calls.append(("close",))
            super().close()

        def _sent(self, how: str, message: Message) -> None:
            found.calls.append((how, message.seq))
            found.releases.append((self.header, packed[-1], message))

    packed: list[ReleasedBatch] = []

    def watched_pack(released: ReleasedBatch, codec: Any) -> Any:
        packed.append(released)
        return pack(released, codec)

    nonce = Noise.nonce
    monkeypatch.setattr(Noise, "nonce", lambda self, *purpose, ids=None, content=None: nonce(self, *purpose))
    monkeypatch.setattr(memory, "MemoryLink", Watched)
    monkeypatch.setattr(sending, "pack", watched_pack)

    def run(name: str, data: dict[str, Any], settings: dict[str, Any]) -> Crossed:
        found.calls, found.releases = [], []
        keep_given(data, folder := tmp_path / f"{name}-data", ["label"])
        of_data = {"path": str(folder), "desired": "label", "sensitive": [], "limit": COUNTS}
        train_settings = {"batch_size": 8, **settings.get("train", {})}
        config = tiny_config(name, epochs=2, data=of_data, **{**settings, "train": train_settings})
        share_key(config.run_dir)
        train(config, single_process=True, monitor=Quiet())
        return Crossed(found.calls, found.releases)

    return run


def images(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random pixels and labels of each split. All labels occur."""
    rng = np.random.default_rng(seed)
    return {
        split: (rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8), np.arange(count) % 2)
        for split, count in COUNTS.items()
    }


def with_another(split: str, how: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same data, but for one image or label."""
    data = images()
    pixels, labels = (array.copy() for array in data[split])
    if how == "image":
        pixels[CHANGED] = np.random.default_rng(1).integers(0, 256, pixels[CHANGED].shape)
    elif how == "black":
        pixels[CHANGED] = 0
    elif how == "copy of another":
        pixels[CHANGED] = pixels[CHANGED - 1]
    else:
        labels[CHANGED] = 1 - labels[CHANGED]
    return {**data, split: (pixels, labels)}


HIERARCHICAL: dict[str, dict[str, Any]] = {
    "gaussian": {"dp": NOISY},
    "laplace": {"dp": {"mechanism": "laplace", "sigma": 0.5, "clip": 4.0}},
    "element": {"dp": {"mechanism": "laplace", "sigma": 0.5, "clip": 1.0, "granularity": "element"}},
    "labels": {"dp": {**NOISY, "label_epsilon": 1.0}},
    "training alone": {"dp": {**NOISY, "apply_to": "training"}},
    "no noise": {},
    "float32": {"dp": NOISY, "codec": {"name": "float32"}},
    "uint4": {"dp": NOISY, "codec": {"name": "uint4"}},
    "learned": {"dp": NOISY, "codec": {"name": "learned", "bytes": 20}},
    "previous": {"dp": NOISY, "codec": {"name": "uint8", "reference": "previous"}},
}


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        ("joint", "labels"),
        ("freeze-and-log", "learned"),
        *[pytest.param("joint", kind, marks=SLOW) for kind in HIERARCHICAL if kind not in ("labels", "previous")],
        *[pytest.param("two-stage", kind, marks=SLOW) for kind in ("gaussian", "labels")],
        *[pytest.param("freeze-and-log", kind, marks=SLOW) for kind in ("laplace", "labels", "previous", "no noise")],
    ],
)
def test_a_training_image_changes_its_own_release_alone(
    crossing: Callable[..., Crossed], schedule: str, kind: str
) -> None:
    settings = {"schedule": schedule, "model": FIXED, "train": FROZEN, **HIERARCHICAL[kind]}
    before = crossing("before", images(), settings)
    for how in ("image", "black", "copy of another", "label"):
        assert_alike(before, crossing(how, with_another("train", how), settings), "train", how)


@pytest.mark.parametrize(
    ("split", "settings"),
    [
        ("val", {"dp": NOISY, "model": {"bottleneck": [4, 2, 2]}}),
        *[
            pytest.param(split, settings, marks=SLOW)
            for split in ("val", "test")
            for settings in (
                {"schedule": "two-stage", "dp": NOISY, "model": {"bottleneck": [4, 2, 2]}},
                {"schedule": "freeze-and-log", "dp": NOISY, "model": {"bottleneck": [4, 2, 2]}},
                {"dp": {"mechanism": "randomised-response", "epsilon": 8.0}, "model": {"codebook": 4}},
                {"dp": {"mechanism": "subset-selection", "epsilon": 2.0}, "model": {"codebook": 6}},
                {"dp": NOISY, "model": {"bottleneck": [4, 2, 2]}, "train": {"distill": {"epochs": 1}}},
                {"method": "split"},
                {"method": "upload"},
                {"method": "upload", "codec": {"name": "jpeg"}},
            )
        ],
    ],
)
def test_an_image_that_the_front_does_not_learn_from_changes_its_own_release_alone(
    crossing: Callable[..., Crossed], split: str, settings: dict[str, Any]
) -> None:
    before = crossing("before", images(), settings)
    for how in ("image", "label"):
        assert_alike(before, crossing(how, with_another(split, how), settings), split, how)


def assert_alike(before: Crossed, after: Crossed, split: str, how: str) -> None:
    """Calls, headers, ids and sizes are equal; so are all releases but those of the changed image."""
    assert after.calls == before.calls
    changed = 0
    for (header, one, first), (_, other, second) in zip(before.releases, after.releases, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        assert (one.event, one.label_event) == (other.event, other.label_event)
        its_own = (one.ids == CHANGED) & (header.split == split)
        for released, message in ((one, first), (other, second)):
            # The message is a function of header and release: nothing else is in it.
            encoded = pack(released, get_codec(header.codec))
            again = serialise(Frame(message.seq, encoded), header)
            assert (bytes(again.head), bytes(again.payload)) == (bytes(message.head), bytes(message.payload))
        same_features = (one.features_BF == other.features_BF).reshape(len(one.ids), -1).all(axis=1)
        same_labels = one.labels == other.labels
        assert same_features[~its_own].all() and same_labels[~its_own].all()
        assert same_features.all() if how == "label" else same_labels.all()
        changed += int((~same_features | ~same_labels).sum())
    codewords = before.releases[0][1].event.codewords is not None  # another image may have the same one
    assert changed or (codewords and how == "image"), "the change is one that crosses"
