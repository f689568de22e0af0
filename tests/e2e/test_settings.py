"""Every setting does something: a value that is not the default changes what the setting is there to change.

``ROWS`` has a row for each setting; a new setting without one fails. A row is checked wherever a run uses the setting:
train.precision, say, in the plain and the protected step, in the teacher's, in split learning, and in the cloud. The
first update of each part is looked at, since later ones follow from what the other side did.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from headers import stream_header
from many_edges import SHAPE, edges_of, fleet_config, lines_of, run_fleet
from PIL import Image
from runs import assert_same_run, share_key
from safetensors.torch import load_file, save_file
from watching import Watch, facts_of

from smartedge.artifacts.fleet_run import OrderLine
from smartedge.artifacts.results import Results
from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.config import Config, Section, load_config
from smartedge.edge.runner import EdgeRunner
from smartedge.errors import ConfigError, LinkError, LogError, RunError
from smartedge.files import write_atomically
from smartedge.fleet.authority import Authority
from smartedge.fleet.bundle import open_bundle
from smartedge.inference.backs import LocalBack
from smartedge.inference.trained import TorchFront, TrainedRun
from smartedge.launch.datasets import dataset_of, open_data
from smartedge.launch.links import link_to, one_way_link, receiver_for
from smartedge.methods.schedules import get_schedule
from smartedge.models.network import divide, to_input
from smartedge.models.zoo.networks import build
from smartedge.models.zoo.weights import IMAGENET
from smartedge.runs.progress import Quiet, Update
from smartedge.training import cloud_of, run_cloud, run_edge, train
from smartedge.types import FeatureBatch
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink
from smartedge.wire.sockets import ByteCount

BOTTLENECK = {"bottleneck": [4, 2, 2]}
# Its stem is a ResNet's, and the rest takes no time.
THIN_RESNET = {
    "name": "timm/resnet18",
    "cut": "layer1",
    "args": {"channels": [16, 8, 8, 8], "layers": [1, 1, 1, 1]},
}
GAUSSIAN = {"mechanism": "gaussian", "epsilon": 8.0}
# Runs of two steps, each of which uses other parts of the package.
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "protected": {
        "model": BOTTLENECK,
        "adversary": {"exits": ["linear"], "warmup": 0.0, "steps": 1},
        "dp": {**GAUSSIAN, "warmup": 0.0},
    },
    "taught": {"train": {"distill": {"epochs": 1}}},
    "labels": {"model": BOTTLENECK, "dp": {**GAUSSIAN, "label_epsilon": 1.0}},
    "codewords": {"model": {"codebook": 6}, "dp": {"mechanism": "randomised-response", "epsilon": 3.0}},
    "two-stage": {"schedule": "two-stage"},
    "freeze-and-log": {"schedule": "freeze-and-log"},
    "local": {"method": "local"},
    "upload": {"method": "upload"},
    "upload once": {"method": "upload", "schedule": "freeze-and-log"},
    "split": {"method": "split"},
}
# Where parameters are updated: the run, and whose update it is. The cloud's first features do not depend on the edge's
# updates in these.
UPDATES = {
    "plain": ("front", "back"),
    "protected": ("front",),
    "taught": ("whole", "front"),
    "labels": ("front", "back"),
    "two-stage": ("front",),
    "local": ("whole",),
    "upload": ("whole",),
    "upload once": ("whole",),
    "split": ("front", "back"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A value, and what changes with it."""

    value: Any
    changes: Mapping[str, tuple[str, ...]]  # run -> names of facts, see watching.facts_of
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # other settings, of both runs


def every(what: str, *, besides: Mapping[str, tuple[str, ...]] | None = None) -> dict[str, tuple[str, ...]]:
    """A fact of every update of every run."""
    return {run: tuple(f"{part} {what}" for part in parts) for run, parts in UPDATES.items()} | dict(besides or {})


# What a convolution gets, while learning and while answering. Where a network is undivided both halves are in it.
FORMATS = {
    run: tuple(f"{part} format{when}" for part in ("front", "back") for when in ("", " in evaluation"))
    for run in RUNS
    if run not in ("two-stage", "freeze-and-log")
}

ROWS: dict[str, Row] = {
    "method": Row("split", {"plain": ("header", "front update")}),
    "schedule": Row("freeze-and-log", {"plain": ("header", "train frames")}),
    "epochs": Row(2, {"plain": ("front steps", "back steps"), "local": ("whole steps",), "two-stage": ("back steps",)}),
    "seed": Row(1, every("update")),
    "data.desired": Row("beard", every("update")),
    "data.sensitive": Row(["beard"], {"protected": ("adversary update", "front update")}),
    "data.image_size": Row(24, {"plain": ("header",), "upload": ("header",), "local": ("whole update",)}),
    "data.limit": Row(
        {"train": 64, "val": 4, "test": 4}, {"plain": ("front steps", "back steps"), "upload": ("whole steps",)}
    ),
    "data.shard": Row("1/2", {"plain": ("front steps", "back steps"), "upload": ("whole steps",)}),
    "data.audit_share": Row(0.25, {"plain": ("front steps", "back steps"), "upload": ("whole steps",)}),
    "data.augment": Row(
        "none",
        {
            "plain": ("front input",),
            "protected": ("front input",),
            "taught": ("front input",),
            "two-stage": ("front input",),
            "local": ("front input",),
            "split": ("front input",),
            "upload": ("front input",),
            "upload once": ("front input",),
        },
    ),
    "model.name": Row("tiny:build_wide", {"plain": ("header",), "upload": ("whole update",)}),
    "model.args": Row({"dropout": 0.5}, every("update")),
    "model.adapter": Row(2, {"plain": ("adversary update",)}, given={"train": {"freeze": "front"}}),
    "model.cut": Row("stage2", {"plain": ("header",)}),
    "model.bottleneck": Row([4, 2, 2], {"plain": ("header", "front update", "back update")}),
    "model.codebook": Row(5, {"codewords": ("header", "front update", "back update")}),
    "model.small_input": Row(
        False,
        {"plain": ("header",)},
        given={"model": THIN_RESNET, "data": {"image_size": 32}},
    ),
    "model.exit.width": Row(12, {"plain": ("front update",), "protected": ("front update",)}),
    "model.exit.depth": Row(2, {"plain": ("front update",), "protected": ("front update",)}),
    "train.batch_size": Row(8, every("steps", besides={"freeze-and-log": ("header", "back steps")})),
    "train.optimizer": Row("sgd", every("update")),
    "train.lr": Row(0.01, every("update")),
    "train.freeze": Row("front", {"plain": ("front update",), "protected": ("front update",)}),
    "train.weight_decay": Row(0.3, every("update")),
    "train.momentum": Row(0.5, every("update"), given={"train": {"optimizer": "sgd"}}),
    "train.label_smoothing": Row(0.3, every("update")),
    "train.clip_grad_norm": Row(0.01, every("update")),
    "train.precision": Row("bfloat16", FORMATS),
    "train.channels_last": Row(True, FORMATS),
    "train.front_epochs": Row(2, {"two-stage": ("front steps",), "freeze-and-log": ("front steps",)}),
    "train.distill.epochs": Row(2, {"taught": ("whole steps",)}),
    "train.distill.weight": Row(0.9, {"taught": ("front update",)}),
    "train.distill.temperature": Row(5.0, {"taught": ("front update",)}),
    "adversary.exits": Row(["mlp"], {"protected": ("adversary update", "front update")}),
    "adversary.weight": Row(9.0, {"protected": ("front update",)}),
    "adversary.warmup": Row(1.0, {"protected": ("front update",)}),
    "adversary.confusion": Row("minimax", {"protected": ("front update",)}),
    "adversary.dependence": Row(1.0, {"protected": ("front update",)}),
    "adversary.mixture": Row(1.0, {"protected": ("front update",)}),
    "adversary.steps": Row(2, {"protected": ("adversary steps",)}),
    "adversary.lr": Row(0.01, {"protected": ("adversary update",)}),
    "adversary.reset_every": Row(1, {"protected": ("adversary updates",)}, given={"epochs": 2}),
    "dp.mechanism": Row("laplace", {"protected": ("front update", "train frames", "ledger", "privacy")}),
    "dp.granularity": Row(
        "element",
        {"protected": ("front update", "train frames", "ledger", "privacy")},
        given={"dp": {"mechanism": "laplace"}},
    ),
    "dp.clip": Row(0.5, {"protected": ("front update", "train frames", "ledger", "privacy")}),
    "dp.epsilon": Row(1.0, {"protected": ("front update", "train frames", "ledger", "privacy")}),
    "dp.delta": Row(1e-3, {"protected": ("front update", "train frames", "ledger", "privacy")}),
    "dp.sigma": Row(
        9.0,
        {"protected": ("front update", "train frames", "ledger", "privacy")},
        given={"dp": {"epsilon": None, "sigma": 1.0}},
    ),
    "dp.warmup": Row(1.0, {"protected": ("front update",)}),
    "dp.label_epsilon": Row(0.5, {"labels": ("train labels", "back update", "ledger", "privacy")}),
    "dp.apply_to": Row("training", {"protected": ("val frames", "ledger", "privacy")}),
    "cloud.shards": Row(
        2,
        {
            "plain": ("back update",),
            "two-stage": ("back updates",),
            "freeze-and-log": ("back updates",),
            "upload": ("whole update",),
            "upload once": ("whole update",),
        },
    ),
    "codec.name": Row("uint4", {"plain": ("header", "train frames", "back update")}),
    "codec.bytes": Row(
        40,
        {"plain": ("header", "train frames", "front update", "back update"), "taught": ("front update",)},
        given={"codec": {"name": "learned", "bytes": 20}},
    ),
    "codec.reference": Row("previous", {"freeze-and-log": ("header", "train frames")}),
}
# Settings that decide with whom, where and on what a run works are looked at one by one, below.
ELSEWHERE = {
    "run_dir": "test_run_dir",
    "data.path": "test_data_path",
    "data.cache_dir": "test_cache_dir",
    "data.fit": "test_data_fit",
    "data.mean": "test_scale_of_pixels",
    "data.std": "test_scale_of_pixels",
    "data.cache_bytes": "test_cache_bytes",
    "link.queue_frames": "test_queue_frames",
    "link.max_lead_frames": "test_max_lead_frames",
    "fleet.expect": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.cuts": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.logit_adjustment": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.deadline": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.mix": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.patience": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.farewell": "test_the_cloud_of_a_fleet_gets_its_settings",
    "fleet.max_influence": "test_the_cloud_of_a_fleet_gets_its_settings",
    "cloud.workers": "test_the_cloud_starts_so_many_workers",
    "store.keep": "test_frames_that_no_run_needs_are_dropped",
    "store.max_bytes": "test_the_store_gets_its_limit",
    "spool.max_bytes": "test_the_spool_gets_its_settings",
    "spool.when_full": "test_the_spool_gets_its_settings",
    "model.weights": "test_pretrained_weights",
    "train.lr_pretrained": "test_pretrained_parameters_have_a_learning_rate_of_their_own",
    "model.start": "test_a_front_that_was_trained_before_is_the_start",
    "model.front": "test_a_front_that_was_trained_before_is_sent_and_not_trained",
    "link.connect_timeout": "test_the_link_gets_its_settings",
    "link.token_file": "test_the_link_gets_its_settings",
    "link.tls_cert": "test_the_link_gets_its_settings",
    "link.tls_key": "test_the_link_gets_its_settings",
    "link.tls_ca": "test_the_link_gets_its_settings",
    "link.insecure": "test_the_link_gets_its_settings",
    "link.simplex_rate": "test_the_one_way_link_gets_its_settings",
    "link.simplex_loss": "test_the_one_way_link_gets_its_settings",
    "hardware.edge_device": "test_devices",
    "hardware.cloud_device": "test_devices",
    "hardware.threads": "test_threads",
}
CASES = [(key, run) for key, row in ROWS.items() for run in row.changes]


def leaf_keys(section: type[Section] = Config, prefix: str = "") -> set[str]:
    keys = set()
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            keys |= leaf_keys(inner, f"{prefix}{name}.")
        else:
            keys.add(prefix + name)
    return keys


def test_every_setting_has_a_row() -> None:
    assert ROWS.keys() | ELSEWHERE.keys() == leaf_keys()
    assert not ROWS.keys() & ELSEWHERE.keys()
    assert set(ELSEWHERE.values()) <= globals().keys()


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = found.get(key)
            found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


SMALL = {
    "epochs": 1,
    "data": {"limit": {"train": 32, "val": 8, "test": 8}},
    "hardware": {"threads": 1},
}


@pytest.fixture(scope="module")
def facts_by_settings() -> dict[str, dict[str, Any]]:
    """What was seen of runs that several rows begin from."""
    return {}


@pytest.fixture
def facts(tiny_config, facts_by_settings) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    """``facts(run, changes)``: see watching.facts_of."""

    def make(run: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        settings = merged(SMALL, RUNS[run], changes)
        if repr(settings) not in facts_by_settings:
            config = tiny_config(f"run{len(facts_by_settings)}", **settings)
            share_key(config.run_dir)
            facts_by_settings[repr(settings)] = facts_of(config)
        return facts_by_settings[repr(settings)]

    return make


@pytest.mark.parametrize(("key", "run"), CASES)
def test_a_setting_changes_what_it_is_there_to_change(facts, key, run):
    row = ROWS[key]
    usual, changed = facts(run, row.given), facts(run, merged(row.given, nested(key, row.value)))
    ignored = [name for name in row.changes[run] if usual[name] == changed.get(name)]
    assert not ignored, f"{key} = {row.value}: {', '.join(ignored)} stayed the same"


def test_watching_alone_changes_nothing(facts, tiny_config):
    """Two runs with equal settings give equal facts, or the test above would prove nothing."""
    config = tiny_config("again", **merged(SMALL, RUNS["protected"]))
    share_key(config.run_dir)
    assert facts_of(config) == facts("protected", {})


# -- with whom, where, on what


def test_run_dir(tiny_config, tmp_path):
    config = tiny_config("somewhere", **SMALL, method="local")
    train(config, single_process=True, monitor=Quiet())
    assert {entry.name for entry in tmp_path.iterdir()} == {"somewhere"}
    assert (tmp_path / "somewhere" / "results.json").exists()


def test_data_path(tiny_config, tmp_path):
    draw = np.random.default_rng(0)
    arrays = {f"{split}_images": draw.integers(0, 256, (20, 16, 16, 3), np.uint8) for split in ("train", "val", "test")}
    arrays |= {f"{split}_labels": np.arange(20).reshape(20, 1) % 3 for split in ("train", "val", "test")}
    np.savez(tmp_path / "mine.npz", **arrays)
    data = {"path": str(tmp_path / "mine.npz"), "desired": "label", "sensitive": [], "limit": {}}
    config = tiny_config("run", data=data, epochs=1, method="local")
    train(config, single_process=True, monitor=Quiet())
    results = json.loads((config.run_dir / "results.json").read_text())
    assert results["data"]["train"] == 20 and results["task"]["names"] == ["0", "1", "2"]


def test_data_fit(tiny_config, tmp_path):
    """The left and right edges of wide images are seen only where images are squeezed."""
    wide = np.zeros((20, 16, 48, 3), np.uint8)
    wide[:, :, :8] = wide[:, :, -8:] = 255
    np.savez(tmp_path / "wide.npz", train_images=wide, train_labels=np.arange(20) % 2)
    seen = {}
    for fit in ("crop", "squash", "letterbox"):
        data = {"path": str(tmp_path / "wide.npz"), "desired": "label", "sensitive": [], "limit": {}, "fit": fit}
        config = tiny_config("run", data=data)
        assert config.agreement()["data"]["fit"] == fit
        seen[fit] = dataset_of(config).splits["train"].read(np.array([0])).images_BCHW[0, 0]
    assert (seen["crop"] == 0).all()
    assert (seen["squash"][:, 0] > 200).all()
    assert (seen["letterbox"][0] == 0).all() and seen["letterbox"][seen["letterbox"].shape[0] // 2, 0] > 200


def test_scale_of_pixels(tiny_config):
    """Both sides agree on it, and the front's first layer applies it."""
    assert not {"mean", "std"} & tiny_config("run").agreement()["data"].keys()
    config = tiny_config("run", data={"mean": [0.25, 0.5, 0.75], "std": [0.5, 1, 0.25]})
    assert {key: config.agreement()["data"][key] for key in ("mean", "std")} == {
        "mean": [0.25, 0.5, 0.75],
        "std": [0.5, 1, 0.25],
    }
    black = to_input(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.device("cpu"))
    assert divide(config.division(2)).front[0](black).flatten().tolist() == pytest.approx([-0.5, -0.5, -3])


def test_cache_dir(tiny_config, tmp_path):
    config = tiny_config("run", **merged(SMALL, {"method": "local", "data": {"cache_dir": str(tmp_path / "kept")}}))
    train(config, single_process=True, monitor=Quiet())
    assert [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]


def test_cache_bytes(tiny_config, tmp_path):
    """A run whose images do not fit beside those of an earlier one takes their place."""
    kept = tmp_path / "kept"
    for size, cache_bytes in ((8, None), (12, None), (16, 1)):
        changes = {"method": "local", "data": {"cache_dir": str(kept), "image_size": size, "cache_bytes": cache_bytes}}
        train(tiny_config(f"run{size}", **merged(SMALL, changes)), single_process=True, monitor=Quiet())
        held = {file.name.split("-")[2] for file in kept.glob("*.npy")}
        assert held == {8: {"8px"}, 12: {"8px", "12px"}, 16: {"16px"}}[size]


def test_a_run_that_keeps_no_decoded_images_ends_with_the_same_weights(tiny_config, tmp_path):
    """Files can be read in any order. Images of Parquet come in another one, so it is another run."""
    kept, rng = tmp_path / "kept", np.random.default_rng(0)
    for number in range(60):
        file = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(file)
    source = {"path": str(tmp_path / "set"), "desired": "label", "sensitive": [], "limit": {}}
    runs = []
    for cache_bytes in (None, 0):
        folder = kept / str(cache_bytes)
        changes = {"method": "local", "data": {**source, "cache_dir": str(folder), "cache_bytes": cache_bytes}}
        runs.append(tiny_config(f"run{cache_bytes}", **merged(SMALL, changes)))
        train(runs[-1], single_process=True, monitor=Quiet())
        assert bool(list(folder.glob("*.npy"))) == (cache_bytes is None)
    assert_same_run(*(config.run_dir for config in runs))
    assert runs[0].identity() != runs[1].identity()


def test_threads(facts):
    assert facts("plain", {})["threads"] == {1}
    assert facts("plain", {"hardware": {"threads": 2}})["threads"] == {2}
    assert facts("upload", {"hardware": {"threads": 2}})["threads"] == {2}


@pytest.mark.parametrize("side", ["edge_device", "cloud_device"])
def test_devices(tiny_config, side):
    config = tiny_config("run", **merged(SMALL, {"hardware": {side: "cuda:99"}}))
    with pytest.raises(ConfigError, match=f"hardware.{side}: 'cuda:99'"):
        train(config, single_process=True, monitor=Quiet())


class Listening(Quiet):
    """Knows the cloud's port."""

    def __init__(self) -> None:
        self.known = threading.Event()
        self.port = 0

    def update(self, update: Update) -> None:
        if update.port:
            self.port = update.port
            self.known.set()


def test_queue_frames(tiny_config, monkeypatch):
    """A queue of that size lies between the edge's training and the link."""
    sizes = []
    make_as_usual = queue.Queue.__init__

    def make(self, maxsize=0):
        sizes.append(maxsize)
        make_as_usual(self, maxsize)

    monkeypatch.setattr(queue.Queue, "__init__", make)
    config = tiny_config("run", **SMALL, link={"queue_frames": 73})
    listening = Listening()
    cloud = threading.Thread(target=run_cloud, args=(config, "127.0.0.1", 0, listening))
    cloud.start()
    assert listening.known.wait(timeout=60)
    assert run_edge(config, f"127.0.0.1:{listening.port}", Quiet())
    cloud.join(timeout=60)
    assert not cloud.is_alive()
    assert 73 in sizes


def test_max_lead_frames(tiny_config, tmp_path):
    """The cloud takes so many frames before it has learned from any, and the next one waits until it has."""
    usual = tiny_config("usual", epochs=1)
    with Watch().watching() as watch:
        train(usual, single_process=True, monitor=Quiet())
    runner = CloudRunner(
        load_config(usual, {"link": {"max_lead_frames": 2}}), tmp_path / "cloud", Quiet(), resume=False, inline=False
    )
    link = MemoryLink(runner.ingest)
    taken: queue.Queue[int] = queue.Queue()

    def send() -> None:
        link.open(watch.streams[0])
        for frame in watch.frames["train"][:3]:
            link.write(serialise(frame, watch.streams[0]))
            taken.put(frame.seq)

    sending = threading.Thread(target=send)
    sending.start()
    assert [taken.get(timeout=60) for _ in range(2)] == [0, 1]
    with pytest.raises(queue.Empty):
        taken.get(timeout=0.5)
    stop = threading.Event()
    learning = threading.Thread(target=runner.run, args=(stop,))
    learning.start()
    assert taken.get(timeout=60) == 2
    stop.set()
    for thread in (sending, learning):
        thread.join(timeout=60)
        assert not thread.is_alive()
    runner.close()


def test_the_spool_gets_its_settings(tiny_config):
    """A frame is larger than a spool of that size: with ``stop`` that is an error, and nothing is sent."""
    limits = {"spool": {"max_bytes": 2**16, "when_full": "stop"}}
    config = tiny_config("run", **SMALL, codec={"name": "float32"}, model={"bottleneck": None}, **limits)

    class Nowhere:
        def __getattr__(self, name: str) -> Any:
            raise LinkError("the cloud is away")

        def counters(self) -> ByteCount:
            return ByteCount(0, 0, "payload")

        def assume_confirmed(self, seq: int) -> None: ...

        def disconnect(self) -> None: ...

    runner = EdgeRunner(
        config, open_data(config, Quiet()), Nowhere(), config.run_dir / "edge", Quiet(), resume=False, threaded=True
    )
    with pytest.raises(LogError, match=r"the spool is full \(\d+ bytes of 65536 are used: raise store.max_bytes"):
        runner.run(threading.Event())


def test_the_store_gets_its_limit(tiny_config):
    config = tiny_config("run", **SMALL, codec={"name": "float32"}, store={"max_bytes": 2**16})
    with pytest.raises(LogError, match=r"cloud/store/edge: edge 'edge', frame 1: \d+ bytes of 65536 are used"):
        train(config, single_process=True, monitor=Quiet())


@pytest.mark.parametrize("schedule", ["joint", "freeze-and-log"])
def test_frames_that_no_run_needs_are_dropped(tiny_config, monkeypatch, schedule):
    """While the run goes on, those before the last but one checkpoint; at its end, all but the last file."""
    monkeypatch.setattr(FeatureLog.__init__, "__kwdefaults__", {"segment_bytes": 8000, "max_bytes": None})
    dropped: list[tuple[int, int]] = []
    forget_as_usual = FeatureLog.forget_before

    def forget(log: FeatureLog, seq: int) -> None:
        forget_as_usual(log, seq)
        dropped.append((seq, log.first_seq))

    monkeypatch.setattr(FeatureLog, "forget_before", forget)
    usual = tiny_config("usual", epochs=3, schedule=schedule)
    config = tiny_config("run", epochs=3, schedule=schedule, store={"keep": "unconsumed"})
    train(usual, single_process=True, monitor=Quiet())
    assert not dropped
    train(config, single_process=True, monitor=Quiet())
    assert_same_run(usual.run_dir, config.run_dir)
    each = 96 // 16 + 2  # frames of an epoch
    steps = [0, each, 2 * each] if schedule == "joint" else []
    assert [seq for seq, _ in dropped] == [*steps, (3 if steps else 1) * each + 3]
    assert all(first <= seq for seq, first in dropped) and dropped[-1][1] > 0


@pytest.fixture
def at_the_link(monkeypatch) -> dict[str, Any]:
    """What the two ends of the link are made with."""
    import smartedge.wire.grpc_link
    import smartedge.wire.grpc_receiver
    import smartedge.wire.handshake

    made: dict[str, Any] = {}

    def noted(side: str, end: type) -> Callable[..., None]:
        arguments = inspect.signature(end)

        def make(*args: Any, **given: Any) -> None:
            made[side] = arguments.bind(*args, **given).arguments  # refuses what the class does not take

        return make

    monkeypatch.setattr(smartedge.wire.grpc_link, "GrpcLink", noted("edge", smartedge.wire.grpc_link.GrpcLink))
    monkeypatch.setattr(
        smartedge.wire.grpc_receiver, "GrpcReceiver", noted("cloud", smartedge.wire.grpc_receiver.GrpcReceiver)
    )
    for name in ("greet", "tls_context"):  # the files are no certificates
        monkeypatch.setattr(smartedge.wire.handshake, name, create_autospec(getattr(smartedge.wire.handshake, name)))
    return made


@pytest.mark.parametrize(
    ("link", "edge", "cloud"),
    [
        ({"connect_timeout": 7.5}, {"connect_timeout_s": 7.5}, {}),
        ({"token_file": "token"}, *[{"credentials": Credentials(token="a secret")}] * 2),
        (
            {"tls_cert": "cert.pem", "tls_key": "key.pem"},
            *[{"credentials": Credentials(certificate=b"cert", key=b"key")}] * 2,
        ),
        ({"tls_ca": "ca.pem"}, *[{"credentials": Credentials(ca=b"ca")}] * 2),
        ({"insecure": True}, {"insecure": True}, {"insecure": True}),
    ],
)
def test_the_link_gets_its_settings(at_the_link, tmp_path, monkeypatch, link, edge, cloud):
    monkeypatch.chdir(tmp_path)
    for name, content in {"token": "a secret\n", "ca.pem": "ca", "cert.pem": "cert", "key.pem": "key"}.items():
        write_atomically(tmp_path / name, content)
    made = []
    for config in (load_config({}), load_config({"link": link})):
        link_to(config, "127.0.0.1:1", None, str)
        receiver_for(config, None, "127.0.0.1", 0)
        made.append({side: dict(given) for side, given in at_the_link.items()})
    for side, expected in (("edge", edge), ("cloud", cloud)):
        changed = {name: value for name, value in made[1][side].items() if value != made[0][side][name]}
        assert changed == expected, side


def test_the_one_way_link_gets_its_settings(tmp_path):
    """Half the rate takes twice the time on the link; more loss takes more datagrams."""
    folder = tmp_path / "fleet"
    fleet = Authority.create(folder, days=1)
    [file] = fleet.add(["door"], cloud="127.0.0.1:9", days=1)
    bundle, header = open_bundle(file), stream_header(frames=1)
    sent = {}
    for name, link in {"plain": {}, "slow": {"simplex_rate": 5e5}, "lossy": {"simplex_loss": 0.3}}.items():
        config = load_config({"run_dir": str(tmp_path / name), "link": link})
        made = one_way_link(config, "udp://127.0.0.1:9", bundle)
        made.open(header)
        begun = time.monotonic()
        made.close()
        sent[name] = made.counters().up, made._free_at - begun
        made.disconnect()
    assert sent["slow"][0] == sent["plain"][0] < sent["lossy"][0]
    bits = 8 * sent["slow"][0]
    assert sent["slow"][1] > bits / 5e5
    assert made._rate_bits_s == 1e6


def weights_of_tiny(folder: Path) -> str:
    """A file with the weights of the tiny network, trained for another number of classes."""
    save_file(build("tiny:build", outputs=7, image_size=16, seed=5).state_dict(), folder / "tiny.safetensors")
    return str(folder / "tiny.safetensors")


def test_pretrained_weights(tiny_config, tmp_path):
    """Both sides begin with them, results say so, and what a frozen front learned from the images: nothing."""
    weights = weights_of_tiny(tmp_path)
    given = load_file(weights)
    for name, freeze, learned in (("free", [], "trained"), ("frozen", ["front"], "frozen")):
        config = tiny_config(name, model={"weights": weights}, train={"freeze": freeze, "lr": 1e-4})
        train(config, single_process=True, monitor=Quiet())
        results = Results.read(config.run_dir / "results.json")
        assert results.weights.source == weights and results.weights.replaced == ("head.2.weight", "head.2.bias")
        assert results.privacy.front == learned
        front = load_file(config.run_dir / "edge" / "front.safetensors")
        back = load_file(config.run_dir / "cloud" / "back.safetensors")
        moved = {
            key for key in front if key.startswith("1.") and not torch.equal(front[key], given[key.removeprefix("1.")])
        }
        assert moved if not freeze else not moved  # batch statistics among them
        kernel = "stage2.0.weight"
        assert 0 < (back[kernel] - given[kernel]).abs().max() < 0.05, "the back begins with them too, and learns"
    Path(weights).rename(tmp_path / "moved.safetensors")  # whoever answers for the run does not need it
    (config.run_dir / "config.yaml").unlink()
    run = TrainedRun.open(config.run_dir)
    kept = TorchFront(run).front.state_dict()
    assert all(torch.equal(kept[key], front[key]) for key in front) and front.keys() == kept.keys()
    assert front["0.scale"].flatten().tolist() == pytest.approx([0.25 / std for std in IMAGENET.std])
    assert LocalBack(run)(np.zeros((1, 8, 8, 8), np.float32)).shape == (1, 2)
    weights = weights_of_tiny(tmp_path)
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    here, there = (tiny_config("a", model={"weights": file}) for file in (weights, weights_of_tiny(elsewhere)))
    other = tiny_config("a", model={"weights": "none"})
    assert here.agreement() == there.agreement() and here.identity() == there.identity()
    assert here.agreement() != other.agreement()
    with pytest.raises(ConfigError, match=r"gone\.pth cannot be read.*copy the file"):
        tiny_config("a", model={"weights": "gone.pth"}).agreement()


def test_an_undivided_network_begins_with_pretrained_weights(tiny_config, tmp_path):
    weights = weights_of_tiny(tmp_path)
    for method in ("upload", "local"):
        config = tiny_config(method, method=method, epochs=1, model={"weights": weights}, data={"limit": {"train": 32}})
        train(config, single_process=True, monitor=Quiet())
        assert Results.read(config.run_dir / "results.json").weights.source == weights


def test_pretrained_parameters_have_a_learning_rate_of_their_own(tiny_config, tmp_path):
    rates = {}
    for share in (None, 1e-5):
        changes = {"model": {"weights": weights_of_tiny(tmp_path)}, "train": {"lr": 1e-3, "lr_pretrained": share}}
        config = tiny_config(f"run{share}", **merged(SMALL, changes))
        with Watch().watching() as watch:
            train(config, single_process=True, monitor=Quiet())
        rates[share] = {
            part: [updates[0][1].count(f"'lr': {rate}") for rate in (1e-3, 1e-5)]
            for part, updates in watch.updates.items()
        }
    assert rates[None] == {"front": [2, 0], "back": [2, 0]}
    assert rates[1e-5] == {"front": [2, 2], "back": [2, 2]}


def test_a_front_that_was_trained_before_is_sent_and_not_trained(tiny_config):
    first = tiny_config("first", schedule="freeze-and-log", epochs=2)
    train(first, single_process=True, monitor=Quiet())
    front = first.run_dir / "edge" / "front.safetensors"
    given = {"schedule": "freeze-and-log", "epochs": 2, "model": {"front": str(front)}}
    second = tiny_config("second", **given)
    assert [epoch.learns for epoch in get_schedule(second.schedule).epochs(second)] == [False]
    train(second, single_process=True, monitor=Quiet())
    for side, name in (("edge", "front"), ("edge", "exit"), ("cloud", "back")):
        before, after = (load_file(config.run_dir / side / f"{name}.safetensors") for config in (first, second))
        assert all(torch.equal(before[key], after[key]) for key in before), name
    assert second.agreement() != first.agreement()
    moved = front.with_name("moved.safetensors")
    moved.write_bytes(front.read_bytes())
    elsewhere = tiny_config("third", **{**given, "model": {"front": str(moved)}})
    assert elsewhere.agreement() == second.agreement() and elsewhere.identity() == second.identity()
    with pytest.raises(ConfigError, match="does not fit the network, cut and bottleneck"):
        train(
            tiny_config("other", **{**given, "model": {"front": str(front), "cut": "stage2"}}),
            single_process=True,
            monitor=Quiet(),
        )
    with pytest.raises(ConfigError, match=r"cannot be read.*copy edge/front\.safetensors"):
        tiny_config("gone", **{**given, "model": {"front": "gone.safetensors"}}).agreement()
    with pytest.raises(ConfigError, match=r"train\.front_epochs: the front(.|\n)*model\.front: only for"):
        tiny_config("wrong", model={"front": str(front)}, train={"front_epochs": 2})


def test_the_cloud_starts_so_many_workers(tiny_config, monkeypatch):
    """``torchrun`` gets the number; with 0 nothing is started, and with 1 the cloud trains itself."""
    commands = []

    class Started(Exception):
        pass

    def start(command, **options):
        commands.append(command)
        raise Started

    usual = tiny_config("usual", **SMALL)
    with Watch().watching() as watch:
        train(usual, single_process=True, monitor=Quiet())
    monkeypatch.setattr("smartedge.cloud.workers.launcher.subprocess.Popen", start)
    for workers, kind in ((1, CloudRunner), (2, Receiving), (0, Receiving)):
        config = tiny_config(f"with {workers}", **merged(SMALL, {"cloud": {"workers": workers, "shards": 2}}))
        runner = cloud_of(config, Quiet(), resume=False)
        assert type(runner) is kind
        stop = threading.Event()
        if kind is Receiving:
            link = MemoryLink(runner.ingest)
            link.open(watch.streams[0])
            link.write(serialise(watch.frames["train"][0], watch.streams[0]))
        if workers == 2:
            with pytest.raises(Started):
                runner.run(stop)
        else:
            stop.set()
            assert not runner.run(stop)
        runner.close()
    (command,) = commands
    assert command[command.index("--nproc-per-node") + 1] == "2"


def test_a_front_that_was_trained_before_is_the_start(tiny_config):
    """With a learning rate of nearly zero the trained front stays as it began; the exit begins beside it."""
    first = tiny_config("first")
    train(first, single_process=True, monitor=Quiet())
    start = first.run_dir / "edge" / "front.safetensors"
    second = tiny_config("second", model={"start": str(start)}, train={"lr": 1e-12})
    train(second, single_process=True, monitor=Quiet())
    for name in ("front", "exit"):
        before, after = (load_file(each.run_dir / "edge" / f"{name}.safetensors") for each in (first, second))
        weights = [key for key in before if key.endswith("weight")]
        assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in weights), name
    assert second.agreement() != first.agreement()
    with pytest.raises(ConfigError, match=r"model\.start: only for"):
        tiny_config("wrong", model={"start": str(start), "front": str(start)}, schedule="freeze-and-log")
    with pytest.raises(ConfigError, match=r"model\.start: only for"):
        tiny_config("split", model={"start": str(start)}, method="split")
    missing = tiny_config("missing", model={"start": str(start.with_name("none"))})
    with pytest.raises(ConfigError, match=r"model\.start: .*cannot be read"):
        missing.agreement()


def test_the_cloud_of_a_fleet_gets_its_settings(tmp_path, monkeypatch):
    """What each setting does is tested in tests/unit/cloud/test_from_edges.py; here, that its value arrives."""

    def order(name: str, **fleet: Any) -> tuple[CloudRunner, list[OrderLine]]:
        config = fleet_config(fleet={"expect": 2, **fleet})
        runner = run_fleet(config, tmp_path / name, edges_of(config, 2, steps=12))
        return runner, list(lines_of(tmp_path / name))

    def largest(lines: list[OrderLine]) -> int:
        return max(len(line.frames or ()) for line in lines)

    assert largest(order("8")[1]) == 8 and largest(order("3", mix=3)[1]) == 3
    cuts = order("cuts", cuts=["layer2", "layer4"])[0].learning.trainer.back.cuts
    assert cuts == ("layer2", "layer4") and order("one cut")[0].learning.trainer.back.cuts == ("layer4",)
    for adjusted in (True, False):
        trainer = order(f"adjusted {adjusted}", logit_adjustment=adjusted)[0].learning.trainer
        batch = FeatureBatch(
            np.arange(2),
            np.zeros((2, *SHAPE), np.float32),
            np.zeros(2, np.int64),
            *np.array([["edge0"] * 2, ["layer4"] * 2]),
        )
        assert (trainer.inputs.of(batch, (0,)).offsets_BK is not None) == adjusted
    assert order("capped", max_influence=0.5)[0].learning.mixing.influence.kept(10) == 5
    config = fleet_config(fleet={"expect": ["edge1"]})
    runner = CloudRunner(config, tmp_path / "named", Quiet(), resume=False, inline=False)
    with pytest.raises(RunError, match="not one of those that this run expects"):
        edges_of(config, 1)[0].send(runner)
    runner.close()
    for patience, waits in ((60.0, True), (1e-9, False)):
        config = fleet_config(fleet={"expect": 2, "patience": patience})
        runner = CloudRunner(config, tmp_path / f"patience {waits}", Quiet(), resume=False, inline=False)
        edge = edges_of(config, 1)[0]
        link = MemoryLink(runner.ingest, edge.name)
        link.open(edge.streams()[0])
        link.write(serialise(edge.frame(0), edge.streams()[0]))
        with runner._handover.changed:
            joins = runner.learning.next()
        assert joins is not None
        runner.learning.do(joins)
        with runner._handover.changed:
            runner.learning.next()
            assert (runner.learning.next() is None) == waits
        runner.close()
    ended = CloudRunner(
        fleet_config(fleet={"expect": 2, "deadline": 1e-9}), tmp_path / "ended", Quiet(), resume=False, inline=False
    )
    assert ended._completion.reached()
    ended.close()
    config = fleet_config(fleet={"expect": 2, "farewell": 0.5})
    staying = CloudRunner(config, tmp_path / "staying", Quiet(), resume=False, inline=False)
    assert staying._farewell._seconds == 1800
    staying.close()
