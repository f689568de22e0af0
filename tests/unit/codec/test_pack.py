from __future__ import annotations

import numpy as np
import pytest
from headers import stream_header
from PIL import features

from smartedge.codec import codec_names, get_codec, pack, unpack
from smartedge.errors import CodecError, FrameError
from smartedge.privacy.release import release
from smartedge.types import EncodedBatch, FeatureBatch

IDS = np.array([7, 3, 9])
FEATURES = np.random.default_rng(0).random((3, 4, 5, 5), np.float32)


def test_codecs_by_name() -> None:
    levels = ("uint8", "uint4", "uint2", "uint1")
    fixed = ("float32", "float16", *levels, *(f"{name}-previous" for name in levels), "code", "image", "jpeg")
    numbered = ("learned-N", "learned-N-previous", "topk-P%", "tile-webp-Q", "tile-avif-Q")
    assert codec_names() == (*fixed, *numbered, "jpeg-Q", "webp-Q", "avif-Q")
    short = ("learned-16", "learned-16-previous", "topk-0.5%", "topk-50%", "tile-webp-1", "jpeg-75", "avif-7")
    for name in (*fixed, *short, "tile-avif-100", "webp-50"):
        assert get_codec(name).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flaot16", r"did you mean 'float16'\? choose one of float32"),
        ("zip", "no codec 'zip'; choose"),
        ("code-previous", "no codec"),
        ("learned-9999999-previous", "no codec"),
        ("uint3", "no codec 'uint3'; did you mean 'uint"),
        ("topk-0%", "more than 0 %"),
        ("topk-51%", "at most 50 %"),
        ("topk-5", "no codec 'topk-5'; did you mean 'topk-P%'"),
        ("topk-1e1%", "no codec"),
        ("topk-\u0665%", "no codec"),
        ("webp-0", "quality of 1 to 100; write webp-50"),
        ("tile-avif-101", "quality of 1 to 100"),
        ("webp", "no codec 'webp'"),
        ("jpeg-50\n", "no codec"),
        ("", "no codec"),
    ],
)
def test_wrong_names_say_what_is_right(name: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        get_codec(name)


def test_a_format_that_pillow_lacks_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    assert get_codec("webp-50").name == "webp-50"
    for name in ("avif-50", "tile-avif-50"):
        with pytest.raises(CodecError, match="cannot read and write AVIF"):
            get_codec(name)


def test_more_bytes_than_a_codec_makes_are_not_unpacked() -> None:
    codec = get_codec("uint4")
    encoded = EncodedBatch(IDS, np.array([0, 1, 2]), bytes(codec.max_bytes(3, (4, 5, 5)) + 1), b"")
    with pytest.raises(CodecError, match="never more than"):
        unpack(encoded, stream_header(codec="uint4", feature_shape=(4, 5, 5), outputs=3))


def test_single_label_round_trip() -> None:
    labels = np.array([2, 0, 1])
    encoded = pack(release(IDS, FEATURES, labels), get_codec("float32"))
    assert encoded.labels.dtype == np.int64 and encoded.ids.dtype == np.int64
    batch = unpack(encoded, stream_header(feature_shape=(4, 5, 5), outputs=3))
    assert np.array_equal(batch.features_BF, FEATURES) and np.array_equal(batch.labels, labels)
    assert batch.ids.tolist() == [7, 3, 9] and batch.labels.dtype == np.int64


def test_multi_label_round_trip() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 1]], np.float32)
    encoded = pack(release(IDS, FEATURES, labels), get_codec("uint8"))
    assert encoded.labels.dtype == np.uint8
    batch = unpack(encoded, stream_header(codec="uint8", feature_shape=(4, 5, 5), task_kind="multi", outputs=2))
    assert np.array_equal(batch.labels, labels) and batch.labels.dtype == np.float32


def test_labels_that_are_lacking_stay_so() -> None:
    labels = np.array([[1, np.nan], [np.nan, 0], [0, 1]], np.float32)
    encoded = pack(release(IDS, FEATURES, labels), get_codec("uint8"))
    assert encoded.labels.tolist() == [[1, 2], [2, 0], [0, 1]]
    header = stream_header(codec="uint8", feature_shape=(4, 5, 5), task_kind="multi", outputs=2, blanks=True)
    np.testing.assert_array_equal(unpack(encoded, header).labels, labels)


def test_only_a_release_is_packed() -> None:
    for raw in (FEATURES, FeatureBatch(IDS, FEATURES, np.array([0, 1, 0])), None):
        with pytest.raises(TypeError, match=r"smartedge\.privacy\.release"):
            pack(raw, get_codec("float32"))  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [np.array([0.5, 1, 0], np.float32), np.array([[2], [0], [1]], np.float32)])
def test_labels_of_another_kind_are_not_packed(labels: np.ndarray) -> None:
    with pytest.raises(CodecError, match="labels must be"):
        pack(release(IDS, FEATURES, labels), get_codec("float32"))


@pytest.mark.parametrize(("name", "dtype"), [("float32", "<f4"), ("float16", "<f2")])
@pytest.mark.parametrize("value", [1.6, -1.6, np.nan, np.inf, -np.inf])
def test_one_value_out_of_range_is_enough(name: str, dtype: str, value: float) -> None:
    """The payload is not of our codec, which refuses some of these."""
    header = stream_header(feature_shape=(2, 2), codec=name)
    payload = np.array([1.5, value, 0, -1.5], dtype).tobytes()
    encoded = EncodedBatch(np.array([0]), np.array([0]), payload, b"")
    with pytest.raises(FrameError, match="features reach from"):
        unpack(encoded, header, largest=1.5)
    if np.isfinite(value):
        assert np.abs(unpack(encoded, header).features_BF).max() > 1.5
    else:
        with pytest.raises(FrameError, match="features reach from"):
            unpack(encoded, header)


def test_images_and_the_bound_itself_are_taken() -> None:
    header = stream_header(feature_shape=(3,), codec="image", feature_dtype="uint8")
    images = pack(release(IDS, np.full((3, 3), 255, np.uint8), np.array([0, 1, 0])), get_codec("image"))
    assert unpack(images, header, largest=1.5).features_BF.max() == 255
    maps = pack(release(IDS, np.full((3, 3), -1.5, np.float32), np.array([0, 1, 0])), get_codec("float32"))
    assert unpack(maps, stream_header(feature_shape=(3,)), largest=1.5).features_BF.min() == -1.5
