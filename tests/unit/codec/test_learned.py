from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec import decoding_error, get_codec
from smartedge.codec.learned import LearnedCodec
from smartedge.errors import CodecError

FLOAT32 = np.dtype(np.float32)


def bottleneck(spreads: tuple[float, ...] = (1.0,) * 8, batch: int = 64, seed: int = 0) -> np.ndarray:
    """Features as a bottleneck's: channels (B, C, 4, 4) of those spreads, bounded by tanh."""
    values = np.random.default_rng(seed).standard_normal((batch, len(spreads), 4, 4)) * np.array(spreads)[:, None, None]
    return np.tanh(values).astype(np.float32)


def size(target: int, features_BF: np.ndarray) -> int:
    payload, side = LearnedCodec(target).encode(features_BF)
    assert side == b""
    return len(payload)


@given(
    target=st.integers(16, 400),
    batch=st.sampled_from([1, 2, 9, 64]),
    noise=st.sampled_from([0.0, 0.7, 30.0]),
    shape=st.sampled_from([(8, 4, 4), (5, 12), (40,), (1, 1, 1)]),
    seed=st.integers(0, 2**31),
)
def test_no_frame_exceeds_the_target_and_the_error_is_at_most_half_a_step(target, batch, noise, shape, seed) -> None:
    rng = np.random.default_rng(seed)
    features_BF = np.tanh(rng.standard_normal((batch, *shape))) + noise * rng.standard_normal((batch, *shape))
    features_BF = features_BF.astype(np.float32)
    codec = LearnedCodec(target)
    payload, side = codec.encode(features_BF)
    assert len(payload) <= min(target * batch, codec.max_bytes(batch, shape))
    (head,) = struct.unpack_from("<H", payload)
    step = 2 ** (-30 + (head & 0x7FFF) / 16)
    assert decoding_error(codec, payload, side, features_BF)["max_abs"] <= step / 2 * (1 + 1e-5)
    decoded_BF = codec.decode(payload, side, batch=batch, feature_shape=shape, dtype=FLOAT32)
    assert (np.abs(decoded_BF) <= 2 * np.abs(features_BF) * (1 + 1e-5)).all()


@pytest.mark.parametrize("target", [16, 24, 48, 80])
def test_the_target_is_used_and_more_bytes_are_a_smaller_error(target: int) -> None:
    features_BF = bottleneck()
    used = size(target, features_BF) / 64
    assert 0.93 * target < used <= target  # the next step of the ladder takes 2 bytes more: 128 numbers, 1/16 bit each
    finer = LearnedCodec(target + 8)
    errors = [decoding_error(codec, *codec.encode(features_BF), features_BF) for codec in (LearnedCodec(target), finer)]
    assert errors[1]["rmse"] < errors[0]["rmse"]


def test_it_takes_hardly_more_bytes_than_the_entropy() -> None:
    """Tables and coder together: at most 4 % more than the entropy of each channel's levels."""
    codec, features_BF = LearnedCodec(48), bottleneck((2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.0))
    payload, side = codec.encode(features_BF)
    decoded_BF = codec.decode(payload, side, batch=64, feature_shape=(8, 4, 4), dtype=FLOAT32)
    bits = 0.0
    for channel in range(8):
        counts = np.unique(decoded_BF[:, channel], return_counts=True)[1]
        bits -= (counts * np.log2(counts / counts.sum())).sum()
    assert bits / 8 < len(payload) < 1.04 * bits / 8


def test_channels_have_tables_of_their_own_where_that_takes_fewer_bytes() -> None:
    def has_own(features_BF: np.ndarray) -> bool:
        return bool(struct.unpack_from("<H", LearnedCodec(40).encode(features_BF)[0])[0] & 0x8000)

    different = (2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.0)
    assert has_own(bottleneck(different))
    assert not has_own(bottleneck(different, batch=1))  # eight tables would take more than they save
    assert not has_own(bottleneck())


def test_numbers_of_any_size_get_a_step_of_theirs() -> None:
    codec = LearnedCodec(999_999)
    for scale in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        features_BF = scale * bottleneck()
        error = decoding_error(codec, *codec.encode(features_BF), features_BF)["max_abs"]
        assert error <= scale / 127 * 2 ** (1 / 16) / 2
    with pytest.raises(CodecError, match="numbers beyond"):
        codec.encode(np.float32(1e30) * bottleneck())


def test_the_step_of_training_is_that_of_the_ladder() -> None:
    codec, features_BF = LearnedCodec(32), bottleneck()
    step = codec.step(features_BF)
    assert codec.frame_bytes(features_BF, step) <= 32 * 64 < codec.frame_bytes(features_BF, step / 2 ** (1 / 16))
    assert codec.frame_bytes(features_BF, step) == pytest.approx(size(32, features_BF), rel=0.01)


def test_hostile_payloads() -> None:
    codec = LearnedCodec(40)
    payload, side = codec.encode(bottleneck(batch=2))

    def decode(data: bytes, channels: int = 8) -> np.ndarray:
        return codec.decode(data, side, batch=2, feature_shape=(channels, 4, 4), dtype=FLOAT32)

    def with_head(head: int, body: bytes) -> bytes:
        return struct.pack("<HB", head, len(body) + 3 & 0xFF) + body

    decode(payload)
    for wrong, problem in (
        (b"", "head"),
        (payload[:2], "head"),
        (payload[:-1], "another length"),
        (payload + b"\0", "another length"),
        (with_head(1024, payload[3:]), "no step 1024"),
        (with_head(0, b""), "truncated"),
        (with_head(0x8000, payload[3:]), "learned"),  # tables of eight channels, where there is one
        (with_head(0x8000, bytes.fromhex("000100") * 8), "does not hold"),  # all certain, and no state
    ):
        with pytest.raises(CodecError, match=problem):
            decode(wrong)
    with pytest.raises(CodecError, match="does not hold"):
        decode(payload, channels=7)


def test_a_target_that_nothing_can_meet_is_refused() -> None:
    with pytest.raises(CodecError, match=r"codec\.bytes: an image takes 16 bytes or more"):
        get_codec("learned-15")
    assert size(16, bottleneck((1.0,) * 4096, batch=1)) <= 16
