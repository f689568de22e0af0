"""The link: what it carries beside Arrow Flight and plain TCP, what a stream costs, and what attackers can do to it.

    python benchmarks/link.py transport                    # frames a second, processor time a frame, memory a stream
    python benchmarks/link.py hostile --messages 100000    # the rate and the memory beside attackers

Receivers are processes of their own on this machine. Rounds of all contenders alternate, and the best round counts, as
other programs may run. Attackers are niced, since they share the processors with the edge that they attack, and are
stopped now and then, so that rounds alone and beside them alternate.
Results: benchmarks/results/link-transport.json, link-hostile.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from common import HERE, keep_result

from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import header_to_json, serialise
from smartedge.wire.grpc_link import METHOD, GrpcLink
from smartedge.wire.link_pb2 import Frame as Part
from smartedge.wire.link_pb2 import Up

RESULTS = HERE / "results"
SIZES = {"1 MB": (64, 4096, 200), "10 kB": (10, 256, 2000)}  # images in a frame, float32 numbers of each, frames

OURS = """
import sys, tempfile
from pathlib import Path
from smartedge.cloud.store import FeatureLog, StoreHandler
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


# -- attackers


def junk_headers(port: int, token: str) -> Callable[[], None]:
    """One call with a header that is none."""
    return _caller(port, token, lambda: [Up(header=b'{"\x1b[31m": 1}').SerializeToString()])


def malformed(port: int, token: str) -> Callable[[], None]:
    """One call with a good header and a random message after it."""
    header = Up(header=header_to_json(header_of(5, 10, 256))).SerializeToString()
    return _caller(port, token, lambda: [header, os.urandom(200)])


def bomb(port: int, token: str) -> Callable[[], None]:
    """One call with 200 MB of zeros, compressed."""
    return _caller(port, token, lambda: [bytes(200_000_000)], compression=grpc.Compression.Gzip)


def parts(port: int, token: str) -> Callable[[], None]:
    """One call with a frame of endless parts."""
    header = Up(header=header_to_json(header_of(5, 10, 256))).SerializeToString()
    part = Up(frame=Part(head=b"h", payload=bytes(2**20), more=True)).SerializeToString()
    return _caller(port, token, lambda: [header, *[part] * 100])


def _caller(port: int, token: str, messages: Callable[[], list[bytes]], **options: Any) -> Callable[[], None]:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    call = channel.stream_stream(METHOD)

    def attack() -> None:
        with contextlib.suppress(grpc.RpcError):
            list(call(iter(messages()), metadata=[("authorization", f"Bearer {token}")], timeout=60, **options))

    return attack


ATTACKS = {"junk headers": junk_headers, "malformed": malformed, "bombs": bomb, "endless parts": parts}


def attack_here(kind: str, port: int, token: str, count: int) -> None:
    """The attacker's process: ``count`` calls from each of four threads, or what it holds, until it is killed."""
    os.nice(19)
    if kind == "idle":
        held = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", port)))
    elif kind == "stalled":
        edge = GrpcLink(f"127.0.0.1:{port}", Credentials(token=token))
        edge.open(header_of(5, 10, 256))
    else:
        calls = [ATTACKS[kind](port, f"{token}{number}") for number in range(4)]

        def run(call: Callable[[], None]) -> None:
            for _ in range(count):
                call()

        threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
        for each in threads:
            each.start()
    print("attacking", flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def attackers(kind: str, receiver: Receiver, token: str, count: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, __file__, "attack", kind, str(receiver.port), token, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def hostile(messages: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The valid edge's rate and the receiver's memory, alone and beside each kind of attack."""
    receiver = Receiver(OURS)
    edge = Edge(receiver)
    images, numbers, frames = 64, 4096, 20
    kinds = {
        "junk headers, no token": ("junk headers", "stranger", 10**6),
        "junk headers": ("junk headers", "edge-x", 10**6),
        "malformed messages": ("malformed", "edge-x", 10**6),
        "2 000 idle connections": ("idle", "", 2000),
        "a stalled stream": ("stalled", "edge-s", 1),
        "bombs": ("bombs", "edge-x", 10**6),
        "endless parts": ("endless parts", "edge-x", 10**6),
    }
    edge.send(images, numbers, frames)
    start = receiver.process.memory_info().rss
    found: dict[str, Any] = {}

    def rate() -> float:
        begun, before = time.perf_counter(), edge.seq
        while time.perf_counter() - begun < seconds:
            edge.send(images, numbers, frames)
        return (edge.seq - before) / (time.perf_counter() - begun)

    for name, (kind, token, count) in kinds.items():
        alone, beside = [rate()], []
        with attackers(kind, receiver, token, count) as process:
            attacker, peak = psutil.Process(process.pid), _Peak(receiver.process)
            holds = kind in ("idle", "stalled")  # these attack by what they hold, also while they sleep
            assert process.stdout is not None and process.stdout.readline() == b"attacking\n"
            for _ in range(rounds):
                beside.append(rate())
                if not holds:
                    attacker.suspend()
                    alone.append(rate())
                    attacker.resume()
            over = peak.stop() - start
        alone.append(rate())
        found[name] = {
            "frames_per_second_alone": round(statistics.median(alone)),
            "beside": round(statistics.median(beside)),
            "share": round(statistics.median(beside) / statistics.median(alone), 2),
            "peak_mib_over_start": round(over / 2**20, 1),
        }
        print(name, found[name], flush=True)
    begun = time.perf_counter()
    calls = [malformed(receiver.port, f"edge-y{number}") for number in range(64)]
    left = iter(range(messages))

    def run(call: Callable[[], None]) -> None:
        for _ in left:
            if time.perf_counter() - begun > 600:
                return
            call()

    # Each of these senders is refused for a second after its first few, so that many connections are needed.
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found["malformed messages in all"] = {
        "sent": messages - sum(1 for _ in left),
        "seconds": round(time.perf_counter() - begun),
    }
    edge.send(images, numbers, frames)
    found["after all"] = {
        "mib_over_start": round((receiver.process.memory_info().rss - start) / 2**20, 1),
        "log_bytes": receiver.log.stat().st_size,
    }
    print(found["malformed messages in all"], found["after all"], flush=True)
    edge.link.disconnect()
    receiver.close()
    return found


class _Peak:
    """The largest resident size of a process until it is stopped."""

    def __init__(self, process: psutil.Process) -> None:
        self._most = 0
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(timeout=0.01):
            self._most = max(self._most, self._process.memory_info().rss)

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._most


def main() -> None:
    if sys.argv[1:2] == ["attack"]:
        kind, port, token, count = sys.argv[2:]
        return attack_here(kind, int(port), token, int(count))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["transport", "hostile"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement beside an attack")
    args = parser.parse_args()
    found = transport(args.rounds) if args.part == "transport" else hostile(args.messages, args.rounds, args.seconds)
    keep_result(RESULTS / f"link-{args.part}.json", found)


if __name__ == "__main__":
    main()
