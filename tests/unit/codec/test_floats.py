from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from smartedge.codec import get_codec
from smartedge.codec.floats import _to_half
from smartedge.errors import CodecError

FLOAT32 = np.dtype(np.float32)


def round_trip(features_BF: torch.Tensor) -> torch.Tensor:
    codec, shape = get_codec("float16"), tuple(features_BF.shape)
    payload, side = codec.encode(features_BF.numpy())
    return torch.from_numpy(codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=FLOAT32))


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-65504, 65504, width=32))
)
def test_float16_error_is_half_a_unit_in_the_last_place(values: np.ndarray) -> None:
    features_BF = torch.from_numpy(values)
    error_BF = (round_trip(features_BF) - features_BF).abs()
    assert bool((error_BF <= features_BF.abs() * 2**-11 + 2**-25).all())


def test_half_precision_is_numpys_bit_by_bit() -> None:
    """Numbers of every size, those halfway between two half-precision numbers, and more than one block of them."""
    rng = np.random.default_rng(0)
    halves = rng.integers(0, 0x7BFF, 50_000, np.uint16).view(np.float16).astype(np.float32)
    between = (halves + np.nextafter(halves.astype(np.float16), np.float16(np.inf)).astype(np.float32)) / 2
    values = np.concatenate([halves, between, -between, rng.normal(size=50_000) * 10.0 ** rng.integers(-9, 4, 50_000)])
    values = np.append(values[np.abs(values) < 65504], [0.0, -0.0, 2**-24, 2**-25, 1e-40, 65519.996]).astype(np.float32)
    np.testing.assert_array_equal(_to_half(values).view(np.uint16), values.astype(np.float16).view(np.uint16))


def test_float16_refuses_what_overflows() -> None:
    with pytest.raises(CodecError, match="65504"):
        get_codec("float16").encode(np.array([[1e5]], np.float32))


@pytest.mark.parametrize(("name", "stored"), [("float32", "<f4"), ("float16", "<f2")])
def test_plain_payloads_are_the_numbers(name: str, stored: str) -> None:
    payload, side = get_codec(name).encode(np.array([[1.0, -2.5]], np.float32))
    assert np.frombuffer(payload, stored).tolist() == [1.0, -2.5] and side == b""
