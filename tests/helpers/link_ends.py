"""Both ends of the link over a socket, for tests: a handler, connected senders, and a client that may send anything."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import numpy as np
from headers import stream_header

from smartedge.errors import FleetError, SmartEdgeError
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import Message, header_to_json, serialise
from smartedge.wire.grpc_link import METHOD, GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.link_pb2 import Down, Up
from smartedge.wire.parts import split

__all__ = ["HEADER", "Fleet", "Handler", "Links", "Raw", "frame", "receiving_process", "send", "ups"]

HEADER = stream_header(feature_shape=(256, 32, 32), outputs=10, batch_size=64, frames=3, train_steps=3)


def frame(seq: int, *, size: int = 1000) -> Message:
    return serialise(Frame(seq, EncodedBatch(np.arange(4), np.arange(4), os.urandom(size), b"")), HEADER)


def send(link: GrpcLink, header: StreamHeader = HEADER, **options: Any) -> None:
    link.open(header)
    for seq in range(header.first_seq, header.end_seq):
        link.write(frame(seq, **options))
    link.close()


class Handler:
    """Counts frames; while ``gate`` is closed, blocks at each one. Edges named in ``blocked`` wait in any case."""

    def __init__(self) -> None:
        self.ingested = 0
        self.finished = 0
        self.edges: list[str] = []  # of every stream, in the order of their begin
        self.aborted = threading.Semaphore(0)
        self.came = threading.Semaphore(0)
        self.synced = threading.Semaphore(0)
        self.disk = threading.Event()  # while it is not set, ``sync`` waits
        self.disk.set()
        self.sync_failure: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.blocked: dict[str, threading.Event] = {}
        self.failure: BaseException | None = None
        self._seq: dict[str, int] = {}

    def accept(self, edge: str, header: StreamHeader) -> int:
        self.edges.append(edge)
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame | None:
        if self.failure is not None:
            raise self.failure
        self.gate.wait(timeout=60)
        if edge in self.blocked:
            self.blocked[edge].wait(timeout=60)
        self.ingested += 1
        self._seq[edge] = frame.seq + 1
        self.came.release()
        return frame if header.answered else None

    def sync(self, edge: str, header: StreamHeader) -> int:
        self.synced.release()
        self.disk.wait(timeout=60)
        if self.sync_failure is not None:
            raise self.sync_failure
        return self._seq[edge]

    def finish(self, edge: str, header: StreamHeader) -> None:
        self.finished += 1

    def abort(self, edge: str, header: StreamHeader) -> None:
        self.aborted.release()


_SERVER = """
import sys
from smartedge.wire.grpc_receiver import GrpcReceiver
class Handler:
    def accept(self, edge, header): return header.first_seq
    def ingest(self, edge, header, frame): self.next_seq = frame.seq + 1
    def sync(self, edge, header): return self.next_seq
    def finish(self, edge, header): pass
    def abort(self, edge, header): pass
receiver = GrpcReceiver(Handler(), "127.0.0.1")
receiver.start()
print(receiver.port, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def receiving_process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with a receiver of its own, which a test may stop or kill; and where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        yield process, f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


class Fleet:
    """A guard that knows every token, which is the edge's name, unless the edge was revoked."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()

    def refusal(self, edge: str, serial: int | None = None) -> SmartEdgeError | None:
        return FleetError(f"edge {edge} was revoked") if edge in self.revoked else None

    def edge_of(self, token: str) -> str | None:
        return token or None


class Links:
    """Makes links to a receiver on this machine, and disconnects them in the end."""

    def __init__(self) -> None:
        self._made: list[GrpcLink] = []

    def __call__(self, receiver: GrpcReceiver, **options: Any) -> GrpcLink:
        self._made.append(GrpcLink(f"127.0.0.1:{receiver.port}", **{"connect_timeout_s": 30.0, **options}))
        return self._made[-1]

    def disconnect(self) -> None:
        for link in self._made:
            link.disconnect()


def ups(header: StreamHeader, frames: Iterable[Message]) -> Iterator[bytes]:
    """The messages of a stream."""
    yield Up(header=header_to_json(header)).SerializeToString()
    for each in frames:
        yield from split(each)


class Raw:
    """A gRPC client that may send anything."""

    def __init__(self, receiver: GrpcReceiver, token: str | None = None) -> None:
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{receiver.port}",
            [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
        )
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def call(self, messages: Iterable[bytes], *, method: str = METHOD, **options: Any) -> list[Down]:
        options.setdefault("metadata", self._metadata)
        call = self.channel.stream_stream(method, request_serializer=None, response_deserializer=Down.FromString)
        return list(call(iter(messages), **{"timeout": 30, **options}))

    def close(self) -> None:
        self.channel.close()
