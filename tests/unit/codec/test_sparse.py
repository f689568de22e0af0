from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec import get_codec, reconstruction_error
from smartedge.codec.bits import compress
from smartedge.codec.sparse import _to_gaps, _to_places
from smartedge.errors import CodecError

FLOAT32 = np.dtype(np.float32)


def slow_top_k(features_BF: torch.Tensor, kept: int) -> torch.Tensor:
    """All but the ``kept`` numbers of largest magnitude of each image set to zero, by sorting."""
    result_BN = torch.zeros_like(features_BF).flatten(1)
    for row, out in zip(features_BF.flatten(1), result_BN, strict=True):
        for place in sorted(range(len(row)), key=lambda place: -abs(float(row[place])))[:kept]:
            out[place] = row[place]
    return result_BN.view_as(features_BF)


def round_trip(name: str, features_BF: torch.Tensor) -> torch.Tensor:
    shape = tuple(features_BF.shape)
    payload, side = get_codec(name).encode(features_BF.numpy())
    return torch.from_numpy(
        get_codec(name).decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=FLOAT32)
    )


@pytest.mark.parametrize(("percent", "kept"), [("0.1", 1), ("5", 8), ("12.5", 20), ("50", 80)])
def test_keeps_the_largest_magnitudes_of_each_image(percent: str, kept: int) -> None:
    features_BF = torch.randn(6, 10, 4, 4, generator=torch.Generator().manual_seed(0))
    features_BF[2] *= 100  # an image of large numbers takes no places from another
    decoded_BF = round_trip(f"topk-{percent}%", features_BF[:2])
    expected_BF = slow_top_k(features_BF[:2], kept)
    outside_BF = expected_BF == 0
    assert bool((decoded_BF[outside_BF] == 0).all())
    kept_values = expected_BF[~outside_BF]
    step = (kept_values.max() - kept_values.min()) / 15
    # Within half a step of the widest range that 16 levels may have; a value beyond a narrower one saturates.
    assert (decoded_BF - expected_BF).square().mean().sqrt() <= step / 2
    places_B = (round_trip(f"topk-{percent}%", features_BF) != 0).flatten(1).sum(1)
    assert bool((places_B <= kept).all())


@pytest.mark.parametrize("name", ["topk-2%", "topk-10%", "topk-50%"])
def test_energy_kept_is_at_least_the_share_of_numbers(name: str) -> None:
    features_BF = torch.randn(8, 64, 8, 8, generator=torch.Generator().manual_seed(1))
    share = float(name[5:-1]) / 100
    stated = reconstruction_error(get_codec(name), features_BF.numpy())
    kept_BF = slow_top_k(features_BF, round(share * 4096))
    exact = float(kept_BF.square().sum() / features_BF.square().sum())
    assert share < exact - 0.03
    assert abs(stated["energy_kept"] - exact) < 0.03  # the rest is what 16 levels lose


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60))
def test_places_survive_as_gaps(places: set[int]) -> None:
    ordered = np.array(sorted(places))
    gaps = _to_gaps(ordered)
    assert gaps.dtype == np.uint8 and len(gaps) <= len(ordered) + 3001 // 255
    assert _to_places(gaps).tolist() == ordered.tolist()


def test_a_far_place_costs_a_byte_per_255() -> None:
    assert _to_gaps(np.array([0, 255, 511])).tolist() == [0, 254, 255, 0]


def hostile(gaps: list[int], *, count: int | None = None, length: int | None = None) -> tuple[bytes, bytes]:
    """What encodes 2 images of 4 numbers with 2 kept each, with these gaps."""
    packed = compress(bytes(gaps))
    side = struct.pack("<IIff", len(gaps) if count is None else count, len(packed) if length is None else length, 0, 1)
    return packed + compress(b"\x21\x43"), side


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (hostile([0, 0, 0, 1]), "2 places in each of 2"),  # three in the first image
        (hostile([0, 0, 2, 200]), "2 places in each of 2"),  # beyond the last
        (hostile([0, 0, 2]), "impossible lengths"),  # one too few
        (hostile([0, 0, 2, 0, 255]), "impossible lengths"),
        (hostile([0, 0, 2, 0], count=2**31), "impossible lengths"),  # claims that would take memory
        (hostile([0, 0, 2, 0], length=2**31), "impossible lengths"),
        (hostile([0, 0, 2, 0], count=3), "impossible lengths"),
    ],
)
def test_impossible_places_are_refused(content: tuple[bytes, bytes], message: str) -> None:
    with pytest.raises(CodecError, match=f"topk-50%: .*{message}"):
        get_codec("topk-50%").decode(*content, batch=2, feature_shape=(4,), dtype=FLOAT32)


@pytest.mark.parametrize(("gaps", "fine"), [([0] * 150, True), ([0] * 150 + [255], False), ([255] + [0] * 149, False)])
def test_a_gap_that_leads_nowhere_is_refused(gaps: list[int], fine: bool) -> None:
    packed = compress(bytes(gaps))
    side = struct.pack("<IIff", len(gaps), len(packed), 0, 1)
    content = (packed + compress(bytes([0xFF] * 75)), side)
    if fine:
        decoded = get_codec("topk-50%").decode(*content, batch=1, feature_shape=(300,), dtype=FLOAT32)
        assert decoded.flatten().tolist() == [1.0] * 150 + [0.0] * 150
        return
    with pytest.raises(CodecError, match="150 places in each of 1"):
        get_codec("topk-50%").decode(*content, batch=1, feature_shape=(300,), dtype=FLOAT32)


def test_possible_places_are_not() -> None:
    payload, side = hostile([0, 0, 2, 0])
    decoded = get_codec("topk-50%").decode(payload, side, batch=2, feature_shape=(4,), dtype=FLOAT32)
    assert decoded == pytest.approx(np.array([[1, 2, 0, 0], [3, 4, 0, 0]])[:, [0, 1, 2, 3]] / 15)
