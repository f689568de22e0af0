"""What attackers can do to the link: the rate of a valid edge, and the receiver's memory, alone and beside them.

    python benchmarks/hostile.py attacks                    # seven kinds, a minute
    python benchmarks/hostile.py flood --messages 100000    # malformed ones, from 64 000 addresses; 17 minutes

The receiver and the attackers are processes of their own on this machine. Attackers are stopped now and then, so that
rounds alone and beside them alternate, and the medians are compared. They are niced, since they share the processors
with the edge that they attack, and send prepared bytes from one thread (attacker.py).
Results: benchmarks/results/link-hostile.json, link-flood.json.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import os
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
from attacker import Call, Plan, attack, message
from common import HERE, keep_result
from link import OURS, Edge, Receiver, header_of

from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import header_to_json
from smartedge.wire.grpc_link import METHOD, GrpcLink
from smartedge.wire.link_pb2 import Frame as Part
from smartedge.wire.link_pb2 import Up

RESULTS = HERE / "results"
# name: kind of attack, token, how many things it holds. Each has edges of its own: the next stream of an edge that was
# refused often is not read before it has waited.
ATTACKED = {
    "junk headers, no token": ("junk headers", "stranger", 0),
    "junk headers": ("junk headers", "edge-x", 0),
    "malformed messages": ("malformed", "edge-m", 0),
    "2 000 idle connections": ("idle", "", 2000),
    "a stalled stream": ("stalled", "edge-s", 1),
    "bombs": ("bombs", "edge-b", 0),
    "endless parts": ("endless parts", "edge-p", 0),
}
# Tokens without TLS are for a proxy, which brings many senders on one connection. Here they come by themselves.
DIRECT = OURS.replace(
    "    receiver.start()",
    """
    connections = receiver._connections  # noqa: SLF001 - nobody else needs tokens without TLS and without a proxy
    assert connections.shared
    connections.shared = False
    receiver.start()""",
)
HELD = ("idle", "stalled")  # these attack by what they hold, also while they are stopped
CONNECTIONS = 480  # of the flood, at the same time
CALLS = 5  # of one address of the flood: it would be answered late from then on
PATIENCE_S = 5.0  # a sender of the flood that has no answer then hangs up, and calls again from another address
ADDRESSES = [f"127.1.{high}.{low}" for high in range(1, 255) for low in range(1, 255)]  # Linux has all of 127.0.0.0/8
LONGEST_S = 1500.0  # of the flood


# -- the attacker's process


def messages_of(kind: str) -> bytes:
    """What one call of an attack sends."""
    header = message(Up(header=header_to_json(header_of(5, 10, 256))).SerializeToString())
    if kind == "junk headers":
        return message(Up(header=b'{"\x1b[31m": 1}').SerializeToString())
    if kind == "malformed":
        return header + message(os.urandom(200))
    if kind == "bombs":  # 200 MB of zeros
        return message(gzip.compress(bytes(200_000_000)), compressed=True)
    assert kind == "endless parts"
    return header + 100 * message(Up(frame=Part(head=b"h", payload=bytes(2**20), more=True)).SerializeToString())


def attack_here(kind: str, port: int, token: str, source: str, count: int, connections: int) -> None:
    """Call without end over so many connections, or hold ``count`` things. A byte is printed after each.

    Args:
        source: where all come from; "many": each connection makes a few calls, and the next one has another address. It
            does not wait long for an answer.
    """
    os.nice(19)
    if kind in HELD:
        os.write(1, b"attacking\n")
        held = []
        for _ in range(count):
            held.append(hold(kind, port, token))
            os.write(1, b".")
        sys.stdin.read()
        return held.clear()
    encoding = {"grpc-encoding": "gzip"} if kind == "bombs" else {}
    same = messages_of(kind)
    calls = [
        Call(METHOD, {"authorization": f"Bearer {token}{number}", **encoding}, same) for number in range(connections)
    ]
    plan = Plan(itertools.cycle(ADDRESSES), CALLS, PATIENCE_S) if source == "many" else Plan(itertools.repeat(source))
    os.write(1, b"attacking\n")
    attack(("127.0.0.1", port), calls, plan, lambda: os.write(1, b"."), lambda: True)


def hold(kind: str, port: int, token: str) -> Any:
    """Something that attacks by being there."""
    if kind == "idle":
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port))
        return None
    link = GrpcLink(f"127.0.0.1:{port}", Credentials(token=token))
    link.open(header_of(5, 10, 256))
    return link


# -- what they attack


class Attackers:
    """A process that attacks a receiver until the block ends."""

    def __init__(
        self, kind: str, receiver: Receiver, token: str, source: str, *, count: int = 0, connections: int = 4
    ) -> None:
        numbers = map(str, (receiver.port, token, source, count, connections))
        command = [sys.executable, __file__, "attack", kind, *numbers]
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
        self.receiver = Receiver(DIRECT)
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
    for number, (name, (kind, token, count)) in enumerate(ATTACKED.items()):
        alone = [valid.rate()]
        beside: list[float] = []
        memory: dict[str, Any] = {}
        source = f"127.2.0.{number + 1}"  # not one that is refused late, for what came before
        with Attackers(kind, valid.receiver, token, source, count=count) as attack, valid.measured(memory):
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
        if not attack.made:
            sys.exit(f"{name}: no attack has ended, so nothing was measured")
        found[name] = {**rates(alone, beside, attack), **memory}
        print(name, found[name], flush=True)
    found["after all"] = valid.end()
    return found


def flood(messages: int, rounds: int, seconds: float) -> dict[str, Any]:
    """So many malformed messages. Rounds alone and beside them alternate, once each edge was refused a few times."""
    valid, begun = Valid(seconds), time.monotonic()
    alone: list[float] = []
    beside: list[float] = []
    found: dict[str, Any] = {}
    attackers = Attackers("malformed", valid.receiver, "edge-y", "many", connections=CONNECTIONS)
    with attackers as attack, valid.measured(found):
        attack.wait_for(2 * CALLS * CONNECTIONS, 120)
        for _ in range(rounds):
            beside.append(valid.rate())
            with attack.stopped():
                alone.append(valid.rate())
        attack.wait_for(messages, LONGEST_S - (time.monotonic() - begun))
        attack.look()
        found |= {**rates(alone, beside, attack), "seconds": round(time.monotonic() - begun)}
    facts = {"connections": CONNECTIONS, "calls_of_an_address": CALLS, "patience_s": PATIENCE_S}
    return {**found, **facts, "after it": valid.end()}


def main() -> None:
    if sys.argv[1:2] == ["attack"]:
        kind, port, token, source, count, connections = sys.argv[2:]
        return attack_here(kind, int(port), token, source, int(count), int(connections))
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
