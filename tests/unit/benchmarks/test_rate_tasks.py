"""Keys of what benchmarks/rate_accuracy.py sends, and means over seeds."""

from __future__ import annotations

import pytest
from common import difference
from rate_accuracy import averaged
from rate_tasks import Sent


def test_a_key_names_bottleneck_bytes_and_variants() -> None:
    sent = Sent("16x8x8+262~layer3~smooth~mix")
    assert (sent.base, sent.target, sent.variants) == ("16x8x8", "262", ["layer3", "smooth", "mix"])
    assert sent.changes == {
        "model": {"bottleneck": "16x8x8", "cut": "layer3"},
        "codec": {"name": "learned", "bytes": 262},
        "train": {"label_smoothing": 0.1},
    }


@pytest.mark.parametrize(("key", "bottleneck"), [("8x4x4", "8x4x4"), ("plain", None)])
def test_a_front_without_bytes_is_logged_as_it_is(key: str, bottleneck: str | None) -> None:
    lossless = {"name": "float32", "bytes": None}
    assert Sent(key).changes == {"model": {"bottleneck": bottleneck}, "codec": lossless}


def test_joint_sends_anew_in_each_epoch() -> None:
    assert Sent("8x8x8+122~joint").changes["schedule"] == "joint"
    assert "schedule" not in Sent("8x8x8+122").changes  # the task's: each image once


def test_images_are_uploaded() -> None:
    assert Sent("image~smooth").changes["method"] == "upload"


def test_seeds_are_averaged_and_differences_are_taken_seed_by_seed() -> None:
    def point(seed: int, sent: str, accuracy: float) -> dict[str, object]:
        test = {"balanced_accuracy": accuracy}
        return {"task": "cifar10", "sent": sent, "codec": "x", "seed": seed, "bytes_up_per_image": 10.0, "test": test}

    found = averaged([point(0, "a", 0.5), point(1, "a", 0.7), point(1, "b", 0.8), point(2, "b", 0.1)])
    first, second = found
    assert first["test"]["balanced_accuracy"] == pytest.approx(0.6)
    assert difference(first["accuracies"], second["accuracies"]) == "-10.00"  # seed 1 alone has both
    assert difference({0: 0.5, 1: 0.7}, {0: 0.5, 1: 0.5}) == "+10.00 ± 10.00"
