"""Durable ingest over a broker beside plain TCP with fsync and an answer for each message; and what kills cost.

    python benchmarks/broker.py rate              # frames a second over 1 and 4 streams, to 1 and 2 ingest processes
    python benchmarks/broker.py kills --trials 5  # kill -9 of broker, ingest and edge, at random (seeded)

Four edges send side by side in each contender. Broker, ingest and the TCP server are processes of their own on this
machine, and all write to one disk. Rounds of all contenders alternate. A round over the broker ends when every frame is
durable in the store. Results: benchmarks/results/broker-rate.json, broker-kills.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import HERE, keep_result
from link import header_of

from smartedge.cloud.ingest.group import IngestGroup
from smartedge.cloud.store.feature_log import FeatureLog, FeatureReader, StoreHandler
from smartedge.errors import LinkError
from smartedge.framelog.mark import read_mark
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import Message, ReceivedFrame, serialise
from smartedge.wire.jetstream.intake import Stored
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.jetstream.receiver import JetStreamReceiver, Taking, Timing
from smartedge.wire.jetstream.sender import JetStreamLink

# Images in a frame, float32 numbers of each, frames of each edge. With fewer frames most of a round would be the time
# until ingest sees that there are edges.
SIZES = {"1 MB": (64, 4096, 100), "64 KiB": (16, 1024, 1000)}
EDGES = ["edge1", "edge2", "edge3", "edge4"]
STREAM = "frames"
WAYS = {  # streams and ingest processes; with four streams, the hash puts one of the four edges into each
    f"{n_streams} stream{'s' * (n_streams > 1)}, {count} ingest": (n_streams, count)
    for n_streams in (1, 4)
    for count in (1, 2)
}
SETTINGS = (
    'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\njetstream {{ store_dir: "{folder}/store", sync_interval: always }}\n'
)


def message(seq: int, header: StreamHeader) -> Message:
    payload = np.random.default_rng(seq).bytes(4 * header.batch_size * header.feature_shape[0])
    ids = np.arange(header.batch_size)
    return serialise(Frame(seq, EncodedBatch(ids, np.zeros(len(ids), np.int64), payload, b"")), header)


class Stores:
    """A handler that appends each edge's frames to a log of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: dict[str, StoreHandler] = {}

    def of(self, edge: str) -> StoreHandler:
        if edge not in self._stores:
            self._stores[edge] = StoreHandler(FeatureLog(self._folder / edge, edge))
        return self._stores[edge]

    def release(self, edge: str) -> None:
        if edge in self._stores:
            self._stores.pop(edge).log.close()

    def accept(self, edge: str, header: StreamHeader) -> int:
        return self.of(edge).accept(edge, header)

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> None:
        self.of(edge).ingest(edge, header, frame)

    def sync(self, edge: str, header: StreamHeader) -> int:
        return self.of(edge).sync(edge, header)

    def finish(self, edge: str, header: StreamHeader) -> None:
        self.of(edge).finish(edge, header)

    def abort(self, edge: str, header: StreamHeader) -> None:
        pass


def ingest_here(port: int, folder: Path, n_streams: int) -> None:
    """The process of ingest, until its input ends."""
    stores, group = Stores(folder), IngestGroup(folder)

    class Shared(Taking):
        def mine(self, edges: Collection[str]) -> Collection[str]:
            return group.share(edges)

        def stored(self, edge: str) -> Stored:
            log = stores.of(edge).log
            begun = [header for header in log.streams if header.first_seq < log.durable]
            return Stored(log.durable, begun[-1] if begun else None)

        def release(self, edge: str) -> None:
            stores.release(edge)
            group.release(edge)

    address = Address("127.0.0.1", port, STREAM, n_streams)
    timing = Timing(look_s=0.2, again_s=0.5, longest_retry_s=0.5)
    receiver = JetStreamReceiver(stores, address, Shared(), timing=timing)
    receiver.start()
    receiver.ready.wait()
    print("ready", flush=True)
    sys.stdin.read()
    receiver.close()


def publish_here(port: int, n_streams: int, edge: str, images: int, numbers: int, frames: int) -> None:
    """The process of an edge that forgets what was confirmed when it is killed: it sends everything again."""
    link = JetStreamLink(Address("127.0.0.1", port, STREAM, n_streams), edge)
    header = header_of(frames, images, numbers)
    while True:
        try:
            for seq in range(link.open(header), header.end_seq):
                link.write(message(seq, header))
            return link.close()
        except LinkError:
            time.sleep(0.2)


class Server:
    """nats-server, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, -1
        self.start()

    def start(self) -> None:
        file = self._folder / "nats.conf"
        file.write_text(SETTINGS.format(port=self.port, folder=self._folder))
        program = shutil.which("nats-server", path=str(Path(sys.executable).absolute().parent)) or "nats-server"
        self.process = subprocess.Popen([program, "-c", str(file)], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Listening for client connections on" in line:
                self.port = int(line.rsplit(":", 1)[1])
            if "Server is ready" in line:
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def ingesting(port: int, folder: Path, count: int, n_streams: int) -> Iterator[list[int]]:
    """So many processes; gives their numbers."""
    processes = [child("ingest", port, folder, n_streams) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield [process.pid for process in processes]
    for process in processes:
        process.communicate()


def durable(folder: Path, edge: str) -> int:
    mark = read_mark(folder / edge) if (folder / edge / "mark").exists() else None
    return 0 if mark is None else mark.frames


# -- the rate


def serve_tcp(folder: Path) -> None:
    """The floor: a thread for each connection writes what comes to a file, syncs it, and answers."""

    def serve(connection: socket.socket, number: int) -> None:
        stream = connection.makefile("rb", buffering=1 << 16)
        with (folder / f"{number}").open("wb") as file:
            while len(length := stream.read(4)) == 4:
                file.write(stream.read(struct.unpack("<I", length)[0]))
                file.flush()
                os.fsync(file.fileno())
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        for number in range(10**6):
            threading.Thread(target=serve, args=(server.accept()[0], number), daemon=True).start()


def over_tcp(port: int, messages: list[Message]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for each in messages:
            data = b"".join(each)
            connection.sendall(struct.pack("<I", len(data)) + data)
            assert connection.recv(1) == b"x"


def over_broker(link: JetStreamLink, header: StreamHeader, messages: list[Message]) -> None:
    link.open(header)
    for each in messages:
        link.write(each)
    link.close()


def side_by_side(work: list[threading.Thread]) -> None:
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()


def tcp_rate(messages: list[Message]) -> float:
    """Frames a second of four edges over plain TCP, with fsync and an answer for each."""
    with tempfile.TemporaryDirectory() as name:
        tcp = child("tcp", name)
        assert tcp.stdout is not None
        port, begun = int(tcp.stdout.readline()), time.perf_counter()
        side_by_side([threading.Thread(target=over_tcp, args=(port, messages)) for _ in EDGES])
        found = len(EDGES) * len(messages) / (time.perf_counter() - begun)
        tcp.kill()
        tcp.communicate()
    return found


def rate(rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for size, (images, numbers, frames) in SIZES.items():
        rates: dict[str, list[float]] = {}
        cpu: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds):
            messages = [message(seq, header_of(frames, images, numbers)) for seq in range(frames)]
            rates.setdefault("tcp", []).append(tcp_rate(messages))
            for way, (n_streams, count) in list(WAYS.items())[:: 1 if number % 2 else -1]:
                *one, used = one_round(n_streams, count, images, numbers, messages)
                for what, value in zip(("broker", "store"), one, strict=True):
                    rates.setdefault(f"{what}, {way}", []).append(value)
                for side, value in used.items():
                    cpu.setdefault(way, {}).setdefault(side, []).append(value)
        floor = rates["tcp"]
        found[size] = {
            what: {
                "frames_per_second": round(statistics.median(values), 1),
                "over_tcp": round(statistics.median(a / b for a, b in zip(values, floor, strict=True)), 2),
                "rounds": [round(a / b, 2) for a, b in zip(values, floor, strict=True)],
            }
            for what, values in sorted(rates.items())
        }
        found[size]["cpu_ms_per_frame"] = {
            way: {side: round(statistics.median(values), 2) for side, values in sides.items()}
            for way, sides in sorted(cpu.items())
        }
        print(size, found[size], flush=True)
    return found


def cpu_of(processes: list[int]) -> float:
    """Seconds of processor time that processes have used."""
    return sum(sum(psutil.Process(each).cpu_times()[:2]) for each in processes)


def one_round(
    n_streams: int, count: int, images: int, numbers: int, messages: list[Message]
) -> tuple[float, float, dict[str, float]]:
    """Frames a second until the broker has confirmed all, and until all are durable in the store.

    And milliseconds of processor time for each frame, by process; the edges are threads of this one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, header = Path(name), header_of(len(messages), images, numbers)
        server = Server(folder)
        address = Address("127.0.0.1", server.port, STREAM, n_streams)
        links = [JetStreamLink(address, edge) for edge in EDGES]
        with ingesting(server.port, folder / "logs", count, n_streams) as ingests:
            sides = {"edge": [os.getpid()], "broker": [server.process.pid], "ingest": ingests}
            before = {side: cpu_of(processes) for side, processes in sides.items()}
            begun = time.perf_counter()
            side_by_side([threading.Thread(target=over_broker, args=(link, header, messages)) for link in links])
            confirmed = time.perf_counter() - begun
            while any(durable(folder / "logs", edge) < header.end_seq for edge in EDGES):
                time.sleep(0.005)
            stored = time.perf_counter() - begun
            total = len(EDGES) * len(messages)
            used = {side: 1000 * (cpu_of(processes) - before[side]) / total for side, processes in sides.items()}
        for link in links:
            link.disconnect()
        server.kill()
        return total / confirmed, total / stored, used


# -- kills


def kills(trials: int) -> dict[str, Any]:
    found = []
    for seed in range(trials):
        found.append(one_trial(random.Random(seed), n_streams=1 + seed % 2))
        print(seed, found[-1], flush=True)
    return {"trials": found, "exactly_once": sum(each["exactly_once"] for each in found)}


def one_trial(rng: random.Random, n_streams: int) -> dict[str, Any]:
    """Two ingest processes and two edges; six kills of what the seed says, until all is stored."""
    images, numbers, frames = 16, 1024, 150
    with tempfile.TemporaryDirectory() as name:
        folder, edges = Path(name), EDGES[:2]
        server, logs = Server(folder), folder / "logs"
        arguments = {edge: ("publish", server.port, n_streams, edge, images, numbers, frames) for edge in edges}
        running = {edge: child(*arguments[edge]) for edge in edges}
        running |= {f"ingest{number}": child("ingest", server.port, logs, n_streams) for number in (1, 2)}
        killed = []
        for _ in range(6):
            time.sleep(rng.uniform(0.2, 1.5))
            victim = rng.choice(["server", *running])
            killed.append(victim)
            if victim == "server":
                server.kill()
                server.start()
            else:
                running[victim].kill()
                running[victim].communicate()
                again = arguments.get(victim, ("ingest", server.port, logs, n_streams))
                running[victim] = child(*again)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and any(durable(logs, edge) < frames for edge in edges):
            time.sleep(0.05)
        for process in running.values():
            process.kill()
            process.communicate()
        server.kill()
        header = header_of(frames, images, numbers)
        return {
            "streams": n_streams,
            "killed": killed,
            "exactly_once": all(_whole(logs / edge, edge, header) for edge in edges),
        }


def _whole(folder: Path, edge: str, header: StreamHeader) -> bool:
    """Every frame is there once, in order, with the bytes that were sent."""
    log = FeatureReader(folder, edge)
    if (log.first_seq, log.next_seq) != (0, header.end_seq):
        return False
    return all(
        bytes(log.frame(seq).batch.payload) == bytes(message(seq, header).payload) for seq in range(log.next_seq)
    )


def main() -> None:
    if sys.argv[1:2] == ["ingest"]:
        return ingest_here(int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1:2] == ["tcp"]:
        return serve_tcp(Path(sys.argv[2]))
    if sys.argv[1:2] == ["publish"]:
        port, n_streams, edge, *sizes = sys.argv[2:]
        return publish_here(int(port), int(n_streams), edge, *map(int, sizes))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["rate", "kills"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--trials", type=int, default=5)
    args = parser.parse_args()
    found = rate(args.rounds) if args.part == "rate" else kills(args.trials)
    keep_result(HERE / "results" / f"broker-{args.part}.json", found)


if __name__ == "__main__":
    main()
