"""The correction of the back's answers for how often each edge sends each label."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.cloud.label_shares import LabelShares
from smartedge.methods.back_step import label_channel


def shares_of(counts: dict[str, list[int]], label_epsilon: float | None = None) -> LabelShares:
    shares = LabelShares(label_epsilon)
    for edge, each in counts.items():
        shares.see(edge, np.repeat(np.arange(len(each)), each), len(each))
    return shares


def test_the_offset_is_the_log_of_the_edges_share_over_that_of_all() -> None:
    shares = shares_of({"a": [90_000, 10_000], "b": [30_000, 70_000]})
    found = shares.offsets(np.array(["b", "a", "b"]))
    assert found is not None and found.dtype == np.float32
    expected_a, expected_b = np.log([0.9 / 0.6, 0.1 / 0.4]), np.log([0.3 / 0.6, 0.7 / 0.4])
    np.testing.assert_allclose(found, [expected_b, expected_a, expected_b], atol=2e-3)


def test_equal_shares_and_a_single_edge_change_nothing() -> None:
    assert shares_of({"a": [5, 1]}).offsets(np.array(["a"])) is None
    even = shares_of({"a": [30, 10, 60], "b": [3, 1, 6]}).offsets(np.array(["a", "b", "new"]))
    np.testing.assert_allclose(even, np.zeros((3, 3)), atol=1e-6)


def test_few_images_of_an_edge_say_little_about_it() -> None:
    few = shares_of({"a": [2, 0], "b": [500, 500]}).offsets(np.array(["a"]))
    many = shares_of({"a": [200, 0], "b": [500, 500]}).offsets(np.array(["a"]))
    assert few is not None and many is not None
    assert 0 < few[0, 0] < 0.15 and many[0, 1] < -2


def test_columns_have_offsets_of_their_own() -> None:
    shares = LabelShares(None)
    for edge, yes in (("a", [0.8, 0.5]), ("b", [0.2, 0.5])):
        labels = (np.arange(10_000)[:, None] < 10_000 * np.array(yes)).astype(np.uint8)
        shares.see(edge, labels, 2)
    found = shares.offsets(np.array(["a", "b"]))
    logit = np.log(0.8 / 0.2)
    np.testing.assert_allclose(found, [[logit, 0], [-logit, 0]], atol=5e-3)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_randomised_labels_are_traced_back_to_the_true_shares(kind: str) -> None:
    """Counts are the expected ones, so nothing is random here."""
    epsilon, true = 1.5, {"a": np.array([0.9, 0.1]), "b": np.array([0.4, 0.6])}
    channel = label_channel(epsilon, 2 if kind == "single" else 1, kind).double().numpy()
    found = {}
    for noisy in (True, False):
        shares = LabelShares(epsilon if noisy else None)
        for edge, share in true.items():
            counts = np.round(1_000_000 * (share @ channel if noisy else share)).astype(int)
            labels = np.repeat([0, 1], counts)
            shares.see(edge, labels if kind == "single" else labels[:, None], 2 if kind == "single" else 1)
        found[noisy] = shares.offsets(np.array(["a", "b"]))
    np.testing.assert_allclose(found[True], found[False], atol=1e-3)


def test_the_state_comes_back() -> None:
    first = shares_of({"a": [9, 1], "b": [1, 9]})
    second = LabelShares(None)
    second.load_state(first.state())
    np.testing.assert_array_equal(first.offsets(np.array(["a", "b"])), second.offsets(np.array(["a", "b"])))


def test_labels_that_are_lacking_are_not_counted() -> None:
    whole, blank = LabelShares(None), LabelShares(None)
    rng = np.random.default_rng(0)
    for edge in ("a", "b"):
        labels = (rng.random((400, 2)) < 0.3).astype(np.float32)
        whole.see(edge, labels, 2)
        blank.see(edge, np.concatenate([labels, np.full((300, 2), np.nan, np.float32)]), 2)
    np.testing.assert_array_equal(whole.offsets(np.array(["a"])), blank.offsets(np.array(["a"])))


def test_a_label_that_an_edge_seems_to_have_less_than_never_counts_as_rare() -> None:
    """Randomised labels that are all alike are traced back to a share below zero of the other one."""
    found = shares_of({"a": [100_000, 0], "b": [30_000, 70_000]}, label_epsilon=1.0).offsets(np.array(["a"]))
    channel = label_channel(1.0, 2, "single").double().numpy()
    of_a, of_all = np.linalg.solve(channel.T, [1.0, 0.0]), np.linalg.solve(channel.T, [0.65, 0.35])
    assert of_a[1] < 0
    assert found is not None and found[0, 1] == pytest.approx(np.log(0.001 / (of_a[0] + 0.001) / of_all[1]), abs=1e-2)
