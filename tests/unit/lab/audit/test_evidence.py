"""RunEvidence of hand-made features here; of real runs in tests/e2e/test_audit.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smartedge.codec import get_codec
from smartedge.config import load_config
from smartedge.errors import ConfigError
from smartedge.lab.audit.evidence import _to_pixels, round_trip
from smartedge.lab.audit.gathering import _scores, affordable
from smartedge.lab.audit.inputs import val_labels, val_releases
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.undefended import _check_comparable, is_undefended, undefended_config
from smartedge.models.network import to_input
from smartedge.privacy.mechanisms import Gaussian, Laplace, Mechanism, RandomisedResponse

DEFENDED = {
    "schedule": "freeze-and-log",
    "data": {"sensitive": ["masculine"]},
    "model": {"bottleneck": "4x2x2"},
    "adversary": {"exits": ["mlp"]},
    "dp": {"mechanism": "gaussian", "epsilon": 4},
}


def test_a_draw_is_fresh_noise_on_a_view_chosen_for_each_image(evidence_of: Callable[..., RunEvidence]) -> None:
    truth = [torch.arange(count) % 2 for count in (500, 20, 20)]
    mechanism = Gaussian((2,), clip=10.0, scale=0.1, delta_=1e-5)
    evidence = evidence_of([torch.zeros(len(part), 2) for part in truth], truth, mechanism=mechanism)
    train = replace(evidence.train, views_VNF=(torch.zeros(500, 2), torch.full((500, 2), 5.0)))
    generator = torch.Generator().manual_seed(0)
    one, other = evidence.draw(train, generator), evidence.draw(train, generator)
    assert one.shape == (500, 2) and not torch.equal(one, other)
    mirrored = (one[:, 0] > 2.5).float().mean()
    assert 0.35 < float(mirrored) < 0.65  # a fair coin 500 times: six deviations are 0.134
    assert float((one - 5 * (one > 2.5)).std()) == pytest.approx(0.1, rel=0.15)
    assert float(evidence.draw(train, generator, torch.tensor([3, 1]), view=1).mean()) == pytest.approx(5, abs=0.3)


def test_validation_images_are_released_several_times_each_with_noise_of_its_own(
    evidence_of: Callable[..., RunEvidence],
) -> None:
    truth = [torch.arange(20) % 2] * 3
    features = [torch.randn(20, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    evidence = evidence_of(features, truth, mechanism=Gaussian((2,), clip=10.0, scale=0.1, delta_=1e-5))
    released, desired = val_releases(evidence)
    parts = released.split(20)
    assert len(parts) == 4 and len({part.numpy().tobytes() for part in parts}) == 4
    assert all(0 < float((part - features[1]).abs().max()) < 1 for part in parts)
    assert desired.tolist() == val_labels(evidence, "hidden").tolist() == truth[1].tolist() * 4
    assert torch.equal(val_releases(evidence_of(features, truth))[0], features[1])


@pytest.mark.parametrize(
    ("mechanism", "statistic"),
    [
        (Gaussian((2,), clip=10.0, scale=1.0, delta_=1e-5), "mean"),
        (Laplace((2,), clip=10.0, scale=1.0), "median"),
    ],
)
def test_several_releases_are_one_map_with_the_smaller_error(
    mechanism: Mechanism, statistic: str, evidence_of: Callable[..., RunEvidence]
) -> None:
    """An attacker with many Laplace releases reads more from their median than from their mean."""
    truth = [torch.arange(count) % 2 for count in (20, 20, 20)]
    evidence = evidence_of([torch.zeros(len(part), 2) for part in truth], truth, mechanism=mechanism)
    parts = []
    for releases in (1, 9):
        generator = torch.Generator().manual_seed(0)
        several = replace(evidence, releases=releases)
        parts.append([several.release(torch.zeros(2000, 2), generator) for _ in range(9 // releases)])
    ones, (nine,) = parts
    drawn = torch.stack(ones)
    expected = drawn.mean(dim=0) if statistic == "mean" else drawn.median(dim=0).values
    assert torch.allclose(nine, expected, atol=1e-6)
    other = drawn.median(dim=0).values if statistic == "mean" else drawn.mean(dim=0)
    assert nine.square().mean() < 0.9 * other.square().mean()


def test_without_noise_a_draw_is_the_codecs_round_trip_in_frames_of_the_runs_size(
    evidence_of: Callable[..., RunEvidence],
) -> None:
    truth = [torch.arange(40) % 2] * 3
    features = [torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    evidence = replace(evidence_of(features, truth), codec=get_codec("uint8"))
    drawn = evidence.draw(evidence.train, torch.Generator(), view=0)
    expected = torch.cat([round_trip(get_codec("uint8"), part) for part in features[0].split(16)])
    assert torch.equal(drawn, expected) and not torch.equal(drawn, features[0])


def test_images_survive_the_way_through_a_codec_of_images() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16).contiguous()
    inputs = to_input(images, torch.device("cpu"))
    assert torch.equal(_to_pixels(inputs), images)
    assert torch.equal(_to_pixels(inputs.half().float()), images), "half precision holds every value of a pixel"
    assert torch.equal(round_trip(get_codec("image"), inputs), inputs)


def test_the_codec_of_codewords_goes_with_the_codebook() -> None:
    raw = {"model": {"codebook": 8}, "dp": {"mechanism": "randomised-response", "epsilon": 2.0}}
    assert undefended_config(load_config({**raw, "codec": {"name": "code"}})).codec_name == "uint8"
    assert undefended_config(load_config({**raw, "codec": {"name": None}})).codec_name == "uint8"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_ids": torch.arange(1, 9)}, "tested on other images"),
        ({"config": load_config({"data": {"desired": "hat"}, "model": {"bottleneck": None}})}, "data.desired is hat"),
        (
            {"config": load_config({"model": {"name": "vgg11_bn", "cut": "features.7", "bottleneck": None}})},
            "model.name is vgg11_bn",
        ),
        ({"config": load_config({"model": {"cut": "layer2", "bottleneck": None}})}, "model.cut is layer2"),
    ],
)
def test_a_run_to_compare_with_differs_in_its_protection_alone(
    evidence_of: Callable[..., RunEvidence], changes: dict[str, Any], message: str
) -> None:
    truth = [torch.arange(8) % 2] * 3
    evidence = evidence_of([torch.zeros(8, 1)] * 3, truth)
    evidence = replace(evidence, config=load_config({"model": {"bottleneck": None}}))
    _check_comparable(evidence, evidence, Path("other"))
    with pytest.raises(ConfigError, match=message):
        _check_comparable(evidence, replace(evidence, **changes), Path("other"))


def test_the_exit_answers_to_a_codeword_by_its_outcomes(evidence_of: Callable[..., RunEvidence]) -> None:
    """As it does on the edge, where it knows codewords only as they are released: a matrix product, by hand."""
    mechanism = RandomisedResponse(3, 1.0)
    head = torch.nn.Linear(3, 2)
    codes = torch.eye(3)
    evidence = evidence_of([codes] * 3, [torch.arange(3) % 2] * 3, mechanism=mechanism)
    evidence = replace(evidence, config=load_config({"hardware": {"cloud_device": "cpu"}}))
    by_hand = torch.from_numpy(mechanism.channel()) @ torch.softmax(head(torch.eye(3)), dim=1)
    assert torch.allclose(_scores(head, evidence, codes), by_hand, atol=1e-6)


def test_undefended_settings_have_nothing_that_protects() -> None:
    config = load_config(DEFENDED)
    plain = undefended_config(config)
    assert not is_undefended(config) and is_undefended(plain)
    assert plain.data == config.data and plain.train == config.train and plain.schedule == config.schedule
    for key in ("model", "adversary", "dp"):
        only = load_config({**DEFENDED, "schedule": "joint"}).model_dump(mode="json")
        for other in {"model", "adversary", "dp"} - {key}:
            del only[other]
        if key == "dp":
            only["dp"]["clip"] = 1.0
        assert not is_undefended(load_config(only)), key


@pytest.mark.parametrize(
    ("images", "seconds_each", "seconds", "expected"),
    [
        (9000, 0.0, 0.0, (9000, True)),  # not timed
        (9000, 0.01, float("inf"), (9000, True)),
        (9000, 0.01, 180.0, (9000, True)),
        (9000, 0.01, 179.0, (9000, False)),
        (9000, 0.01, 89.0, (8192, False)),
        (9000, 0.01, 81.0, (4096, False)),
        (9000, 0.01, 0.0, (512, False)),
        (96, 0.01, 0.0, (96, False)),
    ],
)
def test_a_short_budget_makes_do_with_fewer_images(
    images: int, seconds_each: float, seconds: float, expected: tuple[int, bool]
) -> None:
    assert affordable(images, seconds_each, seconds) == expected
