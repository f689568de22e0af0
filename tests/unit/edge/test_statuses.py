"""What an edge does with every status that a call over gRPC can end with: an outage, or the end of its run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from headers import stream_header

from smartedge.edge import outage
from smartedge.edge.sender import Traffic
from smartedge.edge.shipper import Shipper
from smartedge.edge.spool import Spool
from smartedge.errors import FleetError, FrameError, LogError, RunError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.frame import serialise
from smartedge.wire.grpc_errors import status_of
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.link_pb2 import Down, Up

HEADER = stream_header(batch_size=3, frames=2)
Serve = Callable[[Any, Any], Iterator[bytes]]


class Cloud(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """Gives its first call to ``first``, and takes every frame of later ones."""

    def __init__(self, first: Serve) -> None:
        self._serve = [first]
        self.calls = 0

    def service(self, details: Any) -> Any:
        self.calls += 1
        return grpc.stream_stream_rpc_method_handler(self._serve.pop() if self._serve else self._take)

    @staticmethod
    def _take(requests: Any, context: Any) -> Iterator[bytes]:
        assert Up.FromString(next(requests)).header
        yield Down(confirmed=0).SerializeToString()
        for seq, _ in zip(range(1, 3), requests, strict=False):
            yield Down(confirmed=seq).SerializeToString()


def ship(first: Serve, folder: Path, told: list[str]) -> Cloud:
    """Ship two frames. Raises what ends the run."""
    cloud = Cloud(first)
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((cloud,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        spool = Spool(folder / "spool", waiting=lambda why: None)
        spool.open(HEADER)
        for seq in range(2):
            batch = EncodedBatch(np.arange(3), np.array([0, 1, 0]), bytes(96), b"")
            spool.write(serialise(Frame(seq, batch), HEADER))
        link = GrpcLink(f"127.0.0.1:{port}", patient=False)
        shipper = Shipper(spool, link, folder / "shipped.json", Traffic(), tell=told.append)
        shipper.start()
        try:
            assert shipper.finish(threading.Event())
            assert spool.confirmed == 2
        except SmartEdgeError:
            shipper.stop()
            raise
        finally:
            server.stop(None)
    return cloud


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "_FIRST_WAIT_S", 0.001)


STATUSES = [code for code in grpc.StatusCode if code != grpc.StatusCode.OK]


@pytest.mark.parametrize("code", STATUSES, ids=lambda code: code.name)
@pytest.mark.parametrize("accepted", [False, True], ids=["at once", "within the stream"])
def test_a_status_without_an_error_of_ours_is_an_outage(code: grpc.StatusCode, accepted: bool, tmp_path: Path) -> None:
    def first(requests: Any, context: Any) -> Iterator[bytes]:
        if accepted:
            yield Down(confirmed=0).SerializeToString()
        context.abort(code, "so it is")

    told: list[str] = []
    assert ship(first, tmp_path, told).calls == 2
    assert "cloud unreachable for 0 s" in told[0] and "so it is" in told[0] and "is there again" in told[-1]


def nothing(requests: Any, context: Any) -> Iterator[bytes]:
    yield from ()


def no_message(requests: Any, context: Any) -> Iterator[bytes]:
    yield b"\xff\xff\xff"


@pytest.mark.parametrize("first", [nothing, no_message])
def test_what_is_no_answer_is_an_outage(first: Serve, tmp_path: Path) -> None:
    told: list[str] = []
    assert ship(first, tmp_path, told).calls == 2
    assert "smartedge cloud" in told[0]


@pytest.mark.parametrize("error", [RunError("r"), FleetError("f"), FrameError("o")])
@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE])
def test_a_refusal_of_ours_ends_the_run(code: grpc.StatusCode, error: SmartEdgeError, tmp_path: Path) -> None:
    def first(requests: Any, context: Any) -> Iterator[bytes]:
        details, metadata = status_of(error)
        context.set_trailing_metadata(metadata)
        context.abort(code, details)
        yield b""

    with pytest.raises(type(error), match=f"^{error}$"):
        ship(first, tmp_path, [])


def test_a_cloud_without_room_on_its_disk_is_an_outage(tmp_path: Path) -> None:
    def first(requests: Any, context: Any) -> Iterator[bytes]:
        details, metadata = status_of(LogError("the disk is full"))
        context.set_trailing_metadata(metadata)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, details)
        yield b""

    told: list[str] = []
    assert ship(first, tmp_path, told).calls == 2 and "the disk is full" in told[0]
