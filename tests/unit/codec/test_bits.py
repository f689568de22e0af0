from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartedge.codec.bits import compress, decompress, max_compressed, pack_bits, packed_size, unpack_bits
from smartedge.errors import CodecError


def slowly(values: list[int], width: int) -> bytes:
    """The numbers as one long binary number, the first one lowest."""
    whole = sum(value << (width * place) for place, value in enumerate(values))
    return whole.to_bytes((len(values) * width + 7) // 8, "little")


@pytest.mark.parametrize("width", range(1, 9))
@given(data=st.data())
def test_numbers_lie_side_by_side(width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=40))
    packed = pack_bits(np.array(values, np.uint8), width)
    assert packed == slowly(values, width)
    assert len(packed) == packed_size(len(values), width)
    assert unpack_bits(packed, width, len(values)).tolist() == values


def test_zstd_round_trip() -> None:
    assert bytes(decompress(compress(b"abc" * 100), 300, "uint8")) == b"abc" * 100


@pytest.mark.parametrize("size", [0, 1, 2, 31, 255, 256, 5000, 2**17 - 1, 2**17, 2**17 + 1, 400_000])
def test_noise_grows_no_more_than_stated(size: int) -> None:
    noise = random.Random(size).randbytes(size)
    assert size <= len(compress(noise)) <= max_compressed(size) <= size + size // 256 + 64


@pytest.mark.parametrize(
    ("size", "most"), [(0, 64), (2**16, 2**16 + 2**8 + 32), (2**17, 2**17 + 2**9), (2**20, 2**20 + 2**12)]
)
def test_the_bound_is_that_of_zstd(size: int, most: int) -> None:
    """ZSTD_COMPRESSBOUND: 1/256 more, and up to 64 bytes for less than 128 kB."""
    assert max_compressed(size) == most


@pytest.mark.parametrize("size", [0, 1, 299, 301, 3000])
def test_size_must_be_exact(size: int) -> None:
    with pytest.raises(CodecError, match="codec uint8"):
        decompress(compress(b"abc" * 100), size, "uint8")


def test_a_bomb_allocates_no_more_than_an_honest_payload() -> None:
    bomb = compress(bytes(200_000_000))
    assert len(bomb) < 20_000
    tracemalloc.start()
    with pytest.raises(CodecError):
        decompress(bomb, 1000, "uint8")
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_a_frame_cannot_ask_for_a_large_window() -> None:
    """Outside Python's own memory: zstd would allocate the window that the frame's head names, here 128 MiB."""
    raw_block = (1 | 3 << 3).to_bytes(3, "little") + b"abc"
    frame = bytes.fromhex("28b52ffd00") + bytes([(27 - 10) << 3]) + raw_block
    with pytest.raises(CodecError, match="too much memory"):
        decompress(frame, 3, "uint8")
    assert bytes(decompress(bytes.fromhex("28b52ffd0000") + raw_block, 3, "uint8")) == b"abc"
