"""A finished run, ready to answer: what is read of its folder, and what its front and exit compute."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_run import SETTINGS, finished_run
from headers import stream_header
from safetensors.torch import save_file
from untrained_run import edge_summary

from smartedge.artifacts.run import SharedRun
from smartedge.artifacts.task import TaskFacts
from smartedge.cloud.store.feature_log import FeatureLog, log_folder
from smartedge.config import Config, load_config
from smartedge.errors import RunError
from smartedge.inference import TorchFront, TrainedRun
from smartedge.inference.trained import _facts, load_part
from smartedge.models.network import to_input
from smartedge.types import Task

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
NOISE = {"mechanism": "gaussian", "sigma": 0.5, "clip": 1.0}


def test_the_front_computes_bounded_features_with_the_weights_of_the_run(tmp_path: Path) -> None:
    """With noise one image at a time: its features are the same bits whatever stands beside it."""
    run, divided = finished_run(tmp_path, dp=NOISE)
    front, passes = TorchFront(run), []
    front.front.register_forward_hook(lambda module, inputs, outputs: passes.append(len(outputs)))
    found = front.features(IMAGES)
    assert found.shape == (5, *front.feature_shape) == (5, 256, 2, 2) and found.dtype == np.float32
    with torch.no_grad():
        raw = divided.front(to_input(torch.from_numpy(IMAGES), torch.device("cpu"))).numpy()
    norms = np.linalg.norm(raw.reshape(5, -1), axis=1)
    assert (norms > 1.0).all()
    np.testing.assert_allclose(found, raw * (1.0 / norms).reshape(5, 1, 1, 1), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(front.features(IMAGES[2:3])[0], found[2])
    assert passes == [1] * 6


def test_without_noise_the_front_takes_many_images_at_once(tmp_path: Path) -> None:
    run, divided = finished_run(tmp_path)
    front, passes = TorchFront(run), []
    front.front.register_forward_hook(lambda module, inputs, outputs: passes.append(len(outputs)))
    many = np.tile(IMAGES, (14, 1, 1, 1))
    found = front.features(many)
    assert passes == [64, 6] and len(found) == 70
    with torch.no_grad():
        wanted = divided.front(to_input(torch.from_numpy(IMAGES), torch.device("cpu")))
        logits = divided.task_exit(wanted)
    np.testing.assert_allclose(found[-5:], wanted, atol=1e-5, rtol=0)
    for released in (False, True):
        answers = front.logits(wanted.numpy(), released=released)
        np.testing.assert_allclose(answers, logits, atol=1e-5, rtol=0)
    assert front.agreement == run.agreement and front.task == run.task and front.config == run.config


def test_what_was_not_released_is_computed_with_the_precision_of_the_training(tmp_path: Path) -> None:
    """A release is float32, and the exit answers it as ONNX Runtime would."""
    run, _ = finished_run(tmp_path)
    exact = TorchFront(run)
    narrow = TorchFront(dataclasses.replace(run, config=load_config(run.config, {"train": {"precision": "bfloat16"}})))
    features_BF = exact.features(IMAGES)
    assert 1e-4 < np.abs(narrow.features(IMAGES) - features_BF).max() < 0.1
    logits_BK = exact.logits(features_BF, released=True)
    np.testing.assert_array_equal(narrow.logits(features_BF, released=True), logits_BK)
    assert 1e-5 < np.abs(narrow.logits(features_BF, released=False) - logits_BK).max() < 0.1


def test_of_codewords_that_were_not_released_the_exit_gives_the_mean_over_the_outcomes(tmp_path: Path) -> None:
    run, divided = finished_run(
        tmp_path, model={"codebook": 4}, dp={"mechanism": "randomised-response", "epsilon": 1.0}
    )
    front = TorchFront(run)
    features_BF, outcomes = front.features(IMAGES), front.mechanism.outcomes()
    assert outcomes is not None
    with torch.no_grad():
        scores = divided.task_exit(torch.from_numpy(outcomes)).softmax(1).numpy()
    wanted = features_BF @ front.mechanism.channel() @ scores
    found = front.logits(features_BF, released=False)
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(1, keepdims=True), wanted, atol=1e-5, rtol=0)
    assert np.abs(front.logits(features_BF, released=True) - found).max() > 1e-3


def carried(config: Config, folder: Path) -> None:
    """``shared/run.json``, which an edge leaves."""
    (folder / "shared").mkdir(parents=True)
    task = TaskFacts(kind="single", columns=("kind",), names=("0", "1", "2"))
    SharedRun(settings=config.agreement(), task=task, feature_shape=(256, 2, 2)).write(folder / "shared" / "run.json")


def test_a_server_gets_settings_and_task_from_the_folder_that_may_travel(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, seed=4, data={"path": "only/here"})
    carried(run.config, tmp_path)
    found = TrainedRun.open(tmp_path)
    assert found.folder == tmp_path and found.agreement == run.agreement
    assert found.config.seed == 4 and found.config.agreement() == run.agreement
    assert found.config.data.path != "only/here" and found.task.names == ("0", "1", "2")
    (tmp_path / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
    assert TrainedRun.open(tmp_path).config.data.path == "only/here"


def test_a_cloud_alone_takes_the_place_of_what_the_edge_would_have_left(tmp_path: Path) -> None:
    """The first edge that has the cut of these settings said what the run is; names of classes it did not tell."""
    run, _ = finished_run(tmp_path, seed=4)
    shutil.rmtree(tmp_path / "edge")
    (tmp_path / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
    with pytest.raises(RunError, match=r"run\.json: is not there; the edge writes it when its part of the run ends"):
        TrainedRun.open(tmp_path)
    for edge, cut, epochs in (("attic", "layer2", 5), ("door", "layer3", 3), ("gate", "layer3", 4)):
        said = load_config(run.config, {"model": {"cut": cut}, "epochs": epochs}).agreement()
        header = stream_header(agreement=json.dumps(said), feature_shape=(256, 2, 2), outputs=3)
        with contextlib.closing(FeatureLog(log_folder(tmp_path / "cloud", edge), edge)) as log:
            log.begin(header)
            log.begin(dataclasses.replace(header, agreement="{}", epoch=1))
            log.sync()
    found = TrainedRun.open(tmp_path)
    assert (found.task.kind, found.task.columns, found.task.names) == ("single", ("kind",), ("0", "1", "2"))
    assert found.agreement["epochs"] == 3


def test_columns_of_several_questions_are_no_secret_of_the_edge() -> None:
    said = stream_header(agreement='{"seed": 4}', feature_shape=(2, 2), task_kind="multi", outputs=2)
    found = _facts(said, load_config({"data": {"desired": ["smile", "hat"]}}))
    assert (found.task.kind, found.task.columns, found.task.names) == ("multi", ("smile", "hat"), ("smile", "hat"))
    assert (found.settings, found.feature_shape) == ({"seed": 4}, (2, 2))


def test_what_an_edge_knows_of_its_task_it_reads_from_its_own_folder(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    carried(run.config, tmp_path)
    (tmp_path / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
    task = TaskFacts(kind="single", columns=("kind",), names=("cat", "dog", "owl"))
    edge_summary(task, (256, 2, 2)).write(tmp_path / "edge" / "summary.json")
    assert TrainedRun.open(tmp_path).task == Task("single", ("kind",), ("cat", "dog", "owl"))


def test_a_run_without_an_exit_cannot_answer(tmp_path: Path) -> None:
    carried(load_config(SETTINGS, {"method": "local"}), tmp_path)
    with pytest.raises(RunError, match=r"method 'local', which has no exit on the edge; .* need a run of method"):
        TrainedRun.open(tmp_path)


def test_the_half_that_is_not_here_is_told(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    run.check_front()
    run.check_back()
    (tmp_path / "edge" / "front.safetensors").unlink()
    (tmp_path / "cloud" / "summary.json").unlink()
    with pytest.raises(RunError, match=r"edge: there is no trained front here; use the folder of the edge's machine"):
        run.check_front()
    with pytest.raises(RunError, match=r"cloud: the cloud has not finished this run, or is elsewhere; finish the run"):
        run.check_back()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """A tensor too many is one as well: part of what was trained would be left out in silence."""
    module, file = torch.nn.Linear(2, 2), tmp_path / "w.safetensors"
    for state in ({"weight": torch.ones(2, 2)}, {**module.state_dict(), "more": torch.ones(1)}):
        save_file(state, file)
        with pytest.raises(RunError, match=r"w\.safetensors: the weights cannot be loaded"):
            load_part(module, file)
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, file)
    load_part(module, file)
    assert module.bias.tolist() == [1.0, 1.0]
    with pytest.raises(RunError, match=r"gone: the weights cannot be loaded"):
        load_part(module, tmp_path / "gone")


@pytest.mark.parametrize(("more", "weights"), [({}, "none"), ({"weights": "timm"}, "later")])
def test_the_network_is_built_for_weights_that_come(tmp_path: Path, more: dict[str, str], weights: str) -> None:
    """A file of pretrained weights is not read again."""
    run, _ = finished_run(tmp_path)
    blueprint = dataclasses.replace(run, agreement={**run.agreement, **more}).blueprint
    assert (blueprint.weights, blueprint.outputs, blueprint.at) == (weights, 3, "layer3")
