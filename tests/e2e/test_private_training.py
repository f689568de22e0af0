"""Protected runs in real processes: what must not leave the edge does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import PROTECTED, assert_same_run, share_key
from safetensors.torch import load_file

from smartedge.codec import unpack
from smartedge.data import open_dataset
from smartedge.launch.datasets import open_data
from smartedge.methods.base import get_method
from smartedge.runs.progress import Quiet
from smartedge.training import train

SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("forked_sides")


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [
        ("gaussian", "joint"),
        pytest.param("gaussian", "two-stage", marks=SLOW),
        pytest.param("codewords", "freeze-and-log", marks=SLOW),
        pytest.param("labels", "two-stage", marks=SLOW),
        pytest.param("taught", "joint", marks=SLOW),
        pytest.param("gaussian", "freeze-and-log", marks=SLOW),
        pytest.param("codewords", "joint", marks=SLOW),
        pytest.param("codewords", "two-stage", marks=SLOW),
        pytest.param("taught", "freeze-and-log", marks=SLOW),
    ],
)
def test_two_processes_give_the_weights_of_one(tiny_config, kind, schedule):
    one, two = (tiny_config(name, schedule=schedule, epochs=2, **PROTECTED[kind]) for name in ("one", "two"))
    share_key(one.run_dir, two.run_dir)
    train(one, single_process=True, monitor=Quiet())
    results = train(two, monitor=Quiet())
    assert_same_run(one.run_dir, two.run_dir)
    assert results.releases_per_image == (1 if schedule == "freeze-and-log" else 2)
    assert results.test.exit.accuracy > 0
    rows = [json.loads(line) for line in (two.run_dir / "metrics.jsonl").read_text().splitlines()]
    found = {(row["side"], row["epoch"], row["split"]) for row in rows}
    assert {
        (side, epoch, split) for side in ("edge", "cloud") for epoch in (0, 1) for split in ("train", "val")
    } <= found
    assert {("edge", 1, "test"), ("cloud", 1, "test")} <= found
    if "adversary" in PROTECTED[kind]:
        row = next(row for row in rows if row["side"] == "edge" and row["split"] == "train" and row["epoch"] == 1)
        assert row["adversary_loss"] > 0
        assert row["lambda"] == 3.0, "the warm-up of 0.2 is over in the second of two epochs"
        assert np.isfinite([row["confusion"], row["dependence"], row["mixture"]]).all()


@pytest.mark.parametrize("kind", [pytest.param("gaussian", marks=SLOW), "codewords"])
def test_the_sensitive_label_stays_on_the_edge(tiny_config, kind, open_log):
    """Neither its name nor its values are in the cloud's folder, in what crossed, in metrics or in results."""
    config = tiny_config("run", schedule="two-stage", epochs=2, **PROTECTED[kind])
    log_file = config.run_dir.parent / "updates.txt"
    train(config, monitor=Written(log_file))
    # The settings and the edge's own folder name it; nothing else may.
    outside = [
        file
        for file in config.run_dir.rglob("*")
        if file.is_file() and file.name != "config.yaml" and file.relative_to(config.run_dir).parts[0] != "edge"
    ]
    assert {"results.json", "metrics.jsonl", "predictions.safetensors"} < {file.name for file in outside}
    assert any("cloud" in file.parts for file in outside)
    for file in [*outside, log_file]:
        assert b"masculine" not in file.read_bytes(), file
    assert b"masculine" not in (config.run_dir / "edge" / "metrics.jsonl").read_bytes()

    data = config.data
    dataset = open_dataset(
        "drawn", "smile", sensitive=("masculine",), image_size=16, limit=data.limit, cache_dir=data.cache_dir
    )
    hidden = {
        name: dict(zip(split.ids.tolist(), split.sensitive_labels["masculine"].tolist(), strict=True))
        for name, split in dataset.splits.items()
    }
    desired = {
        name: dict(zip(split.ids.tolist(), split.labels.tolist(), strict=True))
        for name, split in dataset.splits.items()
    }
    log = open_log(config.run_dir)
    for frame in log.frames():
        batch = unpack(frame.batch, log.header_of(frame.seq))
        assert batch.labels.tolist() == [desired[log.header_of(frame.seq).split][image] for image in batch.ids.tolist()]
    # Any array of a file, in the order of the images or of their ids, as bytes of any usual width, inverted as well.
    for name, by_image in hidden.items():
        values = np.array([by_image[image] for image in sorted(by_image)])
        for secret in (values, 1 - values):
            for dtype in (np.int64, np.int32, np.uint8, np.float32):
                needle = secret.astype(dtype).tobytes()
                for file in outside:
                    assert needle not in file.read_bytes(), f"{file} holds the sensitive labels of {name}"


class Written(Quiet):
    """Keeps every update as text."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")

    def update(self, update):
        with self.file.open("a") as written:
            written.write(f"{update}\n")


def test_the_search_for_sensitive_labels_would_find_them(tiny_config):
    """The same needles are found in the file that holds the desired labels' order: a check that can fail."""
    config = tiny_config("run", epochs=1)
    train(config, single_process=True, monitor=Quiet())
    dataset = open_data(config, Quiet())
    needle = dataset.splits["test"].labels.numpy().astype(np.int64).tobytes()
    assert needle in (config.run_dir / "predictions.safetensors").read_bytes()


def test_codewords_cross_as_codewords(tiny_config, open_log):
    config = tiny_config("run", schedule="joint", epochs=2, codec={"name": "float32"}, **PROTECTED["codewords"])
    train(config, single_process=True, monitor=Quiet())
    log = open_log(config.run_dir)
    for frame in log.frames():
        header = log.header_of(frame.seq)
        features = torch.from_numpy(unpack(frame.batch, header).features_BF)
        assert header.feature_shape == (6,)
        assert torch.equal(features.sort(dim=1).values, torch.eye(6)[-1:].expand(len(features), 6)), "one-hot"


def test_two_stage_sends_what_the_frozen_front_makes_of_augmented_images(tiny_config, open_log):
    config = tiny_config("run", schedule="two-stage", epochs=3, train={"front_epochs": 2}, codec={"name": "float32"})
    train(config, single_process=True, monitor=Quiet())
    dataset = open_data(config, Quiet())
    learner = get_method(config.method).edge(config, dataset.task, torch.device("cpu"), dataset)
    learner.modules["front"].load_state_dict(load_file(config.run_dir / "edge" / "front.safetensors"))
    log = open_log(config.run_dir)
    streams = [(header.epoch, header.split) for header in log.streams]
    epochs = [(epoch, split) for epoch in (2, 3, 4) for split in ("train", "val")]
    assert streams == [*epochs, (4, "test")], "epochs go on where those of the front ended"
    as_it_is, views = 0, {}
    for frame in log.frames():
        batch = unpack(frame.batch, log.header_of(frame.seq))
        split = dataset.splits[log.header_of(frame.seq).split]
        places = np.searchsorted(split.ids, batch.ids)
        clean, _ = learner.infer(split.read(places))
        sent_BF = torch.from_numpy(batch.features_BF)
        if log.header_of(frame.seq).split == "train":
            for image, sent, plain in zip(batch.ids.tolist(), sent_BF, clean, strict=True):
                views.setdefault(image, []).append(sent)
                as_it_is += torch.allclose(sent, plain, atol=1e-5)
        else:
            torch.testing.assert_close(sent_BF, clean, rtol=0, atol=1e-5)
    total = sum(map(len, views.values()))
    assert total == 3 * 96
    # Mirrored with probability 1/2: 288 fair coins are within 0.5 ± 0.18 but for 1e-9.
    assert 0.32 < as_it_is / total < 0.68
    assert any(not torch.allclose(one[0], other, atol=1e-5) for one in views.values() for other in one[1:])


# Quick: the step alone in test_suppression_brings_a_fresh_reader_to_chance (test_protected_step.py); that a run takes
# the weight into its step, in the row adversary.weight of test_settings.py.
@pytest.mark.slow
def test_on_drawn_faces_a_reader_of_what_crossed_sees_less_of_the_hidden_attribute(tiny_config, open_log):
    """Hats are hidden, long hair is learned. 1000 test images: balanced accuracies have a standard error of 0.016.

    Measured: undefended 0.75 with the exit at 0.90, defended 0.63 with the exit at 0.90.
    """
    leaked, kept = {}, {}
    for weight in (0.0, 3.0):
        config = tiny_config(
            f"weight{weight}",
            schedule="freeze-and-log",
            epochs=1,
            data={
                "desired": "long_hair",
                "sensitive": "hat",
                "image_size": 32,
                "limit": {"train": 1000, "val": 20, "test": 1000},
            },
            model={"bottleneck": [8, 4, 4], "exit": {"width": 32}},
            train={"batch_size": 32, "lr": 3e-3, "front_epochs": 8},
            adversary={"exits": ["linear", "mlp"], "weight": weight, "steps": 2, "lr": 3e-3},
            dp={"mechanism": "gaussian", "sigma": 0.3},
            codec={"name": "float32"},
        )
        share_key(config.run_dir)
        results = train(config, single_process=True, monitor=Quiet())
        splits = open_data(config, Quiet()).splits
        log = open_log(config.run_dir)
        crossed: dict[str, list[torch.Tensor]] = {"train": [], "test": [], "val": []}
        wearing: dict[str, list[torch.Tensor]] = {"train": [], "test": [], "val": []}
        for frame in log.frames():
            batch = unpack(frame.batch, log.header_of(frame.seq))
            name = log.header_of(frame.seq).split
            crossed[name].append(torch.from_numpy(batch.features_BF).flatten(1))
            places = np.searchsorted(splits[name].ids, batch.ids)
            wearing[name].append(splits[name].sensitive_labels["hat"][places])
        known, asked = (torch.cat(crossed[name]) for name in ("train", "test"))
        hats = {name: torch.cat(wearing[name]) for name in ("train", "test")}
        read = logistic(known, hats["train"], asked)
        leaked[weight] = sum((read == hats["test"])[hats["test"] == one].float().mean().item() for one in (0, 1)) / 2
        kept[weight] = results.test.exit.balanced_accuracy
    assert leaked[0.0] > 0.69
    assert leaked[3.0] < leaked[0.0] - 0.06
    assert kept[3.0] > kept[0.0] - 0.04


def logistic(known: torch.Tensor, labels: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Answers in {0, 1} of a logistic regression, weights shrunk a little."""
    weights = torch.zeros(known.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = known @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels.float())
        value = value + 0.01 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        return (asked @ weights[:-1] + weights[-1] > 0).long()
