"""A front bundle comes from elsewhere: whatever lies in its place, opening it ends, in little memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from smartedge.errors import FrontError
from smartedge.fronts.bundle import PublishedFront, open_front

NETWORK = b"a network"


def published(folder: Path) -> PublishedFront:
    manifest = SimpleNamespace(files={"front.onnx": hashlib.sha256(NETWORK).hexdigest()})
    return PublishedFront(folder, *cast("Any", (manifest, None, None)))


@pytest.mark.parametrize("name", ["manifest.json", "front.onnx"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(FrontError, match=rf"{name}: cannot be read \(not a file but a folder, pipe or device\); copy"):
        open_front(tmp_path, trust=None) if name == "manifest.json" else published(tmp_path).read(name)


def test_a_manifest_without_end(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(FrontError, match="larger than 64 MiB"):
        open_front(tmp_path, trust=None)


def test_another_network_is_refused_in_little_memory(tmp_path):
    (tmp_path / "front.onnx").write_bytes(NETWORK)
    assert published(tmp_path).read("front.onnx") == NETWORK
    with (tmp_path / "front.onnx").open("wb") as file:
        file.truncate(2**27)
    tracemalloc.start()
    try:
        with pytest.raises(FrontError, match="is not the file that was published"):
            published(tmp_path).read("front.onnx")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
