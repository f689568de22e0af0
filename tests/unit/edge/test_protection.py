"""From settings to the mechanism and the gate of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smartedge.config import load_config
from smartedge.edge.protection import open_gate
from smartedge.edge.summary import privacy_summary
from smartedge.errors import PrivacyError
from smartedge.methods.mechanism import mechanism_of
from smartedge.privacy.accountant import composed_epsilon
from smartedge.types import Task

TASK = Task("single", ("smile",), ("no", "yes"))
GAUSSIAN = {"model": {"bottleneck": "2x2x2"}, "dp": {"mechanism": "gaussian", "epsilon": 2.0}}


def settings(**changes):
    return load_config({"epochs": 5}, changes)


@pytest.mark.parametrize("schedule", ["joint", "two-stage", "freeze-and-log"])
def test_noise_is_calibrated_for_the_releases_of_the_schedule(schedule):
    config = settings(**GAUSSIAN, schedule=schedule)
    mechanism = mechanism_of(config, (2, 2, 2))
    releases = 1 if schedule == "freeze-and-log" else 5
    assert composed_epsilon({mechanism.event: releases}, 1e-5) == pytest.approx(2.0, rel=1e-6)
    assert mechanism.clip == pytest.approx(math.sqrt(8))


def test_other_mechanisms_and_methods():
    discrete = settings(model={"codebook": 8}, dp={"mechanism": "randomised-response", "epsilon": 4.0}, epochs=1)
    assert mechanism_of(discrete, (8,)).epsilon == 4.0
    assert mechanism_of(settings(model={"codebook": 8}), (8,)).channel().shape == (8, 8)
    images = mechanism_of(settings(method="upload"), (3, 64, 64))
    assert images.bound(np.zeros((1, 3, 2, 2), np.uint8)).dtype == np.uint8


def test_a_gate_that_is_opened_again_goes_on_where_it_was(tmp_path):
    config = settings(**GAUSSIAN)
    mechanism = mechanism_of(config, (2, 2, 2))
    features, ids, labels = np.zeros((3, 2, 2, 2), np.float32), np.arange(3), np.array([0, 1, 0])
    gate = open_gate(config, tmp_path, "run", mechanism, TASK, existing=False)
    with gate.ledger:
        first = gate.release(ids, features, labels, split="train", seq=0)
    gate = open_gate(config, tmp_path, "run", mechanism, TASK, existing=True)
    with gate.ledger:
        again = gate.release(ids, features, labels, split="train", seq=0)
        assert np.array_equal(first.features_BF, again.features_BF)
        assert gate.ledger.releases("train") == 1
        for seq in range(1, 5):
            gate.release(ids, features, labels, split="train", seq=seq)
        with pytest.raises(PrivacyError, match="budget is 2"):
            gate.release(ids, features, labels, split="train", seq=5)
    weaker = settings(**{**GAUSSIAN, "dp": {"mechanism": "gaussian", "epsilon": 9.0}})
    less_noise = mechanism_of(weaker, (2, 2, 2))
    with pytest.raises(PrivacyError, match="other settings"):
        open_gate(weaker, tmp_path, "run", less_noise, TASK, existing=True)
    (tmp_path / "noise.key").write_bytes(bytes(32))
    with pytest.raises(PrivacyError, match=r"other settings of model and dp \(policy\.key\)"):
        open_gate(config, tmp_path, "run", mechanism, TASK, existing=True)
    (tmp_path / "noise.key").unlink()
    with pytest.raises(PrivacyError, match="key"):
        open_gate(config, tmp_path, "run", mechanism, TASK, existing=True)


@pytest.mark.parametrize("changed", [{"label_epsilon": 0.5}, {"apply_to": "training"}])
def test_a_run_goes_on_with_the_labels_and_splits_that_it_protected_before(tmp_path, changed):
    config = settings(**GAUSSIAN)
    mechanism = mechanism_of(config, (2, 2, 2))
    other = settings(**{**GAUSSIAN, "dp": {**GAUSSIAN["dp"], **changed}})
    for first, then in ((config, other), (other, config)):
        folder = tmp_path / f"{first is config}"
        gate = open_gate(first, folder, "run", mechanism, TASK, existing=False)
        assert (gate.label_epsilon, gate.training_only) == (first.dp.label_epsilon, first.dp.apply_to == "training")
        assert gate.task is TASK and gate.ledger.budget.epsilon == 2.0
        with gate.ledger:
            gate.release(np.arange(3), np.zeros((3, 2, 2, 2), np.float32), np.zeros(3, np.int64), split="train", seq=0)
        with pytest.raises(PrivacyError, match="other settings"):
            open_gate(then, folder, "run", mechanism, TASK, existing=True)


def test_a_gate_does_not_open_without_a_record_of_all_that_was_sent(tmp_path):
    config = settings(**GAUSSIAN)
    mechanism = mechanism_of(config, (2, 2, 2))
    gate = open_gate(config, tmp_path, "run", mechanism, TASK, existing=False)
    with gate.ledger:
        gate.release(np.arange(3), np.zeros((3, 2, 2, 2), np.float32), np.zeros(3, np.int64), split="train", seq=0)
    open_gate(config, tmp_path, "run", mechanism, TASK, existing=True, sent=1).ledger.close()
    with pytest.raises(PrivacyError, match="frames before 2 were sent, and it does not hold them all"):
        open_gate(config, tmp_path, "run", mechanism, TASK, existing=True, sent=2)
    for name in ("ledger.sqlite", "noise.key"):
        (tmp_path / name).unlink()
        with pytest.raises(PrivacyError, match=name):
            open_gate(config, tmp_path, "run", mechanism, TASK, existing=True)
        assert not (tmp_path / name).exists(), "no other one is made in its place"


def summary_after(releases, config, folder):
    """Of a run that released the same three maps that often."""
    gate = open_gate(config, folder, "run", mechanism_of(config, (2, 2, 2)), TASK, existing=False)
    with gate.ledger:
        for seq in range(releases):
            gate.release(
                np.arange(3), np.zeros((3, 2, 2, 2), np.float32), np.zeros(3, np.int64), split="train", seq=seq
            )
        return privacy_summary(gate)


def test_the_summary_states_what_was_spent(tmp_path):
    config = settings(**{**GAUSSIAN, "dp": {**GAUSSIAN["dp"], "label_epsilon": 0.5}})
    mechanism = mechanism_of(config, (2, 2, 2))
    summary = summary_after(2, config, tmp_path)
    assert summary.releases_max == 2
    assert summary.epsilon == mechanism.epsilon < summary.epsilon_total < 2.0 == summary.epsilon_budget
    assert summary.epsilon_total == composed_epsilon({mechanism.event: 2}, 1e-5)
    assert (summary.label_epsilon, summary.labels) == (0.5, "randomised")
    assert summary.epsilon_with_label == pytest.approx(summary.epsilon_total + 0.5)
    assert (summary.delta, summary.delta_total) == (1e-5, 1e-5)
    assert summary.sigma == mechanism.sigma
    assert summary.sampling_delta < 1e-9, "a share of the stated probabilities, whatever ε is"


def test_the_summary_is_of_what_is_protected(tmp_path):
    """With ``apply_to: training`` the other splits go in clear, labels too. A pure ε is one at δ = 0 only once."""
    laplace = {"mechanism": "laplace", "epsilon": 3.0, "label_epsilon": 0.5, "apply_to": "training"}
    config = settings(model={"bottleneck": "2x2x2"}, dp=laplace, epochs=3)
    mechanism = mechanism_of(config, (2, 2, 2))
    gate = open_gate(config, tmp_path, "run", mechanism, TASK, existing=False)
    with gate.ledger:
        features, labels = np.zeros((3, 2, 2, 2), np.float32), np.zeros(3, np.int64)
        nothing = privacy_summary(gate, front="trained")
        gate.release(np.arange(3), features, labels, split="val", seq=0)
        gate.release(np.arange(3), features, labels, split="train", seq=1)
        once = privacy_summary(gate)
        gate.release(np.arange(3), features, labels, split="train", seq=2)
        twice = privacy_summary(gate)
    assert (nothing.epsilon_total, nothing.releases_max, nothing.label_epsilon, nothing.front) == (0, 0, 0, "trained")
    assert (once.epsilon_total, once.releases_max, once.label_epsilon) == (mechanism.epsilon, 1, 0.5)
    assert [each.delta_total for each in (nothing, once, twice)] == [0.0, 0.0, 1e-5]
    assert twice.apply_to == "training" and twice.epsilon_total <= 2 * mechanism.epsilon


def test_the_summary_of_an_element_guarantee_states_the_whole_maps(tmp_path):
    element = {"mechanism": "laplace", "granularity": "element", "epsilon": 1.5}
    config = settings(model={"bottleneck": "2x2x2"}, dp=element, schedule="freeze-and-log")
    summary = summary_after(1, config, tmp_path)
    assert (summary.epsilon, summary.vector_epsilon) == (1.5, 12.0)
    assert (summary.epsilon_total, summary.vector_epsilon_total) == (1.5, 12.0)
    assert (summary.delta, summary.delta_total) == (0.0, 0.0), "one pure release"
    assert summary.label_epsilon is None, "in clear: infinite"


def test_several_releases_of_a_map_whose_elements_are_protected_add_up(tmp_path):
    element = {"mechanism": "laplace", "granularity": "element", "epsilon": 3.0}
    config = settings(model={"bottleneck": "2x2x2"}, dp=element, epochs=2)
    mechanism = mechanism_of(config, (2, 2, 2))
    summary = summary_after(2, config, tmp_path)
    assert (summary.epsilon_total, summary.delta_total) == (pytest.approx(3.0), 1e-5)
    assert summary.vector_epsilon_total == 8 * 2 * mechanism.epsilon, "pure: composed, it would be at 8 times δ"


def test_the_summary_of_a_run_without_protection_has_no_finite_epsilon(tmp_path):
    config = settings()
    gate = open_gate(config, tmp_path, "run", mechanism_of(config, (2,)), TASK, existing=False)
    with gate.ledger:
        gate.release(np.arange(3), np.zeros((3, 2), np.float32), np.zeros(3, np.int64), split="train", seq=0)
        summary = privacy_summary(gate)
    assert summary.mechanism == "none"
    for key in ("epsilon", "epsilon_total", "vector_epsilon", "epsilon_with_label", "epsilon_budget", "clip", "sigma"):
        assert getattr(summary, key) is None
    assert (summary.attribute_bound, summary.releases_max) == (1.0, 1)


@pytest.mark.parametrize("kind", ["gaussian", "codewords"])
def test_a_repetition_does_not_tell_that_features_stayed_as_they_were(tmp_path, kind):
    """A front that learns gives an image other features in each epoch, or the same ones. That is not to be seen."""
    model, dp, shape = {
        "gaussian": ({"bottleneck": "1x8x8"}, {"mechanism": "gaussian", "sigma": 1.0}, (1, 8, 8)),
        "codewords": ({"codebook": 64}, {"mechanism": "randomised-response", "epsilon": 5.0}, (64,)),
    }[kind]
    features = np.zeros((40, *shape), np.float32)
    features.reshape(40, -1)[:, 5] = 1  # of all images, and in both epochs
    for schedule, alike in (("joint", False), ("two-stage", True), ("freeze-and-log", True)):
        config = settings(model=model, dp=dp, schedule=schedule)
        gate = open_gate(config, tmp_path / schedule, "run", mechanism_of(config, shape), TASK, existing=False)

        def released(split, seq, gate=gate):
            labels = np.zeros(40, np.int64)
            return gate.release(np.arange(40), features, labels, split=split, seq=seq).features_BF

        with gate.ledger:
            first, later = (released("val", seq) for seq in (3, 9))
            # Two of 64 codewords with the odds of ε = 5 are equal with probability 0.49; all 40 with 1e-12.
            assert np.array_equal(first, later) == alike
            assert gate.ledger.releases("val") == (1 if alike else 2)
            assert np.array_equal(released("val", 9), later), "a frame that is sent again is the same release"
            assert np.array_equal(released("infer", None), released("infer", None)), "the front is final then"
            assert gate.ledger.releases("infer") == 1
