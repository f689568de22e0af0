from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from smartedge.codec import get_codec, reconstruction_error
from smartedge.codec.quantise import by_range, fit_ranges, saturated
from smartedge.errors import CodecError

FLOAT32 = np.dtype(np.float32)
finite = st.floats(-(2.0**100), 2.0**100, width=32)


def round_trip(name: str, features_BF: torch.Tensor) -> torch.Tensor:
    codec = get_codec(name)
    shape = tuple(features_BF.shape)
    payload, side = codec.encode(features_BF.numpy())
    return torch.from_numpy(codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=FLOAT32))


def slow_ranges(features_BF: torch.Tensor, bits: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(mask, values) of each part of the features that has a range of its own, in a plain loop."""
    axis = 2 if features_BF.dim() == 3 else 1
    slices = features_BF.unbind(axis)
    if slices[0].numel() * bits < 16 * 64:  # a range takes 64 bits
        return [(torch.ones_like(features_BF, dtype=torch.bool), features_BF.flatten())]
    masks = []
    for channel in range(len(slices)):
        mask = torch.zeros_like(features_BF, dtype=torch.bool)
        mask.select(axis, channel)[:] = True
        masks.append((mask, slices[channel].flatten()))
    return masks


SHAPES = array_shapes(min_dims=2, max_dims=4, max_side=6) | st.just((40, 3, 2, 2)) | st.just((130, 2, 3))


@given(arrays(np.float32, SHAPES, elements=finite))
def test_uint8_error_is_at_most_half_a_step_and_the_extremes_are_exact(values: np.ndarray) -> None:
    features_BF = torch.from_numpy(values)
    decoded_BF = round_trip("uint8", features_BF)
    for mask, part in slow_ranges(features_BF, 8):
        low, high = part.min().double(), part.max().double()
        rounding = torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs()) + 1e-44
        error = (decoded_BF[mask].double() - features_BF[mask].double()).abs()
        assert bool((error <= (high - low) / 510 * (1 + 1e-4) + rounding).all())
        assert (decoded_BF[mask].min(), decoded_BF[mask].max()) == (part.min(), part.max())


def one_far_beyond_the_others() -> np.ndarray:
    """Its distance from the range that is taken, in units of that range, is beyond float32."""
    values = np.zeros(1300, np.float32)
    values[::2] = 1e-10
    seen = (np.arange(1024) * (5**0.5 - 1) / 2 % 1 * 1300).astype(np.int64)  # the places that are looked at
    values[seen[0]] = -1e16  # with the full range, all others would be this number
    values[np.setdiff1d(np.arange(1300), seen)[0]] = 2.0**100
    return values[:, None]


@pytest.mark.parametrize("bits", [1, 2, 4])
@example(values=one_far_beyond_the_others())
@example(values=-one_far_beyond_the_others())
@given(values=arrays(np.float32, SHAPES, elements=finite))
def test_fewer_bits_keep_half_a_step_inside_and_the_nearest_level_outside(bits: int, values: np.ndarray) -> None:
    features_BF = torch.from_numpy(values)
    codec = get_codec(f"uint{bits}")
    _, side = codec.encode(features_BF.numpy())
    decoded_BF = round_trip(codec.name, features_BF).double()
    ends = np.frombuffer(side, "<f4").astype(np.float64).reshape(2, -1)
    parts = slow_ranges(features_BF, bits)
    assert ends.shape == (2, len(parts))
    outsiders = 0
    for (mask, part), (low, high) in zip(parts, ends.T, strict=True):
        assert part.min() <= low <= high <= part.max()
        levels = torch.linspace(0, 1, 2**bits).double() * (high - low) + low
        inside = features_BF[mask].double()
        best = (inside[:, None] - levels).abs().min(1).values
        error = (decoded_BF[mask] - inside).abs()
        half = (high - low) / (2 * (2**bits - 1))
        slack = 1e-5 * max(abs(float(part.min())), abs(float(part.max()))) + 1e-44
        assert bool((error <= best + slack).all())
        assert bool((error[best <= half] <= half + slack).all())
        outside = int(((part.double() < low - half - slack) | (part.double() > high + half + slack)).sum())
        assert outside <= 0.25 * part.numel()
        outsiders += outside
    assert outsiders <= count_of_saturated(bits, features_BF).sum()


@pytest.mark.parametrize(("bits", "gain"), [(4, 0.8), (2, 0.6), (1, 0.2)])
def test_a_robust_range_beats_the_full_one_on_long_tails(bits: int, gain: float) -> None:
    """Laplace: rmse at most ``gain`` of what levels over the full range give; uniform: never worse than those."""
    generator = torch.Generator().manual_seed(0)
    uniform_BF = torch.rand(64, 4, 8, 8, generator=generator)
    laplace_BF = (uniform_BF - 0.5).sign() * -torch.log1p(-2 * (uniform_BF - 0.5).abs() * (1 - 1e-6))
    for features_BF, limit in ((laplace_BF, gain), (uniform_BF, 1.0)):
        low, high = features_BF.amin((0, 2, 3), keepdim=True), features_BF.amax((0, 2, 3), keepdim=True)
        step = (high - low) / (2**bits - 1)
        full = ((features_BF - low) / step).round() * step + low
        full_rmse = float((full - features_BF).square().mean().sqrt())
        assert reconstruction_error(get_codec(f"uint{bits}"), features_BF.numpy())["rmse"] <= limit * full_rmse + 1e-6


def test_the_full_range_is_kept_where_too_much_would_saturate() -> None:
    """What the sample does not see: 30 % of the values, all at places that are not looked at."""
    values_RN = torch.zeros(1, 100_000)
    seen = (np.arange(1024) * (5**0.5 - 1) / 2 % 1 * 100_000).astype(np.int64)
    hidden = np.setdiff1d(np.arange(100_000), seen)[:30_000]
    values_RN[0] = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    values_RN[0, torch.from_numpy(hidden)] = 50.0
    assert fit_ranges(values_RN.numpy(), 4, "uint4").flatten().tolist() == [values_RN.min().item(), 50.0]
    values_RN[0, torch.from_numpy(hidden[: len(hidden) // 2])] = 0.5
    assert fit_ranges(values_RN.numpy(), 4, "uint4")[1].item() < 1.1  # 15 % may saturate


def test_saturated_values_are_counted() -> None:
    features_BF = torch.rand(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    features_BF[:4, 0, 0, 0] = 1000.0
    features_BF[:3, 1, 0, 0] = -1000.0
    assert count_of_saturated(8, features_BF).tolist() == [0, 0]
    low, high = np.frombuffer(get_codec("uint4").encode(features_BF.numpy())[1], "<f4").reshape(2, 2)
    half = (high - low) / 30
    slowly = [
        int((part < low[channel] - half[channel]).sum() + (part > high[channel] + half[channel]).sum())
        for channel, part in enumerate(features_BF.unbind(1))
    ]
    assert count_of_saturated(4, features_BF).tolist() == slowly


def count_of_saturated(bits: int, features_BF: torch.Tensor) -> np.ndarray:
    values_RN = by_range(features_BF.numpy(), bits)
    return saturated(values_RN, fit_ranges(values_RN, bits, f"uint{bits}"), bits)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("values", [[3e38, 0.0], [-1.7e38, 1.7e38], [1e-45, 0.0], [1e30, 1e-20], [-0.0, 0.0]])
def test_extreme_numbers_come_back_finite_and_within_range(bits: int, values: list[float]) -> None:
    features_BF = torch.tensor(values).repeat(600, 1)
    features_BF[1:500, 0] = values[1]
    decoded_BF = round_trip(f"uint{bits}", features_BF)
    assert bool((decoded_BF >= min(values)).all()) and bool((decoded_BF <= max(values)).all())


@pytest.mark.parametrize(
    ("batch", "shape", "bits", "ranges"),
    [
        (64, (8, 4, 4), 8, 8),
        (8, (8, 4, 4), 8, 8),  # 128 bytes of levels for 8 of range
        (7, (8, 4, 4), 8, 1),
        (64, (8, 4, 4), 1, 8),
        (63, (8, 4, 4), 1, 1),
        (32, (10, 3), 8, 3),
        (128, (9,), 8, 9),
        (127, (9,), 8, 1),
        (1, (64, 16, 16), 4, 64),
    ],
)
def test_a_range_per_channel_where_it_takes_a_sixteenth_at_most(
    batch: int, shape: tuple[int, ...], bits: int, ranges: int
) -> None:
    features_BF = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    _, side = get_codec(f"uint{bits}").encode(features_BF.numpy())
    assert len(side) == 8 * ranges


def test_a_wide_channel_does_not_coarsen_a_narrow_one() -> None:
    for shape, wide in (((2, 4, 8, 8), (slice(None), 1)), ((20, 10, 4), (..., 1))):
        features_BF = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        features_BF[wide] *= 1e6
        error_BF = (round_trip("uint8", features_BF) - features_BF).abs()
        error_BF[wide] = 0
        assert error_BF.max() <= 1 / 510 + 1e-6


def test_uint8_refuses_a_range_beyond_float32() -> None:
    with pytest.raises(CodecError, match="diverged"):
        get_codec("uint8").encode(np.array([[3e38], [-3e38]], np.float32))


@pytest.mark.parametrize("low_high", [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (-3e38, 3e38)])
def test_uint8_refuses_impossible_ranges(low_high: tuple[float, float]) -> None:
    payload, _ = get_codec("uint8").encode(np.ones((4, 1, 2, 2), np.float32))
    side = np.array(low_high, "<f4").tobytes()
    with pytest.raises(CodecError, match="no valid ranges"):
        get_codec("uint8").decode(payload, side, batch=4, feature_shape=(1, 2, 2), dtype=FLOAT32)


def test_codecs_shrink_what_a_relu_gives() -> None:
    features_BF = torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(2)).relu()
    raw = features_BF.numel() * 4
    sizes = {
        name: reconstruction_error(get_codec(name), features_BF.numpy())["bytes"]
        for name in ("float32", "float16", "uint8")
    }
    assert sizes["float32"] == raw and sizes["float16"] == raw / 2 and sizes["uint8"] < 0.2 * raw
