"""The link: what it carries beside Arrow Flight and plain TCP, and what a stream costs.

    python benchmarks/link.py transport                    # frames a second, processor time a frame, memory a stream

Receivers are processes of their own on this machine. Rounds of all contenders alternate, and the best round counts, as
other programs may run. What attackers can do: hostile.py.
Result: benchmarks/results/link-transport.json.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import HERE, keep_result

from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import header_to_json, serialise
from smartedge.wire.grpc_link import GrpcLink

RESULTS = HERE / "results"
SIZES = {"1 MB": (64, 4096, 200), "10 kB": (10, 256, 2000)}  # images in a frame, float32 numbers of each, frames

OURS = """
import sys, tempfile
from pathlib import Path
from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.wire.grpc_receiver import GrpcReceiver
class Tokens:
    def refusal(self, edge, serial=None): return None
    def edge_of(self, token): return token if token.startswith("edge") else None
class Drop:
    def accept(self, edge, header): return header.first_seq
    def ingest(self, edge, header, frame): self.seq = frame.seq + 1
    def sync(self, edge, header): return self.seq
    def finish(self, edge, header): pass
    def abort(self, edge, header): pass
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
    handler = Drop() if sys.argv[1] == "drop" else StoreHandler(FeatureLog(Path(folder) / "log", "edge"))
    receiver = GrpcReceiver(handler, "127.0.0.1", guard=Tokens())
    receiver.start()
    print(receiver.port, flush=True)
    sys.stdin.read()
    receiver.close()
"""
FLIGHT = """
from pyarrow import flight
class Server(flight.FlightServerBase):
    def do_put(self, context, descriptor, reader, writer):
        while True:
            try: reader.read_chunk()
            except StopIteration: return
server = Server("grpc://127.0.0.1:0")
print(server.port, flush=True)
server.serve()
"""
TCP = """
import os, socket, struct, sys, tempfile
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    stream = connection.makefile("rb", buffering=1 << 16)
    with tempfile.TemporaryFile(dir=sys.argv[2]) as file:
        while len(length := stream.read(4)) == 4:
            data = stream.read(struct.unpack("<I", length)[0])
            if sys.argv[1] == "store": file.write(data)
        file.flush()
        os.fsync(file.fileno())
    connection.sendall(b"x")
    connection.close()
"""


class Receiver:
    """A receiver in a process of its own."""

    def __init__(self, program: str, kind: str = "drop") -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.log = Path(self._folder.name) / "log.txt"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, kind, self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.process = psutil.Process(self._process.pid)

    def cpu(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def header_of(frames: int, images: int, numbers: int, first: int = 0) -> StreamHeader:
    return StreamHeader.of(
        run="benchmark",
        agreement={},
        task=Task("single", ("label",), ("no", "yes")),
        codec="float32",
        feature_shape=(numbers,),
        batch_size=images,
        split="train",
        frames=frames,
        first_seq=first,
    )


def encoded(images: int, numbers: int) -> EncodedBatch:
    payload = np.random.default_rng(0).standard_normal((images, numbers), np.float32).tobytes()
    return EncodedBatch(np.arange(images), np.zeros(images, np.int64), payload, b"")


class Edge:
    """Sends streams of ours, one after the other."""

    def __init__(self, receiver: Receiver, name: str = "edge") -> None:
        self.link = GrpcLink(f"127.0.0.1:{receiver.port}", Credentials(token=name), connect_timeout_s=60)
        self.seq = 0

    def send(self, images: int, numbers: int, frames: int) -> None:
        header, batch = header_of(frames, images, numbers, self.seq), encoded(images, numbers)
        self.link.open(header)
        for _ in range(frames):
            self.link.write(serialise(Frame(self.seq, batch), header))
            self.seq += 1
        self.link.close()


def by_flight(receiver: Receiver, images: int, numbers: int, frames: int) -> None:
    import pyarrow as pa
    from pyarrow import flight

    schema = pa.schema([("head", pa.binary()), ("payload", pa.binary())])
    header, batch = header_of(frames, images, numbers), encoded(images, numbers)
    client = flight.FlightClient(f"grpc://127.0.0.1:{receiver.port}")
    writer, _ = client.do_put(flight.FlightDescriptor.for_command(header_to_json(header)), schema)
    for seq in range(frames):
        columns = [pa.array([each]) for each in serialise(Frame(seq, batch), header)]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    writer.close()
    client.close()


def by_tcp(receiver: Receiver, images: int, numbers: int, frames: int) -> None:
    header, batch = header_of(frames, images, numbers), encoded(images, numbers)
    with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
        for seq in range(frames):
            data = b"".join(serialise(Frame(seq, batch), header))
            connection.sendall(struct.pack("<I", len(data)) + data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"x"


def transport(rounds: int) -> dict[str, Any]:
    receivers = {
        "tcp": Receiver(TCP),
        "flight": Receiver(FLIGHT),
        "link": Receiver(OURS),
        "tcp with fsync": Receiver(TCP, "store"),
        "link with store": Receiver(OURS, "store"),
    }
    edges = {name: Edge(receivers[name]) for name in ("link", "link with store")}
    senders: dict[str, Callable[..., None]] = {
        name: edges[name].send if name in edges else _bound(by_flight if name == "flight" else by_tcp, receiver)
        for name, receiver in receivers.items()
    }
    found: dict[str, Any] = {}
    for size, (images, numbers, frames) in SIZES.items():
        rates: dict[str, list[float]] = {name: [] for name in receivers}
        cpu: dict[str, list[float]] = {name: [] for name in receivers}
        for _ in range(rounds):
            for name, receiver in receivers.items():
                begun, before = time.perf_counter(), receiver.cpu()
                senders[name](images, numbers, frames)
                rates[name].append(frames / (time.perf_counter() - begun))
                cpu[name].append(1e6 * (receiver.cpu() - before) / frames)
        found[size] = {
            name: {"frames_per_second": round(max(rates[name])), "receiver_cpu_us_per_frame": round(min(cpu[name]))}
            for name in receivers
        }
        pairs = zip(rates["link with store"], rates["tcp with fsync"], strict=True)
        found[size]["durable, link with store ÷ tcp with fsync, median of rounds"] = round(
            statistics.median(ours / plain for ours, plain in pairs), 2
        )
        print(size, found[size], flush=True)
    found["bytes_of_framing_per_frame"] = framing(edges["link"])
    print("framing", found["bytes_of_framing_per_frame"], flush=True)
    found["memory"] = memory(receivers["link"])
    print("memory", found["memory"], flush=True)
    for receiver in receivers.values():
        receiver.close()
    return found


def _bound(send: Callable[..., None], receiver: Receiver) -> Callable[..., None]:
    return lambda *arguments: send(receiver, *arguments)


def framing(edge: Edge) -> dict[str, float]:
    """Bytes at the socket of each further frame, without payload, ids and labels."""
    found = {}
    for size, (images, numbers) in {"2 kB": (64, 8), "10 kB": (10, 256), "1 MB": (64, 4096)}.items():
        up = []
        for frames in (50, 150):
            before = edge.link.counters().up
            edge.send(images, numbers, frames)
            up.append(edge.link.counters().up - before)
        found[size] = round((up[1] - up[0]) / 100 - images * (4 * numbers + 4 + 1), 1)
    return found


def memory(receiver: Receiver, edges: int = 200) -> dict[str, Any]:
    """KiB of the receiver for each further edge that has a stream open and has sent frames of 10 kB."""
    images, numbers, _ = SIZES["10 kB"]
    header, batch = header_of(10, images, numbers), encoded(images, numbers)
    before = receiver.process.memory_info().rss
    opened = [Edge(receiver, f"edge{number}") for number in range(edges)]
    for edge in opened:
        edge.link.open(header)
        for seq in range(5):
            edge.link.write(serialise(Frame(seq, batch), header))
    time.sleep(1.0)
    after = receiver.process.memory_info().rss
    for edge in opened:
        edge.link.disconnect()
    return {"edges": edges, "kib_per_edge": round((after - before) / 1024 / edges)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["transport"])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    keep_result(RESULTS / "link-transport.json", transport(args.rounds))


if __name__ == "__main__":
    main()
