from __future__ import annotations

import random
import tracemalloc

import pyarrow as pa
import pytest

from smartedge.codec.entropy import compress, decompress, max_compressed
from smartedge.errors import CodecError


def test_round_trip() -> None:
    assert bytes(decompress(compress(b"abc" * 100), 300, "uint8")) == b"abc" * 100


@pytest.mark.parametrize("size", [0, 1, 2, 31, 255, 256, 5000, 2**17 - 1, 2**17, 2**17 + 1, 400_000])
def test_noise_grows_no_more_than_stated(size: int) -> None:
    noise = random.Random(size).randbytes(size)
    assert size <= len(compress(noise)) <= max_compressed(size) <= size + size // 256 + 64


@pytest.mark.parametrize("size", [0, 1, 299, 301, 3000])
def test_size_must_be_exact(size: int) -> None:
    with pytest.raises(CodecError, match="codec uint8"):
        decompress(compress(b"abc" * 100), size, "uint8")


def test_a_bomb_allocates_no_more_than_an_honest_payload() -> None:
    bomb = compress(bytes(200_000_000))
    assert len(bomb) < 20_000
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    with pytest.raises(CodecError):
        decompress(bomb, 1000, "uint8")
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert pa.total_allocated_bytes() == before
    assert pa.default_memory_pool().max_memory() == peak
