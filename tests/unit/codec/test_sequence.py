from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec import decoding_error, get_codec
from smartedge.codec.learned import LearnedCodec
from smartedge.codec.sequence import differences, read_marks, resembling, restored, write_marks
from smartedge.errors import CodecError

FLOAT32 = np.dtype(np.float32)
NAMES = ("uint8", "uint4", "uint2", "uint1", "learned-40")


def film(shape: tuple[int, ...] = (8, 4, 4), *, batch: int = 64, scenes: int = 2, seed: int = 0) -> np.ndarray:
    """Features of a camera: each image is the one before and a little more; a new scene begins now and then."""
    rng = np.random.default_rng(seed)
    drift_BF = 0.05 * rng.standard_normal((batch, *shape)).cumsum(0)
    scene_BF = rng.standard_normal((scenes, *shape))[np.arange(batch) * scenes // batch]
    return np.tanh(scene_BF + drift_BF).astype(np.float32)


def decoded(name: str, payload: bytes, side: bytes, like_BF: np.ndarray) -> np.ndarray:
    codec = get_codec(name)
    return codec.decode(payload, side, batch=len(like_BF), feature_shape=like_BF.shape[1:], dtype=FLOAT32)


@given(
    name=st.sampled_from(NAMES),
    shape=st.sampled_from([(8, 4, 4), (5, 12), (40,)]),
    batch=st.sampled_from([1, 2, 9, 64]),
    scenes=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_what_is_decoded_is_within_the_error_of_the_codec_alone(name, shape, batch, scenes, seed) -> None:
    features_BF = film(shape, batch=batch, scenes=scenes, seed=seed)
    payload, side = get_codec(f"{name}-previous").encode(features_BF)
    found_BF = decoded(f"{name}-previous", payload, side, features_BF)
    if name.startswith("uint"):
        assert np.array_equal(found_BF, decoded(name, *get_codec(name).encode(features_BF), features_BF))
        return
    assert len(payload) <= 40 * batch
    step = 2 ** (-30 + (struct.unpack_from("<H", payload)[0] & 0x7FFF) / 16)
    assert np.abs(found_BF - features_BF).max() <= step / 2 * (1 + 1e-5)


@pytest.mark.parametrize("name", ["uint8", "uint4"])
def test_a_film_takes_fewer_bytes(name: str) -> None:
    features_BF = film()
    alone, with_previous = (sum(map(len, get_codec(each).encode(features_BF))) for each in (name, f"{name}-previous"))
    assert with_previous < 0.75 * alone


def test_learned_has_a_smaller_error_at_the_same_target() -> None:
    features_BF = film()
    alone, with_previous = (
        decoding_error(codec, *codec.encode(features_BF), features_BF)["rmse"]
        for codec in (LearnedCodec(40), LearnedCodec(40, previous=True))
    )
    assert with_previous < 0.6 * alone
    codec = LearnedCodec(40, previous=True)
    assert codec.frame_bytes(features_BF, codec.step(features_BF)) > 1.2 * 40 * 64  # that step, each image by itself


def test_a_new_scene_stands_by_itself_and_so_does_every_image_under_noise() -> None:
    values_CBS = film(scenes=4).swapaxes(0, 1).reshape(8, 64, 16)
    assert np.flatnonzero(~resembling(values_CBS)).tolist() == [0, 16, 32, 48]
    noise_CBS = np.random.default_rng(0).standard_normal((8, 64, 16)).astype(np.float32)
    assert not resembling(noise_CBS).any()  # of 63 images; a difference has 1.41 times the spread


def test_differences_that_noise_makes_longer_are_not_sent() -> None:
    """Images resemble the one before, but their noise is as large as what they share."""
    noise_BF = np.random.default_rng(1).standard_normal((64, 8, 4, 4)).astype(np.float32)
    features_BF = film(scenes=8) + np.float32(0.5) * noise_BF
    assert resembling(features_BF.swapaxes(0, 1).reshape(8, 64, 16)).any()
    alone, with_previous = (sum(map(len, get_codec(name).encode(features_BF))) for name in ("uint8", "uint8-previous"))
    assert with_previous <= alone + 8  # bytes of the marks


@given(st.integers(1, 70), st.integers(0, 2**31))
def test_differences_and_marks_come_back(batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks_B = rng.random(batch) < 0.7
    marks_B[0] = False
    small = rng.integers(0, 256, (3, batch, 5), np.uint8)
    for levels_CBS in (small, small.astype(np.intp) - 128):
        assert np.array_equal(restored(differences(levels_CBS, marks_B), marks_B), levels_CBS)
    assert np.array_equal(read_marks(write_marks(marks_B) + b"more", batch, "uint4"), marks_B)


def test_hostile_marks() -> None:
    for wrong, problem in ((b"", "within its marks"), (b"\x01", "first image"), (b"\x10", "first image")):
        with pytest.raises(CodecError, match=f"codec uint4-previous: .*{problem}"):
            read_marks(wrong, 4, "uint4-previous")


def test_differences_that_lead_too_far_are_refused() -> None:
    """So no number is decoded to more than the step's largest level, whatever the differences sum to."""
    codec, features_BF = LearnedCodec(400, previous=True), np.ones((8, 4), np.float32)
    payload, side = codec.encode(features_BF)  # level 63, then seven differences of 0
    assert read_marks(payload[3:], 8, codec.name).sum() == 0  # all are the mean
    marked = payload[:3] + b"\xfe" + payload[4:]
    with pytest.raises(CodecError, match="beyond the largest level"):
        decoded(codec.name, marked, side, features_BF)
