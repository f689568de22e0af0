"""What the results say: each figure of the two sides, and those about privacy against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fleet_example import fleet_figures
from safetensors.torch import load_file, save_file

from smartedge import metrics
from smartedge.artifacts.metrics import EpochFigures
from smartedge.artifacts.results import Privacy, Results
from smartedge.artifacts.run import RunFacts
from smartedge.artifacts.summary import CloudSummary, EdgeSummary, Session, TrafficTotals
from smartedge.artifacts.task import TaskFacts
from smartedge.config import load_config
from smartedge.errors import RunError
from smartedge.methods.base import get_method
from smartedge.runs.record import read_metrics
from smartedge.runs.results import (
    _against_true_labels,
    _answers_of_back,
    _bottleneck,
    _join_predictions,
    _response_baseline,
    _times,
    _with_baseline,
    assemble,
)

TRAFFIC = {"up": {}, "down": {}, "images": {}, "source": "", "codec_error": None}


def task(kind, *names):
    return TaskFacts(kind=kind, columns=names, names=names)


def test_the_baseline_is_randomised_response_on_the_exits_answers():
    """By the whole table: truth → the exit's answer → the answer sent; recall by class, then their mean."""
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 4, 300), rng.random((300, 4))
    scores[np.arange(300), truth] += 0.4
    answers = scores.argmax(axis=1)
    epsilon = 1.3
    total = math.exp(epsilon) + 3
    recalls = []
    for c in range(4):
        share = [np.mean(answers[truth == c] == a) for a in range(4)]
        recalls.append(sum(share[a] * (math.exp(epsilon) if a == c else 1) / total for a in range(4)))
    at_exit = metrics.evaluate(truth, scores / scores.sum(axis=1, keepdims=True), "single")["balanced_accuracy"]
    found = _response_baseline(at_exit, epsilon, task("single", *"abcd"))
    assert found == pytest.approx(np.mean(recalls))


def test_the_baseline_of_several_columns_shares_the_budget():
    kept = math.exp(2) / (1 + math.exp(2))
    found = _response_baseline(0.9, 6.0, task("multi", *"abc"))
    assert found == pytest.approx(0.9 * kept + 0.1 * (1 - kept))


def test_the_baseline_of_an_unsure_exit_is_taken_at_its_best_threshold(tmp_path):
    """Both classes get scores below one half, in the right order; without ε, or without an exit, there is none."""
    labels = torch.tensor([0, 0, 0, 1])
    yes = torch.tensor([0.3, 0.3, 0.3, 0.4])
    (tmp_path / "edge").mkdir()
    save_file({"labels": labels, "scores": torch.stack([1 - yes, yes], 1)}, tmp_path / "edge/predictions.safetensors")
    privacy = Privacy.model_construct(vector_epsilon=2.0, randomised_response_baseline=None)
    yes_no = task("single", "no", "yes")
    found = _with_baseline(tmp_path, privacy, yes_no, with_exit=True).randomised_response_baseline
    assert found == pytest.approx(math.exp(2) / (1 + math.exp(2)))
    assert _with_baseline(tmp_path, privacy, yes_no, with_exit=False).randomised_response_baseline is None
    unprotected = privacy.model_copy(update={"vector_epsilon": None})
    assert _with_baseline(tmp_path, unprotected, yes_no, with_exit=True).randomised_response_baseline is None


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_backs_figures_are_taken_against_the_labels_of_the_edge(tmp_path, kind):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(2, (50,) if kind == "single" else (50, 3), generator=generator)
    noisy = torch.where(torch.rand(truth.shape, generator=generator) < 0.4, 1 - truth, truth)
    if kind == "single":
        scores = torch.nn.functional.one_hot(truth, 2).float() * 0.8 + 0.1
    else:
        scores, truth, noisy = truth.float() * 0.8 + 0.1, truth.float(), noisy.float()
    shuffled = torch.randperm(50, generator=generator)
    for side, labels, order in (("edge", truth, torch.arange(50)), ("cloud", noisy, shuffled)):
        (tmp_path / side).mkdir()
        tensors = {"ids": order + 100, "labels": labels[order].contiguous(), "scores": scores[order].contiguous()}
        save_file(tensors, tmp_path / side / "predictions.safetensors")
    found = _against_true_labels(tmp_path, kind)
    assert found.accuracy == found.balanced_accuracy == found.auroc == 1.0
    assert found.loss == pytest.approx(-math.log(0.9), rel=1e-5)


def test_stages_that_follow_one_another_take_the_time_of_an_epoch_together():
    seconds = {"link_seconds": 2.0, "encode_seconds": 1.0, "release_seconds": 1.0}
    traffic = TrafficTotals.model_validate({**TRAFFIC, **seconds})
    edge = EdgeSummary.model_construct(
        session=Session(started=0.0, ended=100.0, epochs=10), busy_seconds=98.0, threaded=True, traffic=traffic
    )
    cloud = CloudSummary.model_construct(session=Session(started=0.0, ended=160.0, epochs=4), busy_seconds=60.0)
    _, per_epoch, stages = _times(4, edge, cloud)
    assert per_epoch == 40.0
    assert stages.edge + stages.cloud == pytest.approx(39.5)
    resumed = CloudSummary.model_construct(session=Session(started=0.0, ended=160.0, epochs=0), busy_seconds=60.0)
    assert _times(4, edge, resumed)[1] == 16.0


def test_without_the_backs_answers_there_are_no_figures_against_true_labels(tmp_path):
    """The server of several edges gives them to none; its own figures are against noisy labels."""
    assert _against_true_labels(tmp_path, "single") is None


def test_answers_to_several_edges_are_not_joined_with_those_of_one(tmp_path):
    """Each edge counts its images from 0, so another edge's row would be taken for this one's."""
    for side in ("edge", "cloud"):
        (tmp_path / side).mkdir()
        answers = {"ids": torch.arange(3), "labels": torch.tensor([0, 1, 1]), "scores": torch.full((3, 2), 0.5)}
        save_file(answers, tmp_path / side / "predictions.safetensors")
    _join_predictions(tmp_path, at_exit=True)
    assert set(load_file(tmp_path / "predictions.safetensors")) == {"ids", "labels", "exit", "back"}
    assert _answers_of_back(tmp_path) is not None

    fleet_figures().write(tmp_path / "cloud" / "fleet.json")
    _join_predictions(tmp_path, at_exit=True)
    assert set(load_file(tmp_path / "predictions.safetensors")) == {"ids", "labels", "exit"}
    assert _answers_of_back(tmp_path) is None and _against_true_labels(tmp_path, "single") is None


EDGE = {
    "finished": True,
    "session": {"started": 100.0, "ended": 160.0, "epochs": 6},
    "busy_seconds": 30.0,
    "processor_seconds": 25.0,
    "test": {"accuracy": 0.75, "balanced_accuracy": 0.7, "auroc": 0.8, "loss": 0.4, "base_rate": 0.6},
    "peak_rss_bytes": 1001,
    "threaded": True,
    "data_wait_seconds": 10.0,
    "data_busy_seconds": 7.0,
    "teacher_val": None,
    "traffic": {
        "up": {"train": 4000, "val": 300, "test": 20},
        "down": {"train": 80, "val": 6, "test": 1},
        "images": {"train": 40, "val": 10, "test": 3},
        "source": "payload",
        "release_seconds": 1.0,
        "encode_seconds": 2.0,
        "link_seconds": 8.0,
        "codec_error": {"rmse": 0.25, "max_abs": 0.5, "energy_kept": 0.9},
    },
    "releases_per_image": 2,
    "privacy": None,
    "feature_shape": (8, 4, 4),
    "reference_bytes": {"jpeg_q90": 900.5, "raw_uint8": 1728.0, "feature_float32": 512.0},
    "task": {"kind": "single", "columns": ["smile"], "names": ["no", "yes"]},
    "images": {"train": 20, "val": 10, "test": 3},
    "skipped": {"image truncated": 4},
    "notes": ["a note"],
    "baseline_rss_bytes": 1002,
}
CLOUD = {
    "finished": True,
    "session": {"started": 101.0, "ended": 180.0, "epochs": 4},
    "busy_seconds": 20.0,
    "test": {"accuracy": 0.875, "balanced_accuracy": 0.85, "auroc": 0.9, "loss": 0.3, "base_rate": 0.6},
    "peak_rss_bytes": 1003,
    "frames": 9,
}
WEIGHTS = {
    "source": "timm",
    "tensors": 3,
    "replaced": ["fc"],
    "image_size": 32,
    "mean": [0.5],
    "std": [0.25],
    "notes": ["drawn"],
}
FACTS = RunFacts.model_validate(
    {"machine": {"cores": 2}, "versions": {"smartedge": "9.9"}, "started": "then", "command": "smartedge train x.yaml"}
)
SETTINGS = {
    "schedule": "two-stage",
    "epochs": 5,
    "seed": 3,
    "data": {"path": "there", "image_size": 24},
    "model": {"name": "vgg11", "cut": "features.3", "bottleneck": "8x4x4"},
    "codec": {"name": "uint4"},
}


def sides_in(folder, edge, cloud):
    """The files of two sides that have ended, with lines of two epochs, and with answers in different orders."""
    for side, summary, model, ids in (
        ("edge", edge, EdgeSummary, [4, 2, 9]),
        ("cloud", cloud, CloudSummary, [9, 4, 5]),
    ):
        (folder / side).mkdir(parents=True)
        model.model_validate(summary).write(folder / side / "summary.json")
        figures = {**EDGE["test"], "seconds": 1.0}
        rows = [EpochFigures(side=side, epoch=epoch, split="val", **figures) for epoch in (0, 1)]
        (folder / side / "metrics.jsonl").write_text("".join(row.line() for row in rows))
        labels, yes = torch.tensor(ids) % 2, torch.tensor(ids) / (10 if side == "edge" else 20)
        labels = labels if side == "edge" else 1 - labels  # the cloud may have randomised ones
        answers = {"ids": torch.tensor(ids), "labels": labels, "scores": torch.stack([1 - yes, yes], 1)}
        save_file(answers, folder / side / "predictions.safetensors")


def test_every_figure_comes_to_its_place(tmp_path):
    sides_in(tmp_path, {**EDGE, "weights": WEIGHTS}, CLOUD)
    config = load_config(SETTINGS)
    found = assemble(tmp_path, config, get_method(config.method), FACTS)
    assert found == Results.read(tmp_path / "results.json")
    expected = {
        "schema_version": 2,
        "smartedge_version": "9.9",
        "method": "hierarchical",
        "schedule": "two-stage",
        "model": "vgg11",
        "weights": WEIGHTS,
        "cut": "features.3",
        "bottleneck": [8, 4, 4],
        "codec": "uint4",
        "seed": 3,
        "epochs": 5,
        "task": EDGE["task"],
        "data": {
            "path": "there",
            "image_size": 24,
            **EDGE["images"],
            "skipped": {"image truncated": 4},
            "notes": ["a note"],
        },
        "test": {
            side: {**of["test"], "balanced_accuracy_adjusted": None} for side, of in (("back", CLOUD), ("exit", EDGE))
        },
        "cloud_gain": 0.125,
        "bytes_per_image": {"up": 100.0, "down": 2.0, "source": "payload", "reference": EDGE["reference_bytes"]},
        "codec_error": EDGE["traffic"]["codec_error"],
        "bytes_total": {"up": 4320.0, "down": 87.0},
        "seconds_per_epoch": 20.0,
        "seconds_total": 80.0,
        "stage_seconds": {"edge": 6.0, "encode": 0.6, "link": 1.6, "cloud": 4.0},
        "edge_processor_seconds": 5.0,
        "edge_data_share": 0.25,
        "edge_peak_rss_bytes": 1001,
        "edge_baseline_rss_bytes": 1002,
        "cloud_peak_rss_bytes": 1003,
        "releases_per_image": 2,
        "privacy": None,
        "machine": {"cores": 2},
        "versions": {"smartedge": "9.9"},
        "started": "then",
        "command": "smartedge train x.yaml",
    }
    assert found.as_json() == expected
    rows = [(row.epoch, row.side) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert rows == [(0, "edge"), (0, "cloud"), (1, "edge"), (1, "cloud")]
    answers = load_file(tmp_path / "predictions.safetensors")
    assert (answers["ids"].tolist(), answers["labels"].tolist()) == ([4, 9], [0, 1]), "the images that both answered"
    assert answers["exit"][:, 1].tolist() == pytest.approx([0.4, 0.9])
    assert answers["back"][:, 1].tolist() == pytest.approx([0.2, 0.45])


def test_an_edge_alone_has_figures_of_the_undivided_network_and_none_of_a_link(tmp_path):
    sides_in(tmp_path, EDGE, {**CLOUD, "weights": WEIGHTS})
    config = load_config({"method": "local", "model": SETTINGS["model"]})
    found = assemble(tmp_path, config, get_method(config.method), FACTS)
    assert (found.test.back.accuracy, found.test.exit, found.cloud_gain) == (0.75, None, None)
    assert (found.cut, found.bottleneck, found.codec, found.cloud_peak_rss_bytes) == (None, None, None, None)
    assert (found.seconds_total, found.seconds_per_epoch, found.stage_seconds.cloud) == (60.0, 10.0, 0.0)
    assert found.weights is None


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_side_that_was_stopped_has_no_results(tmp_path, side):
    stopped = {"finished": False}
    sides_in(tmp_path, EDGE | (stopped if side == "edge" else {}), CLOUD | (stopped if side == "cloud" else {}))
    config = load_config(SETTINGS)
    with pytest.raises(RunError, match=f"{side}: the run was stopped before its end"):
        assemble(tmp_path, config, get_method(config.method), FACTS)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("named", "crossing", "said"),
    [("auto", (8, 4, 4), (8, 4, 4)), ("auto", (8, 4), (8, 4)), ("auto", (128,), None), ("2x2x2", (8, 4, 4), (2, 2, 2))],
)
def test_a_bottleneck_that_the_network_chose_is_what_crosses(named, crossing, said):
    assert _bottleneck(load_config({"model": {"bottleneck": named}}), crossing) == said
