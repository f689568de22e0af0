from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from smartedge.codec import get_codec, reconstruction_error
from smartedge.errors import CodecError

finite = st.floats(-(2.0**100), 2.0**100, width=32)


def round_trip(name: str, features_BF: torch.Tensor) -> torch.Tensor:
    codec = get_codec(name)
    shape = tuple(features_BF.shape)
    payload, side = codec.encode(features_BF)
    return codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=torch.float32)


def ranges(features_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum and maximum per channel, in a plain loop, shaped to broadcast."""
    axis = 2 if features_BF.dim() == 3 else 1
    shape = [1] * features_BF.dim()
    shape[axis] = -1
    slices = features_BF.unbind(axis)
    low = torch.stack([part.min() for part in slices])
    high = torch.stack([part.max() for part in slices])
    return low.reshape(shape), high.reshape(shape)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=finite))
def test_uint8_error_is_at_most_half_a_step_of_the_channel(values: np.ndarray) -> None:
    features_BF = torch.from_numpy(values)
    low, high = ranges(features_BF)
    half_step = (high.double() - low.double()) / 510
    rounding = torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs()).double() + 1e-44
    error_BF = (round_trip("uint8", features_BF).double() - features_BF.double()).abs()
    assert bool((error_BF <= half_step * (1 + 1e-4) + rounding).all())


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=finite))
def test_uint8_keeps_the_extremes_exactly(values: np.ndarray) -> None:
    features_BF = torch.from_numpy(values)
    decoded_BF = round_trip("uint8", features_BF)
    for before, after in zip(ranges(features_BF), ranges(decoded_BF), strict=True):
        assert torch.equal(before, after)


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-65504, 65504, width=32))
)
def test_float16_error_is_half_a_unit_in_the_last_place(values: np.ndarray) -> None:
    features_BF = torch.from_numpy(values)
    error_BF = (round_trip("float16", features_BF) - features_BF).abs()
    assert bool((error_BF <= features_BF.abs() * 2**-11 + 2**-25).all())


@pytest.mark.parametrize(("shape", "channels"), [((6, 5, 4), 6), ((7, 3), 3), ((9,), 9)])
def test_uint8_has_one_range_per_channel(shape: tuple[int, ...], channels: int) -> None:
    _, side = get_codec("uint8").encode(torch.rand(2, *shape))
    assert len(side) == 8 * channels


def test_a_wide_channel_does_not_coarsen_a_narrow_one() -> None:
    for shape, wide in (((2, 4, 8, 8), (slice(None), 1)), ((2, 10, 4), (..., 1))):
        features_BF = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        features_BF[wide] *= 1e6
        error_BF = (round_trip("uint8", features_BF) - features_BF).abs()
        error_BF[wide] = 0
        assert error_BF.max() <= 1 / 510 + 1e-6


def test_uint8_refuses_a_range_beyond_float32() -> None:
    with pytest.raises(CodecError, match="diverged"):
        get_codec("uint8").encode(torch.tensor([[3e38], [-3e38]]))


@pytest.mark.parametrize("low_high", [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (-3e38, 3e38)])
def test_uint8_refuses_impossible_ranges(low_high: tuple[float, float]) -> None:
    payload, _ = get_codec("uint8").encode(torch.rand(4, 1, 2, 2))
    side = np.array(low_high, "<f4").tobytes()
    with pytest.raises(CodecError, match="no valid ranges"):
        get_codec("uint8").decode(payload, side, batch=4, feature_shape=(1, 2, 2), dtype=torch.float32)


def test_float16_refuses_what_overflows() -> None:
    with pytest.raises(CodecError, match="65504"):
        get_codec("float16").encode(torch.tensor([[1e5]]))


@pytest.mark.parametrize(("name", "stored"), [("float32", "<f4"), ("float16", "<f2")])
def test_plain_payloads_are_the_numbers_and_must_be_finite(name: str, stored: str) -> None:
    payload, side = get_codec(name).encode(torch.tensor([[1.0, -2.5]]))
    assert np.frombuffer(payload, stored).tolist() == [1.0, -2.5] and side == b""
    with pytest.raises(CodecError, match="NaN"):
        get_codec(name).decode(
            np.array([1, np.nan], stored).tobytes(), b"", batch=1, feature_shape=(2,), dtype=torch.float32
        )


def test_codecs_shrink_what_a_relu_gives() -> None:
    features_BF = torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(2)).relu()
    raw = features_BF.numel() * 4
    sizes = {
        name: reconstruction_error(get_codec(name), features_BF)["bytes"] for name in ("float32", "float16", "uint8")
    }
    assert sizes["float32"] == raw and sizes["float16"] == raw / 2 and sizes["uint8"] < 0.2 * raw
