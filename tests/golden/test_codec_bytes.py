"""Bytes of every codec that no refactoring may change: a feature log written before must decode as it did.

What zstd makes of the same levels may differ between its versions, so encoding is compared after decoding; the stored
bytes themselves must decode for ever. Image files are Pillow's and are held by tests/unit/codec.
"""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.codec import get_codec

FEATURES = ((np.arange(32).reshape(2, 2, 2, 4) * 37) % 64 / 8 - 3).astype(np.float32)
CODEWORDS = np.eye(6, dtype=np.float32)[[3, 0, 5, 2]]
SUBSETS = CODEWORDS + np.eye(6, dtype=np.float32)[[0, 1, 0, 1]]
IMAGES = (np.arange(24).reshape(2, 3, 2, 2) * 21 % 256).astype(np.uint8)

# name -> features, payload, side, and the first four numbers that they decode to
STORED = {
    "float32": (
        FEATURES,
        "000040c00000d03f0000e0bf00003840000000bf000084400000403f000028c0000000400000b0bf00005040000000be0000904000"
        "00903f000010c000001840000080bf000068400000803e00009c400000c03f0000f0bf00003040000020bf000080400000203f0000"
        "30c00000f03f0000c0bf00004840000080be00008c40",
        "",
        [-3.0, 1.625, -1.75, 2.875],
    ),
    "float16": (
        FEATURES,
        "00c2803e00bfc04100b82044003a40c1004080bd804200b08044803c80c0c04000bc40430034e044003e80bf804100b9004400398"
        "0c1803f00be404200b46044",
        "",
        [-3.0, 1.625, -1.75, 2.875],
    ),
    "uint8": (
        FEATURES,
        "28b52ffd2020010100009628be51e7790c41d769ff9224ba4da235ca5df38618aee375089e31c659ef",
        "000040c000009c40",
        [-3.0, 1.63235, -1.76471, 2.86765],
    ),
    "uint4": (
        FEATURES,
        "28b52ffd201081000090c2e507d4f6294b3a5c8fb17ea0c3f5",
        "000030c000009040",
        [-2.75, 1.6, -1.78333, 3.05],
    ),
    "uint2": (FEATURES, "28b52ffd2008410000881ddd62728b87dc", "000010c000008440", [-2.25, 2.0, -2.25, 2.0]),
    "uint1": (FEATURES, "28b52ffd20042100002a5ab5a9", "0000b0bf00004840", [-1.375, 3.125, -1.375, 3.125]),
    "topk-12.5%": (
        FEATURES,
        "28b52ffd20042100000506060b28b52ffd2002110000805f",
        "040000000d0000000000844000009c40",
        [0.0, 0.0, 0.0, 0.0],
    ),
    "code": (CODEWORDS, "4305", "", [0.0, 0.0, 0.0, 1.0]),
    "code, subsets": (SUBSETS, "c9101a", "01", [1.0, 0.0, 0.0, 1.0]),
    "image": (IMAGES, "28b52ffd2018c1000000152a0054152a00a8152a00fc152a0050152a00a4152a00", "", [0, 21, 42, 63]),
    "jpeg": (IMAGES, "0c0000000054a81569bd2a7ed23f93e70c000000fc50a41165b9267ace3b8fe3", "", [0, 21, 42, 63]),
}


@pytest.mark.parametrize("case", STORED)
def test_stored_bytes_decode_as_they_did(case: str) -> None:
    features_BF, payload, side, first = STORED[case]
    codec = get_codec(case.partition(",")[0])
    shape = features_BF.shape

    def decode(payload: bytes, side: bytes) -> np.ndarray:
        return codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=features_BF.dtype)

    stored_BF = decode(bytes.fromhex(payload), bytes.fromhex(side))
    assert stored_BF.flatten()[:4].tolist() == pytest.approx(first, abs=1e-5)
    assert np.array_equal(decode(*codec.encode(features_BF)), stored_BF)
    if codec.name in ("float32", "code", "image"):
        assert np.array_equal(stored_BF, features_BF)
    if case in ("float32", "float16", "code", "code, subsets", "jpeg"):  # no zstd, no image library
        assert [part.hex() for part in codec.encode(features_BF)] == [payload, side]
