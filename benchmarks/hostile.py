"""What attackers can do to the link: the rate of a valid edge, and the receiver's memory, alone and beside them.

    python benchmarks/hostile.py attacks                    # seven kinds, a minute
    python benchmarks/hostile.py flood --messages 100000    # malformed ones, from 480 connections; ten minutes

The receiver and the attackers are processes of their own on this machine. Attackers are stopped now and then, so that
rounds alone and beside them alternate, and the medians are compared. They are niced, since they share the processors
with the edge that they attack.
Results: benchmarks/results/link-hostile.json, link-flood.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
from common import HERE, keep_result
from link import OURS, Edge, Receiver, header_of

from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import header_to_json
from smartedge.wire.grpc_link import METHOD, GrpcLink
from smartedge.wire.link_pb2 import Frame as Part
from smartedge.wire.link_pb2 import Up

RESULTS = HERE / "results"
FOR_EVER = 10**6
# name: kind of attack, token, what it does on each connection
ATTACKED = {
    "junk headers, no token": ("junk headers", "stranger", FOR_EVER),
    "junk headers": ("junk headers", "edge-x", FOR_EVER),
    "malformed messages": ("malformed", "edge-x", FOR_EVER),
    "2 000 idle connections": ("idle", "", 2000),
    "a stalled stream": ("stalled", "edge-s", 1),
    "bombs": ("bombs", "edge-x", FOR_EVER),
    "endless parts": ("endless parts", "edge-x", FOR_EVER),
}
HELD = ("idle", "stalled")  # these attack by what they hold, also while they are stopped
CONNECTIONS = 480  # of the flood: each is refused a second late after its first few calls
LONGEST_S = 900.0  # of the flood


# -- the attacker's process


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


def attack_here(kind: str, port: int, token: str, count: int, connections: int) -> None:
    """``count`` calls over each connection, or as many things to hold. A byte is printed after each."""
    os.nice(19)
    held: list[Any] = []

    def hold() -> None:
        if kind == "stalled":
            held.append(GrpcLink(f"127.0.0.1:{port}", Credentials(token=token)))
            held[-1].open(header_of(5, 10, 256))
            return
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", port)))

    calls = [hold] if kind in HELD else [ATTACKS[kind](port, f"{token}{number}") for number in range(connections)]

    def run(call: Callable[[], None]) -> None:
        for _ in range(count):
            call()
            os.write(1, b".")

    os.write(1, b"attacking\n")
    for call in calls:
        threading.Thread(target=run, args=(call,), daemon=True).start()
    sys.stdin.read()


# -- what they attack


class Attackers:
    """A process that attacks a receiver until the block ends."""

    def __init__(self, kind: str, receiver: Receiver, token: str, count: int, connections: int = 4) -> None:
        command = [sys.executable, __file__, "attack", kind, str(receiver.port), token, str(count), str(connections)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)
        assert self._process.stdout is not None
        self._out = self._process.stdout
        assert self._out.readline() == b"attacking\n"
        self._said = psutil.Process(self._process.pid)
        self.made = 0  # calls that have ended, or what it holds

    def __enter__(self) -> Attackers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self._said.suspend()
        yield
        self._said.resume()

    def look(self) -> None:
        """Count the calls that have ended."""
        while select.select([self._out], [], [], 0)[0] and (said := os.read(self._out.fileno(), 1 << 16)):
            self.made += len(said)

    def wait_for(self, made: int, seconds: float) -> None:
        """Wait until so many calls have ended, or the time is up."""
        deadline = time.monotonic() + seconds
        while self.made < made and time.monotonic() < deadline:
            select.select([self._out], [], [], 1.0)
            self.look()


class Valid:
    """A receiver and a valid edge."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.receiver = Receiver(OURS)
        self._edge = Edge(self.receiver)
        self._send()
        self._start = self._memory()

    def rate(self) -> float:
        """Frames a second."""
        begun, before = time.perf_counter(), self._edge.seq
        while time.perf_counter() - begun < self._seconds:
            self._send()
        return (self._edge.seq - before) / (time.perf_counter() - begun)

    @contextlib.contextmanager
    def measured(self, found: dict[str, Any]) -> Iterator[None]:
        """Note the largest memory of the receiver within the block."""
        most, over = 0, threading.Event()

        def look() -> None:
            nonlocal most
            while not over.wait(timeout=0.01):
                most = max(most, self._memory())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            over.set()
            looking.join()
        found["peak_mib_over_start"] = round((most - self._start) / 2**20, 1)

    def end(self) -> dict[str, Any]:
        """Send once more, and end; gives what is left of the attacks."""
        self._send()
        over = round((self._memory() - self._start) / 2**20, 1)
        found = {"mib_over_start": over, "log_bytes": self.receiver.log.stat().st_size}
        self._edge.link.disconnect()
        self.receiver.close()
        return found

    def _memory(self) -> int:
        return int(self.receiver.process.memory_info().rss)

    def _send(self) -> None:
        self._edge.send(64, 4096, 20)


def rates(alone: list[float], beside: list[float], attack: Attackers) -> dict[str, Any]:
    """What is kept of an attack."""
    one, other = statistics.median(alone), statistics.median(beside)
    return {
        "frames_per_second_alone": round(one),
        "beside": round(other),
        "share": round(other / one, 2),
        "attacks": attack.made,
    }


def attacks(rounds: int, seconds: float) -> dict[str, Any]:
    """Each kind of attack, one after the other."""
    valid = Valid(seconds)
    found: dict[str, Any] = {}
    for name, (kind, token, count) in ATTACKED.items():
        alone = [valid.rate()]
        beside: list[float] = []
        memory: dict[str, Any] = {}
        with Attackers(kind, valid.receiver, token, count) as attack, valid.measured(memory):
            if kind in HELD:
                attack.wait_for(count, 60)
            for _ in range(rounds):
                beside.append(valid.rate())
                if kind not in HELD:
                    with attack.stopped():
                        alone.append(valid.rate())
            attack.look()
        if kind in HELD:
            alone.append(valid.rate())
        found[name] = {**rates(alone, beside, attack), **memory}
        print(name, found[name], flush=True)
    found["after all"] = valid.end()
    return found


def flood(messages: int, rounds: int, seconds: float) -> dict[str, Any]:
    """So many malformed messages. At the beginning rounds alone and beside them alternate."""
    valid, begun = Valid(seconds), time.monotonic()
    alone: list[float] = []
    beside: list[float] = []
    found: dict[str, Any] = {}
    each = -(-messages // CONNECTIONS)
    with Attackers("malformed", valid.receiver, "edge-y", each, CONNECTIONS) as attack, valid.measured(found):
        attack.wait_for(2 * CONNECTIONS, 60)
        for _ in range(rounds):
            beside.append(valid.rate())
            with attack.stopped():
                alone.append(valid.rate())
        attack.wait_for(messages, LONGEST_S - (time.monotonic() - begun))
        attack.look()
        found |= {**rates(alone, beside, attack), "seconds": round(time.monotonic() - begun)}
    return {**found, "connections": CONNECTIONS, "after it": valid.end()}


def main() -> None:
    if sys.argv[1:2] == ["attack"]:
        kind, port, token, count, connections = sys.argv[2:]
        return attack_here(kind, int(port), token, int(count), int(connections))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["attacks", "flood"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=100_000, help="of the flood")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    args = parser.parse_args()
    if args.part == "attacks":
        found, file = attacks(args.rounds, args.seconds), "link-hostile.json"
    else:
        found, file = flood(args.messages, args.rounds, args.seconds), "link-flood.json"
    print(found)
    keep_result(RESULTS / file, found)


if __name__ == "__main__":
    main()
