"""Frames per second through a real socket into the store, from one process into another.

    python benchmarks/frame_path.py [--before FOLDER] [--rounds 5]

Messages of 1 MB and of 10 kB, each frame a message of its own, float32 features. The receiver's process decodes every
frame, as the cloud does before it accepts one, appends it to the log, and then decodes what a trainer would learn from:
the decoded batch itself where it is handed on, else what the log holds. ``--before`` names a checkout of an older
version, whose rounds are taken in turn with those of this one. Result: results/frame-path.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE, keep_result

FRAMES = {"1 MB": (64, 4096, 120), "10 kB": (10, 256, 1500)}  # images in a frame, float32 numbers of each, frames
RECEIVER = """
import sys, tempfile
from pathlib import Path
try:
    from smartedge.codec import unpack_frame
except ImportError:
    from smartedge.codec import unpack
    def unpack_frame(frame, header):
        return unpack(frame.batch, header)
try:
    from smartedge.wire.grpc_receiver import GrpcReceiver as Receiver
except ImportError:
    from smartedge.wire.flight_receiver import FlightReceiver as Receiver
try:
    from smartedge.cloud.store.feature_log import FeatureLog
    def take(log, header, frame):
        batch = unpack_frame(frame, header)
        if hasattr(log, "begin"):
            log.append(frame.seq, frame.head, frame.batch.payload)
        else:
            log.append(frame)
        return batch
except ImportError:
    from smartedge.cloud.log import FeatureLog
    def take(log, header, frame):
        unpack_frame(frame, header)
        log.append(frame, header)
        return unpack_frame(log.frame(frame.seq), header)
class Handler:
    # A checkout from before the edge's name was an argument passes one argument less.
    def accept(self, *given, **kind):
        getattr(log, "begin", log.add_stream)(given[-1])
        return given[-1].first_seq
    def ingest(self, *given):
        take(log, *given[-2:])
    def sync(self, *given):
        log.sync()
        return log.next_seq
    def finish(self, *given):
        log.sync()
    def abort(self, *given): ...
import torch
torch.set_num_threads(1)
with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    log = FeatureLog(Path(folder))
    receiver = Receiver(Handler(), "127.0.0.1")
    receiver.start()
    print(receiver.port, flush=True)
    sys.stdin.read()
    receiver.close()
    log.close()
"""
SENDER = """
import sys, time
import numpy as np
from smartedge.types import EncodedBatch, Frame, StreamHeader
try:
    from smartedge.wire.grpc_link import GrpcLink as Link
except ImportError:
    from smartedge.wire.flight import FlightLink as Link
port, batch, numbers, frames = map(int, sys.argv[1:])
facts = dict(run="benchmark", codec="float32", feature_shape=(numbers,), batch_size=batch, split="train", frames=frames)
if hasattr(StreamHeader, "of"):
    from smartedge.types import Task
    header = StreamHeader.of(**facts, agreement={}, task=Task("single", ("label",), ("no", "yes")))
    frame = Frame
else:
    from smartedge.wire.frame import PROTOCOL
    header = StreamHeader(
        **facts, protocol=PROTOCOL, agreement="{}", method="hierarchical", schedule="joint", feature_dtype="float32",
        task_kind="single", outputs=2, epoch=0, first_seq=0, train_steps=frames,
    )
    def frame(seq, encoded):
        return Frame(seq, 0, "train", seq + 1 == frames, encoded)
payload = np.random.default_rng(0).standard_normal((batch, numbers), np.float32).tobytes()
encoded = EncodedBatch(np.arange(batch), np.zeros(batch, np.int64), payload, b"")
def to_send(frame):
    return frame
if "message" in Link.write.__code__.co_varnames:  # the caller serialises
    from smartedge.wire.frame import serialise
    def to_send(frame):
        return serialise(frame, header)
link = Link(f"127.0.0.1:{port}", connect_timeout_s=20)
link.open(header)
begun = time.perf_counter()
for seq in range(frames):
    link.write(to_send(frame(seq, encoded)))
link.close()
print(frames / (time.perf_counter() - begun))
link.disconnect()
"""


def rate(source: Path, size: str, work: Path) -> float:
    """Frames per second of one round, by the version whose sources are in a folder; durable at the end."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    receiver = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(work)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert receiver.stdout is not None
    port = receiver.stdout.readline().strip()
    arguments = [port, *map(str, FRAMES[size])]
    sent = subprocess.run(
        [sys.executable, "-c", SENDER, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    receiver.communicate(timeout=60)
    return float(sent.stdout)


def main() -> None:
    """Take the rounds and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an older version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path.cwd(), help="a folder on the disk that is written to")
    arguments = parser.parse_args()
    versions = {"now": HERE.parent / "src"}
    if arguments.before:
        versions = {"before": arguments.before / "src", **versions}
    found: dict[str, Any] = {}
    for size in FRAMES:
        rates: dict[str, list[float]] = {name: [] for name in versions}
        for _ in range(arguments.rounds):
            for name, source in versions.items():
                rates[name].append(rate(source, size, arguments.work))
        found[size] = {
            name: {"median": round(statistics.median(each), 1), "rounds": [round(one, 1) for one in each]}
            for name, each in rates.items()
        }
        print(size, {name: each["median"] for name, each in found[size].items()}, "frames per second")
    kept: dict[str, Any] = {"frames_per_second": found}
    if arguments.before:
        git = ["git", "-C", str(arguments.before), "rev-parse", "--short", "HEAD"]
        kept["before"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    keep_result(HERE / "results" / "frame-path.json", kept, f"--before FOLDER --rounds {arguments.rounds}")


if __name__ == "__main__":
    main()
