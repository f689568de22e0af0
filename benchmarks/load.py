"""Load generator: many light edges against one real ``smartedge cloud``, and what each of them costs it.

    python benchmarks/load.py --edges 50                  # results/load/50-edges.json
    python benchmarks/load.py --edges 1000                # six minutes, and 90 s of processor time

A light edge has a certificate and a connection of its own and speaks the wire protocol, but it has no front: its frames
are prepared. Each frame has 64 images of 1024 numbers in uint8, which is what the default settings send of images with
64 pixels. The edges are tasks of a few processes (``--senders``), with gRPC for asyncio. The cloud takes frames in and
trains nothing (``cloud.workers: 0``); it begins with the usual limit of 1024 open files.

A run has four phases. *connect*: every edge opens its stream. *idle*: they are connected and send nothing. *first*: one
frame of each edge, for which the cloud makes the edge's log. *steady*: further frames. The frames of an edge are a
period apart, and its first one comes at a random moment of the first period. Of each phase the cloud's processor time
is kept, and at its end the cloud's memory, open files and threads, what the store takes on the disk, and the bytes from
edges as the kernel counted them. ``benchmarks/scale.py`` reads these results.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import numpy as np
import psutil

from smartedge.codec import get_codec, pack
from smartedge.config import Config, load_config
from smartedge.fleet.bundle import open_bundle
from smartedge.fleet.credentials import credentials_of
from smartedge.privacy.release import release
from smartedge.types import EncodedBatch, Frame, StreamHeader, Task
from smartedge.wire.credentials import Credentials
from smartedge.wire.frame import header_to_json, serialise
from smartedge.wire.grpc_link import METHOD
from smartedge.wire.link_pb2 import Down, Up
from smartedge.wire.parts import split

RESULTS = Path(__file__).resolve().parent / "results" / "load"
SHAPE = (16, 8, 8)  # of what the default settings send of an image with 64 pixels
USUAL_FILES = 1024  # open files that a process may have where nobody has raised the limit
FRAMES = 10**6  # of a stream: more than is ever sent, so that it stays open
WAIT_S = 900.0


def settings(run_dir: Path) -> Config:
    return load_config(
        {
            "run_dir": str(run_dir),
            "schedule": "freeze-and-log",
            "fleet": {"expect": None},
            "cloud": {"workers": 0},
            "hardware": {"cloud_device": "cpu", "threads": 1},
        }
    )


# -- the edges


class LightEdge:
    """One edge: a connection, a stream, and frames at fixed times."""

    def __init__(self, name: str, credentials: Credentials, address: str, config: Config, batch: EncodedBatch) -> None:
        self.credentials, self.address, self.batch = credentials, address, batch
        self.header = StreamHeader.of(
            run=name,
            agreement=config.agreement(),
            task=Task("single", ("smile",), ("no", "yes")),
            codec=config.codec_name,
            feature_shape=SHAPE,
            batch_size=config.train.batch_size,
            epoch=config.front_epochs,
            split="train",
            frames=FRAMES,
            first_seq=0,
            train_steps=FRAMES,
        )
        self.seq = self.confirmed = self.broken = 0
        self.changed = asyncio.Event()
        self.error = ""
        self.waits: list[float] = []  # seconds from a frame to its confirmation
        self.written: dict[int, float] = {}

    async def open(self) -> None:
        """Open the stream, and try until it is accepted."""
        pause = 0.5
        while True:
            pair = (self.credentials.ca, self.credentials.key, self.credentials.certificate)
            options = [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.ssl_target_name_override", self.credentials.server_name),
                ("grpc.enable_http_proxy", 0),
            ]
            self.channel = grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(*pair), options)
            self.call = self.channel.stream_stream(METHOD)()
            try:
                await self.call.write(Up(header=header_to_json(self.header)).SerializeToString())
                self.confirmed = Down.FromString(await self.call.read()).confirmed
                self.reading = asyncio.create_task(self.read())
                return
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TypeError) as error:
                self.error = str(error)[:300]
                self.broken += 1
                await self.channel.close()
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, 5.0)

    async def read(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (reply := await self.call.read()) is not grpc.aio.EOF:
                self.confirmed = Down.FromString(reply).confirmed
                for seq in [seq for seq in self.written if seq < self.confirmed]:
                    self.waits.append(time.monotonic() - self.written.pop(seq))
                self.changed.set()
        self.changed.set()

    async def send(self, frames: int, period: float, offset: float) -> None:
        """Send frames at their times, and wait until they are confirmed. What breaks is opened and sent again."""
        begun = time.monotonic()
        for number in range(frames):
            await asyncio.sleep(max(0.0, begun + (number + offset) * period - time.monotonic()))
            await self.write(self.seq)
            self.seq += 1
        while self.confirmed < self.seq:
            self.changed.clear()
            if self.reading.done():
                await self.open_again()
            else:
                await self.changed.wait()

    async def write(self, seq: int) -> None:
        self.written.setdefault(seq, time.monotonic())
        try:
            for part in split(serialise(Frame(seq, self.batch), self.header)):
                await self.call.write(part)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.open_again()

    async def open_again(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            self.error = str(await self.call.details())[:300]
        self.broken += 1
        self.reading.cancel()
        await self.channel.close()
        await self.open()
        for seq in range(self.confirmed, self.seq):
            await self.write(seq)


async def be_edges(first: int, count: int, seed: int, fleet: Path, address: str) -> None:
    """A sender's process: does what the lines of its standard input say, and answers each with a line."""
    config = settings(Path("run"))
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    images = config.train.batch_size
    features = np.tanh(numbers.standard_normal((images, *SHAPE), np.float32))
    released = release(np.arange(images), features, numbers.integers(0, 2, images))
    batch = pack(released, get_codec(config.codec_name))
    names = [name_of(number) for number in range(first, first + count)]
    edges = []
    for name in names:
        bundle = open_bundle(fleet / "bundles" / f"{name}.bundle")
        edges.append(LightEdge(name, credentials_of(bundle), address, config, batch))
    offsets = [rng.random() for _ in edges]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        if asked["do"] == "open":

            async def open_later(edge: LightEdge, seconds: float) -> None:
                await asyncio.sleep(seconds)
                await edge.open()

            await asyncio.gather(
                *(open_later(edge, at * asked["seconds"]) for edge, at in zip(edges, offsets, strict=True))
            )
        else:
            for edge in edges:
                edge.waits.clear()
            await asyncio.gather(
                *(edge.send(asked["frames"], asked["period"], at) for edge, at in zip(edges, offsets, strict=True))
            )
        head, payload = serialise(Frame(edges[0].seq, batch), edges[0].header)
        answer = {
            "broken": sum(edge.broken for edge in edges),
            "errors": sorted({edge.error for edge in edges} - {""})[:5],
            "waits": [wait for edge in edges for wait in edge.waits],
            "frame_bytes": len(head) + len(payload),
        }
        print(json.dumps(answer), flush=True)


class Senders:
    """The processes of the edges. All of them have one address, as behind one NAT."""

    def __init__(self, processes: int, edges: int, fleet: Path, port: int) -> None:
        bounds = [edges * number // processes for number in range(processes + 1)]
        self._processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", __file__, "--be"),
                    *(str(first), str(end - first), str(fleet), f"127.0.0.1:{port}"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, (first, end) in enumerate(itertools.pairwise(bounds))
        ]

    def do(self, **what: Any) -> list[dict[str, Any]]:
        """Let all of them do something; their answers."""
        for process in self._processes:
            writing = process.stdin
            assert writing is not None
            writing.write(json.dumps(what) + "\n")
            writing.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "a sender has ended"
            answers.append(json.loads(line))
        return answers

    def cpu(self) -> float:
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return float(sum(each.user + each.system for each in times))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


# -- the cloud


class Cloud:
    """``smartedge cloud`` in a process of its own."""

    def __init__(self, folder: Path, fleet: Path) -> None:
        self.folder = folder
        config = settings(folder / "run")
        (folder / "cloud.yaml").write_text(config.to_yaml())
        self._log = (folder / "cloud.log").open("w")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "smartedge", "cloud", str(folder / "cloud.yaml")),
                *("--listen", "127.0.0.1:0", "--fleet", str(fleet)),
                *("--metrics", "127.0.0.1:0", "--progress", "json"),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_NOFILE, (USUAL_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            ),
        )
        self.process = psutil.Process(self._process.pid)
        self.port = int(self._said("listen")["port"])
        self.metrics = str(self._said("metrics")["text"]).rpartition(" ")[2]

    def _said(self, phase: str) -> dict[str, Any]:
        """The line of its progress of that phase, when it has come."""
        begun = time.monotonic()
        while time.monotonic() - begun < WAIT_S:
            for line in (self.folder / "cloud.log").read_text().splitlines():
                if line.startswith("{") and (said := json.loads(line))["phase"] == phase:
                    return dict(said)
            assert self._process.poll() is None, (self.folder / "cloud.log").read_text()[-2000:]
            time.sleep(0.2)
        raise TimeoutError((self.folder / "cloud.log").read_text()[-2000:])

    def cpu(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def size(self) -> dict[str, float]:
        files = [path for path in (self.folder / "run").rglob("*") if path.is_file()]
        sizes = [path.stat() for path in files]
        metrics = urllib.request.urlopen(self.metrics, timeout=60).read().decode()
        return {
            "rss_bytes": self.process.memory_info().rss,
            "descriptors": self.process.num_fds(),
            "threads": self.process.num_threads(),
            "store_files": len(files),
            "store_bytes": sum(each.st_size for each in sizes),
            "store_disk_bytes": sum(512 * each.st_blocks for each in sizes),
            **{name: _sum(metrics, f"smartedge_cloud_{name}") for name in ("received_bytes", "sent_bytes", "frames")},
        }

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def _sum(metrics: str, name: str) -> float:
    """The sum of a counter over all edges."""
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{name}_total{{"))


def name_of(number: int) -> str:
    return f"edge-{number:04d}"


def make_fleet(fleet: Path, edges: int) -> None:
    """Make a fleet with so many edges, where it is not there yet."""
    if (fleet / "bundles" / f"{name_of(edges - 1)}.bundle").exists():
        return
    shutil.rmtree(fleet, ignore_errors=True)
    program = [sys.executable, "-m", "smartedge", "fleet"]
    names = [name_of(number) for number in range(edges)]
    subprocess.run([*program, "init", fleet], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*program, "add", fleet, *names, "--cloud", "127.0.0.1:1"], check=True, stdout=subprocess.DEVNULL)


def run(args: argparse.Namespace) -> dict[str, Any]:
    folder = args.work.resolve() / f"{args.edges}-edges"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fleet = folder.with_name(f"fleet-{args.edges}")
    make_fleet(fleet, args.edges)
    cloud = Cloud(folder, fleet)
    senders = Senders(args.senders, args.edges, fleet, cloud.port)
    phases: dict[str, Any] = {}
    try:
        start = cloud.size()
        asked: dict[str, dict[str, Any]] = {
            "connect": {"do": "open", "seconds": args.connect},
            "idle": {},
            "first": {"do": "send", "frames": 1, "period": args.period},
            "steady": {"do": "send", "frames": args.frames, "period": args.period},
        }
        for name, what in asked.items():
            begun, cpu, theirs = time.monotonic(), cloud.cpu(), senders.cpu()
            answers = []
            if what:
                answers = senders.do(**what)
            else:
                time.sleep(args.idle)
            phases[name] = {
                "seconds": round(time.monotonic() - begun, 2),
                "cpu_seconds": round(cloud.cpu() - cpu, 2),
                "senders_cpu_seconds": round(senders.cpu() - theirs, 2),
                **cloud.size(),
            }
            waits = sorted(wait for answer in answers for wait in answer["waits"])
            if waits:
                phases[name]["confirmed_after_s"] = {
                    "median": round(waits[len(waits) // 2], 3),
                    "99 %": round(waits[len(waits) * 99 // 100], 3),
                }
            if answers:
                phases[name]["broken"] = sum(answer["broken"] for answer in answers)
                phases[name]["errors"] = sorted({error for answer in answers for error in answer["errors"]})
            print(name, phases[name], flush=True)
        frames = args.edges * (1 + args.frames)
        assert phases["steady"]["frames"] == frames, f"{phases['steady']['frames']} of {frames} frames are in the store"
        return {
            "edges": args.edges,
            "images_per_frame": settings(folder / "run").train.batch_size,
            "frame_bytes": answers[0]["frame_bytes"],
            "frames_of_an_edge": 1 + args.frames,
            "period_s": args.period,
            "load_average": round(os.getloadavg()[0], 1),
            "start": start,
            "phases": phases,
        }
    finally:
        senders.close()
        cloud.close()
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--be"]:
        first, count, fleet, address = arguments[1:]
        asyncio.run(be_edges(int(first), int(count), int(first), Path(fleet), address))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, required=True)
    parser.add_argument("--frames", type=int, default=2, help="of each edge in the last phase")
    parser.add_argument("--period", type=float, default=64.0, help="seconds between two frames of an edge")
    parser.add_argument("--connect", type=float, default=30.0, help="seconds over which the edges connect")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds without frames")
    parser.add_argument("--senders", type=int, default=2, help="processes of the edges")
    parser.add_argument("--work", type=Path, default=Path("runs/load"), help="folder for the runs")
    args = parser.parse_args(arguments)
    from common import keep_result  # it imports torch, which the senders' processes do not need

    found = run(args)
    keep_result(RESULTS / f"{args.edges}-edges.json", found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
