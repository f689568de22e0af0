"""What every codec must do."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from headers import stream_header
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec import codec_names, get_codec, pack, reconstruction_error
from smartedge.errors import CodecError
from smartedge.privacy.release import release
from smartedge.wire.frame import max_payload_bytes, max_side_bytes

CODECS = (
    "float32",
    "float16",
    "uint8",
    "uint4",
    "uint2",
    "uint1",
    "topk-5%",
    "topk-50%",
    "learned-16",
    "learned-200",
    "uint8-previous",
    "uint4-previous",
    "uint2-previous",
    "uint1-previous",
    "learned-40-previous",
    "tile-webp-50",
    "tile-avif-50",
    "code",
    "image",
    "jpeg",
    "jpeg-75",
    "webp-50",
    "avif-40",
)
LOSSLESS = ("float32", "code", "image")
IMAGE_FILES = ("jpeg", "jpeg-75", "webp-50", "avif-40")
TILES = ("tile-webp-50", "tile-avif-50")

HEADER = stream_header(codec="uint8", feature_shape=(1,), batch_size=1)


@st.composite
def shapes(draw: st.DrawFn, name: str) -> tuple[int, ...]:
    """Feature shapes that the codec takes."""
    if name in IMAGE_FILES:
        return (3, draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    if name in TILES:
        return tuple(draw(st.lists(st.integers(1, 9), min_size=3, max_size=3)))
    return tuple(draw(st.lists(st.integers(1, 20 if name == "image" else 9), min_size=1, max_size=3)))


@st.composite
def batches(draw: st.DrawFn, name: str) -> np.ndarray:
    """Features or images of any shape that the codec takes; values from constant to wide."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 5)), *draw(shapes(name)))
    if get_codec(name).dtype == np.uint8:
        spread = draw(st.sampled_from([1, 16, 256]))  # constant, compressible, noise
        return torch.randint(0, spread, shape, generator=generator).to(torch.uint8).numpy()
    if name == "code":
        if draw(st.booleans()):
            places = torch.randint(0, shape[-1], shape[:-1], generator=generator)
            return torch.nn.functional.one_hot(places, shape[-1]).float().numpy()
        return torch.randint(0, 2, shape, generator=generator).float().numpy()
    scale, offset = draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e3])), draw(st.sampled_from([0.0, -1.0, 3e4]))
    features_BF = torch.randn(shape, generator=generator) * scale + offset
    return (features_BF.relu() if draw(st.booleans()) else features_BF).numpy()


def decode(name: str, payload: bytes, side: bytes, like: np.ndarray) -> np.ndarray:
    shape = like.shape
    return get_codec(name).decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=like.dtype)


def test_every_codec_is_tested_here() -> None:
    for name in codec_names():
        pattern = re.sub("P(?=%)|Q$|N", "[0-9]+", name)
        assert any(re.fullmatch(pattern, tested) for tested in CODECS), name


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    features_BF = data.draw(batches(name))
    before = features_BF.copy()
    codec = get_codec(name)
    payload, side = codec.encode(features_BF)
    decoded_BF = decode(name, payload, side, features_BF)

    assert codec.name == name
    assert np.array_equal(features_BF, before)
    assert decoded_BF.shape == features_BF.shape and decoded_BF.dtype == features_BF.dtype == codec.dtype
    assert decoded_BF.flags.c_contiguous and decoded_BF.ctypes.data % 64 == 0
    assert len(payload) + len(side) <= codec.max_bytes(len(features_BF), features_BF.shape[1:])
    if name in LOSSLESS:
        assert np.array_equal(decoded_BF, features_BF)
    once_BF = decoded_BF.copy()
    decoded_BF.fill(0)  # writable, and its own
    assert np.array_equal(decode(name, payload, side, features_BF), once_BF)
    assert codec.encode(features_BF) == (payload, side)


@pytest.mark.parametrize("name", ["float16", "uint8"])
@given(data=st.data())
def test_lossy_feature_codecs_are_idempotent(name: str, data: st.DataObject) -> None:
    features_BF = data.draw(batches(name))
    once_BF = decode(name, *get_codec(name).encode(features_BF), features_BF)
    twice_BF = decode(name, *get_codec(name).encode(once_BF), features_BF)
    assert np.array_equal(once_BF, twice_BF)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_hostile_bytes_are_codec_errors_at_worst(name: str, data: st.DataObject) -> None:
    features_BF = data.draw(batches(name))
    payload, side = get_codec(name).encode(features_BF)
    kind = data.draw(st.sampled_from(["junk", "cut", "longer", "flipped", "side", "flipped side"]))
    if kind == "junk":
        payload = data.draw(st.binary(max_size=200))
    elif kind == "cut":
        payload = payload[: data.draw(st.integers(0, len(payload) - 1))]
    elif kind == "longer":
        payload += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "flipped":
        payload = flipped(payload, data)
    elif kind == "flipped side" and side:
        side = flipped(side, data)
    else:
        kind = "side"
        side = data.draw(st.binary(max_size=80).filter(lambda other: len(other) != len(side)))
    try:
        decoded_BF = decode(name, payload, side, features_BF)
    except CodecError:
        return
    assert kind in ("junk", "flipped", "flipped side"), "a wrong length must be noticed"
    assert decoded_BF.shape == features_BF.shape
    assert np.isfinite(decoded_BF).all()


def flipped(content: bytes, data: st.DataObject) -> bytes:
    place = data.draw(st.integers(0, len(content) - 1))
    return content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]


@pytest.mark.parametrize("name", CODECS)
def test_refuses_what_it_cannot_encode(name: str) -> None:
    codec = get_codec(name)
    other = np.dtype(np.uint8 if codec.dtype == np.float32 else np.float32)
    for features in (np.zeros((2, 3, 4, 4), other), np.zeros((2, 3, 4, 4))):
        with pytest.raises(CodecError, match=f"codec {re.escape(name)} takes {codec.dtype}, not {features.dtype}"):
            pack(release(np.arange(2), features, np.zeros(2, np.int64)), codec)
    for shape in ((0, 3, 4, 4), (3,), (2, 0)):
        with pytest.raises(CodecError, match="features must have a batch dimension"):
            pack(release(np.arange(2), np.zeros(shape, codec.dtype), np.zeros(2, np.int64)), codec)
    payload, side = codec.encode(np.zeros((2, 3, 4, 4), codec.dtype))
    with pytest.raises(CodecError, match="both sides need the same"):
        codec.decode(payload, side, batch=2, feature_shape=(3, 4, 4), dtype=other)
    with pytest.raises(CodecError, match=f"codec {name}: side "):
        codec.decode(payload, side + b"x", batch=2, feature_shape=(3, 4, 4), dtype=codec.dtype)
    for shape in ((3, 4, 5), (3, 4), (4, 3, 4), ()):
        with pytest.raises(CodecError):
            codec.decode(payload, side, batch=2 if shape != (4, 3, 4) else 3, feature_shape=shape, dtype=codec.dtype)
    if codec.dtype == np.float32:
        for bad in (np.nan, np.inf, -np.inf):
            features_BF = np.zeros((2, 3, 4, 4), np.float32)
            features_BF[1, 2, 3, 0] = bad
            with pytest.raises(CodecError, match="NaN"):
                codec.encode(features_BF)


@pytest.mark.parametrize("name", CODECS)
def test_takes_strided_arrays(name: str) -> None:
    codec = get_codec(name)
    plain_BF = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    plain_BF = (plain_BF % 2 if name == "code" else plain_BF).astype(codec.dtype)
    strided_BF = np.ascontiguousarray(plain_BF.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert not strided_BF.flags.c_contiguous
    assert codec.encode(strided_BF) == codec.encode(plain_BF)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_noise_stays_within_what_a_codec_and_a_frame_allow(name: str, data: st.DataObject) -> None:
    """Nothing is harder to compress than noise of all values; a larger map makes the lengths' share small."""
    codec = get_codec(name)
    shape = data.draw(st.sampled_from([(3, 1, 1), (3, 8, 8), (3, 33, 64)]) | shapes(name))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    batch = data.draw(st.integers(1, 5))
    if codec.dtype == np.uint8:
        noise_BF = torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8).numpy()
    elif name == "code":
        noise_BF = torch.randint(0, 2, (batch, *shape), generator=generator).float().numpy()
    else:
        noise_BF = torch.rand((batch, *shape), generator=generator).numpy()
    payload, side = codec.encode(noise_BF)
    header = dataclasses.replace(
        HEADER,
        feature_shape=shape,
        batch_size=batch,
        feature_dtype="uint8" if noise_BF.dtype == np.uint8 else "float32",
    )
    most = codec.max_bytes(batch, shape)
    assert len(payload) + len(side) <= most <= max_payload_bytes(header) + max_side_bytes(header)
    assert len(payload) <= max_payload_bytes(header)
    assert len(side) <= max_side_bytes(header)
    raw = noise_BF.nbytes
    assert most <= raw + raw // 256 + 160 + 8 * batch + 8 * max(shape)


@pytest.mark.parametrize("name", CODECS)
def test_states_its_bytes_and_error(name: str) -> None:
    codec = get_codec(name)
    ramp_BF = np.arange(4 * 3 * 32 * 32).reshape(4, 3, 32, 32) % 97 / 97
    features_BF = (np.floor(ramp_BF * 2) if name == "code" else ramp_BF * 255).astype(codec.dtype)
    stated = reconstruction_error(codec, features_BF)
    payload, side = codec.encode(features_BF)
    assert stated["bytes"] == len(payload) + len(side) == 4 * stated["bytes_per_sample"]
    assert (stated["max_abs"] == 0) == (name in LOSSLESS)
    assert stated["rmse"] <= stated["max_abs"]
    difference_BF = decode(name, payload, side, features_BF).astype(np.float64) - features_BF.astype(np.float64)
    assert stated["rmse"] == pytest.approx(math.sqrt((difference_BF**2).mean()), rel=1e-9)
    assert stated["energy_kept"] == pytest.approx(
        1 - (difference_BF**2).sum() / (features_BF.astype(np.float64) ** 2).sum()
    )
