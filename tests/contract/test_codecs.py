"""What every codec must do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec import codec_names, get_codec, reconstruction_error
from smartedge.errors import CodecError
from smartedge.types import StreamHeader
from smartedge.wire.frame import max_payload_bytes, max_side_bytes

HEADER = StreamHeader(
    protocol=1,
    run="r",
    agreement="{}",
    method="hierarchical",
    schedule="joint",
    codec="uint8",
    feature_shape=(1,),
    feature_dtype="float32",
    task_kind="single",
    outputs=2,
    batch_size=1,
    epoch=0,
    split="train",
    first_seq=0,
    frames=1,
    train_steps=1,
)


@st.composite
def batches(draw: st.DrawFn, name: str) -> torch.Tensor:
    """Features or images of any shape that the codec takes; values from constant to wide."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch = draw(st.integers(1, 5))
    if get_codec(name).dtype == torch.uint8:
        dims = st.integers(1, 20)
        shape = (3, draw(dims), draw(dims)) if name == "jpeg" else tuple(draw(st.lists(dims, min_size=1, max_size=3)))
        return torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8)
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    scale, offset = draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e3])), draw(st.sampled_from([0.0, -1.0, 3e4]))
    return torch.randn((batch, *shape), generator=generator) * scale + offset


def decode(name: str, payload: bytes, side: bytes, like: torch.Tensor) -> torch.Tensor:
    shape = tuple(like.shape)
    return get_codec(name).decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=like.dtype)


@pytest.mark.parametrize("name", codec_names())
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    features_BF = data.draw(batches(name))
    before = features_BF.clone()
    codec = get_codec(name)
    payload, side = codec.encode(features_BF)
    decoded_BF = decode(name, payload, side, features_BF)

    assert codec.name == name
    assert torch.equal(features_BF, before)
    assert decoded_BF.shape == features_BF.shape and decoded_BF.dtype == features_BF.dtype == codec.dtype
    assert decoded_BF.is_contiguous() and decoded_BF.data_ptr() % 64 == 0
    if codec.lossless:
        assert torch.equal(decoded_BF, features_BF)
    once_BF = decoded_BF.clone()
    decoded_BF.zero_()  # writable, and its own
    assert torch.equal(decode(name, payload, side, features_BF), once_BF)
    assert codec.encode(features_BF) == (payload, side)


@pytest.mark.parametrize("name", ["float16", "uint8"])
@given(data=st.data())
def test_lossy_feature_codecs_are_idempotent(name: str, data: st.DataObject) -> None:
    features_BF = data.draw(batches(name))
    once_BF = decode(name, *get_codec(name).encode(features_BF), features_BF)
    twice_BF = decode(name, *get_codec(name).encode(once_BF), features_BF)
    assert torch.equal(once_BF, twice_BF)


@pytest.mark.parametrize("name", codec_names())
@given(data=st.data())
def test_hostile_bytes_are_codec_errors_at_worst(name: str, data: st.DataObject) -> None:
    features_BF = data.draw(batches(name))
    payload, side = get_codec(name).encode(features_BF)
    kind = data.draw(st.sampled_from(["junk", "cut", "longer", "flipped", "side"]))
    if kind == "junk":
        payload = data.draw(st.binary(max_size=200))
    elif kind == "cut":
        payload = payload[: data.draw(st.integers(0, len(payload) - 1))]
    elif kind == "longer":
        payload += data.draw(st.binary(min_size=1, max_size=9))
    elif kind == "flipped":
        place = data.draw(st.integers(0, len(payload) - 1))
        payload = payload[:place] + bytes([payload[place] ^ data.draw(st.integers(1, 255))]) + payload[place + 1 :]
    else:
        side = data.draw(st.binary(max_size=80).filter(lambda other: len(other) != len(side)))
    try:
        decoded_BF = decode(name, payload, side, features_BF)
    except CodecError:
        return
    assert kind in ("junk", "flipped"), "a wrong length must be noticed"
    assert decoded_BF.shape == features_BF.shape


@pytest.mark.parametrize("name", codec_names())
def test_refuses_what_it_cannot_encode(name: str) -> None:
    codec = get_codec(name)
    other = torch.uint8 if codec.dtype == torch.float32 else torch.float32
    with pytest.raises(CodecError, match="features must be"):
        codec.encode(torch.zeros(2, 3, 4, 4, dtype=other))
    with pytest.raises(CodecError, match="features must be"):
        codec.encode(torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    with pytest.raises(CodecError):
        codec.encode(torch.zeros(0, 3, 4, 4, dtype=codec.dtype))
    with pytest.raises(CodecError):
        codec.encode(torch.zeros(3, dtype=codec.dtype))
    payload, side = codec.encode(torch.zeros(2, 3, 4, 4, dtype=codec.dtype))
    with pytest.raises(CodecError, match="both sides need the same"):
        codec.decode(payload, side, batch=2, feature_shape=(3, 4, 4), dtype=other)
    for shape in ((3, 4, 5), (3, 4), (4, 3, 4), ()):
        with pytest.raises(CodecError):
            codec.decode(payload, side, batch=2 if shape != (4, 3, 4) else 3, feature_shape=shape, dtype=codec.dtype)
    if codec.dtype == torch.float32:
        for bad in (torch.nan, torch.inf, -torch.inf):
            features_BF = torch.zeros(2, 3, 4, 4)
            features_BF[1, 2, 3, 0] = bad
            with pytest.raises(CodecError, match="NaN"):
                codec.encode(features_BF)


@pytest.mark.parametrize("name", codec_names())
def test_takes_strided_tensors_that_need_gradients(name: str) -> None:
    codec = get_codec(name)
    plain_BF = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).to(codec.dtype)
    strided_BF = plain_BF.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert not strided_BF.is_contiguous()
    if codec.dtype.is_floating_point:
        strided_BF.requires_grad_()
    assert codec.encode(strided_BF) == codec.encode(plain_BF)


@pytest.mark.parametrize("name", codec_names())
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 8, 8), (3, 64, 64)])
def test_payload_and_side_stay_within_what_a_frame_allows(name: str, shape: tuple[int, ...]) -> None:
    codec = get_codec(name)
    generator = torch.Generator().manual_seed(0)
    if codec.dtype == torch.uint8:
        features_BF = torch.randint(0, 256, (4, *shape), generator=generator, dtype=torch.uint8)
    else:
        features_BF = torch.rand((4, *shape), generator=generator)
    header = dataclasses.replace(
        HEADER, feature_shape=shape, batch_size=4, feature_dtype="uint8" if codec.dtype == torch.uint8 else "float32"
    )
    payload, side = codec.encode(features_BF)
    assert len(payload) <= max_payload_bytes(header)
    assert len(side) <= max_side_bytes(header)


@pytest.mark.parametrize("name", codec_names())
def test_states_its_bytes_and_error(name: str) -> None:
    codec = get_codec(name)
    features_BF = (torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).to(codec.dtype)
    stated = reconstruction_error(codec, features_BF)
    payload, side = codec.encode(features_BF)
    assert stated["bytes"] == len(payload) + len(side) == 4 * stated["bytes_per_sample"]
    assert (stated["max_abs"] == 0) == codec.lossless
    assert stated["rmse"] <= stated["max_abs"]
