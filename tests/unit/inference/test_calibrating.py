"""The temperature of an exit, and thresholds that reach a goal."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from smartedge.artifacts.front import Calibration
from smartedge.codec import get_codec
from smartedge.config import load_config
from smartedge.errors import ConfigError
from smartedge.inference import run_calibration
from smartedge.inference.calibrating import NEVER, Goal, _rows, calibrate, fit_temperature
from smartedge.inference.run_calibration import calibration_of
from smartedge.inference.trained import TrainedRun
from smartedge.metrics import confidence, probabilities
from smartedge.privacy.mechanisms import Gaussian
from smartedge.privacy.noise import Noise
from smartedge.types import ImageBatch, Task

SINGLE = Task("single", ("kind",), ("a", "b", "c"))
MULTI = Task("multi", ("x", "y"), ("x", "y"))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    """Labels are drawn from the softmax of the logits, which are then made too large by a known factor.

    At 40 000 labels the estimate's standard error is below 1 %: 5 % is more than five of them (below 1e-6).
    """
    random = np.random.default_rng(0)
    logits_NK = random.normal(0, 1.5, (40_000, 3)).astype(np.float32)
    chances = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    labels = (random.random((40_000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert fit_temperature(logits_NK * np.float32(temperature), labels, SINGLE) == pytest.approx(temperature, rel=0.05)
    single = logits_NK[:, :2]
    several = (random.random((40_000, 2)) < 1 / (1 + np.exp(-single))).astype(np.float32)
    assert fit_temperature(single * np.float32(temperature), several, MULTI) == pytest.approx(temperature, rel=0.05)


def calibration(back: bool = True) -> Calibration:
    """100 images: the exit is right on the 80 of which it is sure, the back on 95 of all."""
    sure = np.linspace(0.5, 0.995, 100)
    exit_right = (np.arange(100) >= 20).astype(float)
    back_right = (np.arange(100) >= 5).astype(float)
    rows = _rows(sure, exit_right, back_right if back else None)
    return Calibration(temperature=1, images=100, exit_accuracy=0.8, back_accuracy=0.95 if back else None, rows=rows)


def test_a_share_that_may_be_offloaded():
    found = Goal(offload=0.1).threshold(calibration())
    assert (np.linspace(0.5, 0.995, 100) < found).sum() in (9, 10)
    assert Goal(offload=0.0).threshold(calibration()) == 0.5, "no image has less"
    assert Goal(offload=1.0).threshold(calibration()) == NEVER


def test_points_that_may_be_lost():
    """With the 20 least sure images at the back, all that the exit answers is right: as good as the back alone."""
    sure = np.linspace(0.5, 0.995, 100)
    assert (sure < Goal(lose=0.0).threshold(calibration())).sum() == 20
    assert (sure < Goal(lose=0.05).threshold(calibration())).sum() == 15
    assert Goal(lose=0.2).threshold(calibration()) == 0.0
    with pytest.raises(ConfigError, match="how accurate the back is"):
        Goal(lose=0.1).threshold(calibration(back=False))


def test_the_first_row_offloads_nothing_and_the_last_everything():
    rows = calibration().rows
    assert (rows[0].threshold, rows[0].offloaded, rows[0].accuracy) == (0.0, 0.0, 0.8)
    assert (rows[-1].threshold, rows[-1].offloaded, rows[-1].accuracy) == (NEVER, 1.0, 0.95)
    assert [row.offloaded for row in rows] == sorted(row.offloaded for row in rows)


class Front:
    """Features are the pixels; the exit answers with the first three of them, far too sure. Keeps what it sees."""

    config = load_config({"codec": {"name": "uint4"}})
    task, feature_shape = SINGLE, (4, 1, 1)
    mechanism = Gaussian((4, 1, 1), clip=3.0, scale=0.5, delta_=1e-5)

    def __init__(self):
        self.seen = []

    def features(self, images_BCHW):
        return images_BCHW[:, :4].astype(np.float32) / 255

    def logits(self, features_BF, *, released):
        assert released
        self.seen.append(features_BF)
        return 30 * features_BF[:, :3, 0, 0]


@pytest.mark.parametrize("protected", [True, False])
def test_exit_and_back_are_calibrated_on_what_they_see_at_inference(protected, tmp_path):
    """With noise drawn anew for each batch; the back sees what the codec leaves. Two batches of the same images."""
    random, asked = np.random.default_rng(0), []
    images = random.integers(0, 256, (200, 4, 1, 1), dtype=np.uint8)
    labels = random.integers(0, 3, 200)

    def back(features_BF):
        asked.append(features_BF)
        return np.eye(3)[labels]

    noise = Noise.open(tmp_path / "noise.key", existing=False)
    front, codec = Front(), get_codec("uint4")
    found = calibrate(front, [(images, labels)] * 2, noise=noise, protected=protected, back=back)
    clean = front.features(images)
    same = [np.array_equal(seen, clean) for seen in front.seen]
    assert same == [not protected] * 2 and np.array_equal(*front.seen) is not protected
    for seen, decoded in zip(front.seen, asked, strict=True):
        payload, side = codec.encode(seen)
        expected = codec.decode(payload, side, batch=200, feature_shape=(4, 1, 1), dtype=np.dtype(np.float32))
        np.testing.assert_array_equal(decoded, expected)
    logits = 30 * np.concatenate(front.seen)[:, :3, 0, 0]
    right = logits.argmax(axis=1) == np.tile(labels, 2)
    assert (found.images, found.exit_accuracy, found.back_accuracy) == (400, right.mean(), 1.0)
    assert found.temperature == fit_temperature(logits, np.tile(labels, 2), SINGLE) > 5
    surest = confidence(probabilities(logits / np.float32(found.temperature), "single"), "single").max()
    assert found.rows[-2].threshold == surest < 0.99


def test_without_a_back_its_accuracy_stays_unknown_and_without_images_there_is_no_calibration(tmp_path):
    images, noise = np.arange(8, dtype=np.uint8).reshape(2, 4, 1, 1), Noise.open(tmp_path / "noise.key", existing=False)
    found = calibrate(Front(), [(images, np.array([2, 0]))], noise=noise, protected=False, back=None)
    assert (found.exit_accuracy, found.back_accuracy, found.rows[-1].accuracy) == (0.5, None, None)
    with pytest.raises(ConfigError, match="no validation images"):
        calibrate(Front(), [], noise=noise, protected=False, back=None)


class Validation:
    """130 images, more than two batches of them."""

    def __len__(self):
        return 130

    def read(self, indices):
        pixels = np.random.default_rng(0).integers(0, 256, (130, 4, 1, 1), dtype=np.uint8)
        return ImageBatch(indices, torch.from_numpy(pixels)[indices], torch.arange(130)[indices] % 3)


@pytest.mark.parametrize("apply_to", ["always", "training"])
def test_a_runs_exit_is_calibrated_once_on_its_validation_images(apply_to, tmp_path, monkeypatch):
    """And once more where the back has come since. Released as at inference, with the run's own noise."""
    config = load_config({"dp": {"mechanism": "gaussian", "sigma": 1, "clip": 3, "apply_to": apply_to}})
    run, opened = TrainedRun(tmp_path, config, SINGLE, {}), []
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    for side in ("edge", "cloud"):
        (tmp_path / side).mkdir()
    Noise.open(tmp_path / "edge" / "noise.key", existing=False)

    def dataset_of(config):
        opened.append(config)
        return SimpleNamespace(splits={"val": Validation()})

    monkeypatch.setattr(run_calibration, "dataset_of", dataset_of)
    monkeypatch.setattr(run_calibration, "LocalBack", lambda run: lambda features_BF: np.eye(3)[[0] * len(features_BF)])
    front = Front()
    with monkeypatch.context() as disk:
        disk.setattr("smartedge.files.replacing", Mock(side_effect=OSError(errno.EROFS, "can only be read")))
        unkept = calibration_of(run, front)
    opened.clear()
    front.seen.clear()
    found = calibration_of(run, front)
    assert found == unkept
    assert (found.images, found.back_accuracy) == (130, None)
    clean = front.features(Validation().read(np.arange(130)).images_BCHW.numpy())
    assert np.array_equal(np.concatenate(front.seen), clean) is (apply_to == "training")
    assert calibration_of(run, front) == found and opened == [config]

    (tmp_path / "cloud" / "back.safetensors").touch()
    with_back = calibration_of(run, front)
    assert with_back.back_accuracy == pytest.approx(44 / 130)
    assert calibration_of(run, front) == with_back and len(opened) == 2
