from __future__ import annotations

import numpy as np
import pytest

from smartedge.codec import get_codec
from smartedge.errors import CodecError

CODE = get_codec("code")


def one_hot(places: list[int], words: int) -> np.ndarray:
    return np.eye(words, dtype=np.float32)[places]


@pytest.mark.parametrize(("words", "size"), [(2, 8), (8, 24), (9, 32), (16, 32), (256, 64)])
def test_one_codeword_takes_log2_bits(words: int, size: int) -> None:
    """64 images of ``words`` codewords take ``size`` bytes."""
    features_BK = one_hot([(7 * index) % words for index in range(64)], words)
    payload, side = CODE.encode(features_BK)
    assert (len(payload), side) == (size, b"")
    assert np.array_equal(
        CODE.decode(payload, side, batch=64, feature_shape=(words,), dtype=np.dtype(np.float32)), features_BK
    )


@pytest.mark.parametrize("rows", [[[0, 0, 0, 0]], [[1, 1, 0, 0]], [[0, 1, 0, 0], [1, 1, 1, 1]]])
def test_subsets_take_a_bit_per_codeword(rows: list[list[int]]) -> None:
    features_BK = np.array(rows, np.float32)
    payload, side = CODE.encode(features_BK)
    assert (len(payload), len(side)) == (1, 1)
    decoded = CODE.decode(payload, side, batch=len(rows), feature_shape=(4,), dtype=np.dtype(np.float32))
    assert np.array_equal(decoded, features_BK)


def test_several_codebooks() -> None:
    features_BGK = one_hot([1, 2, 0, 2], 3).reshape(2, 2, 3)
    payload, side = CODE.encode(features_BGK)
    assert len(payload) == 1
    assert np.array_equal(
        CODE.decode(payload, side, batch=2, feature_shape=(2, 3), dtype=np.dtype(np.float32)), features_BGK
    )


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0])
def test_other_numbers_are_refused(value: float) -> None:
    with pytest.raises(CodecError, match="0 or 1"):
        CODE.encode(np.array([[0.0, value]], np.float32))


def test_too_many_codewords_are_refused() -> None:
    with pytest.raises(CodecError, match="at most 256"):
        CODE.encode(np.zeros((1, 257), np.float32))
    with pytest.raises(CodecError, match="at most 256"):
        CODE.decode(b"\0", b"", batch=1, feature_shape=(257,), dtype=np.dtype(np.float32))


def test_a_codeword_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CodecError, match="codeword 6 of 5"):
        CODE.decode(b"\x06", b"", batch=1, feature_shape=(5,), dtype=np.dtype(np.float32))
