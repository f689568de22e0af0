"""What the results say about privacy: against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fleet_example import fleet_figures
from safetensors.torch import load_file, save_file

from smartedge import metrics
from smartedge.artifacts.results import Privacy
from smartedge.artifacts.summary import CloudSummary, EdgeSummary, Session, TrafficTotals
from smartedge.artifacts.task import TaskFacts
from smartedge.runs.results import (
    _against_true_labels,
    _answers_of_back,
    _join_predictions,
    _response_baseline,
    _times,
    _with_baseline,
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
