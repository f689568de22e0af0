"""The bytes at the socket of a real edge, with one image changed: as many, in the same order, of the same images.

``test_one_image_changed.py`` compares what the releases hold. Here spool, shipper and gRPC are between the two.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Command, settings_file
from tcp_proxy import TcpProxy

from smartedge.config import Config
from smartedge.data.layouts.in_python import keep_given
from smartedge.wire.link_pb2 import Up

COUNTS = {"train": 24, "val": 8, "test": 8}
CHANGED = 5  # place of the image that is another one
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_RANGE = 8  # bytes at the end of a head: codec uint8's range of the released numbers, which are a part of the release
Sent = list[list[tuple[bytes, int]]]  # stream → of each message number, ids and labels of its frame, and its length


class Recorder:
    """Keeps what each connection carries to the cloud."""

    def __init__(self) -> None:
        self._carried: defaultdict[int, bytes] = defaultdict(bytes)  # thread that serves the connection → bytes

    def __call__(self, data: bytes) -> bool:
        self._carried[threading.get_ident()] += data
        return False

    def sent(self) -> Sent:
        """The streams of frames. Nothing else on the link has a content that an image could change."""
        streams = [each for carried in self._carried.values() for each in _streams(carried) if len(each) > 1]
        return [
            [(Up.FromString(message).frame.head[:-_RANGE], len(message)) for message in each[1:]] for each in streams
        ]


def _streams(carried: bytes) -> list[list[bytes]]:
    """The messages of each gRPC call, in the order of the calls."""
    found: list[list[bytes]] = []
    for connection in carried.split(_PREFACE)[1:]:
        calls: defaultdict[int, bytes] = defaultdict(bytes)
        while connection:
            size, kind, call = int.from_bytes(connection[:3], "big"), connection[3], connection[5:9]
            if kind == 0:  # DATA
                calls[int.from_bytes(call, "big")] += connection[9 : 9 + size]
            connection = connection[9 + size :]
        found += [_messages(content) for _, content in sorted(calls.items())]
    return found


def _messages(content: bytes) -> list[bytes]:
    found = []
    while content:
        end = 5 + int.from_bytes(content[1:5], "big")
        found.append(content[5:end])
        content = content[end:]
    return found


@pytest.mark.slow
def test_what_an_image_shows_changes_neither_sizes_nor_order_nor_ids(
    tiny_config: Callable[..., Config], tmp_path: Path, start: Callable[..., Command]
) -> None:
    def crossed(name: str, pixels: np.ndarray) -> Sent:
        data = {}
        for split, count in COUNTS.items():
            images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
            data[split] = images, np.arange(count) % 2
        data["train"][0][CHANGED] = pixels
        keep_given(data, folder := tmp_path / f"{name}-data", ["label"])
        settings = {
            "epochs": 2,
            "data": {"path": str(folder), "desired": "label", "sensitive": [], "limit": COUNTS},
            "model": {"bottleneck": [4, 2, 2]},
            "dp": {"mechanism": "gaussian", "sigma": 0.5},
            "train": {"batch_size": 8},
        }
        config, record = tiny_config(name, **settings), Recorder()
        cloud_settings = settings_file(tiny_config(f"{name}-cloud", **settings), f"{name}-cloud")
        cloud = start("cloud", cloud_settings, "--listen", "127.0.0.1:0")
        proxy = TcpProxy(cloud.port(), record)
        edge = start("edge", settings_file(config, name), "--connect", f"127.0.0.1:{proxy.port}")
        assert (edge.end(), cloud.end()) == (0, 0), edge.output + cloud.output
        proxy.close()
        return record.sent()

    before = crossed("before", np.zeros((16, 16, 3), np.uint8))
    assert sum(len(frames) for frames in before) == 2 * (3 + 1) + 1, "two epochs of training and validation, one test"
    assert crossed("after", np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)) == before
