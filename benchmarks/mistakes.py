"""Thirty typical mistakes as processes: how long a user waits for the message, and what CPU time it costs.

    python benchmarks/mistakes.py --rounds 3             # on an idle machine
    chrt -r 1 python benchmarks/mistakes.py --rounds 1   # on a busy one: at real-time priority, which needs root

Each mistake is one command line in a folder of its own. The time runs from the start of the process to its end, which
comes right after the message. An edge whose cloud is not there goes on by design: there the line that says so counts.
CPU time is that of the process and of all that it started. Rounds of all mistakes alternate; the median counts.
Results: benchmarks/results/mistakes.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import HERE, DropHandler, keep_result
from PIL import Image

from smartedge.fleet.credentials import cloud_credentials
from smartedge.wire.grpc_receiver import GrpcReceiver

GOAL_S = 3.0
SETTINGS = "data: {path: drawn, desired: smile, limit: {train: 256, val: 64, test: 64}}\nepochs: 2\n"


@dataclass(frozen=True)
class Mistake:
    """A command line (``{port}``: of a cloud with TLS, ``{free}``: where nobody listens), and a part of its message."""

    command: str
    says: str
    goes_on: bool = False  # the process does not end


MISTAKES = {
    "no such settings file": Mistake("train rnu.yaml", "'smartedge init rnu.yaml' writes one"),
    "a misspelt key": Mistake("train run.yaml --set train.learning_rate=0.1", "did you mean 'train.lr'?"),
    "an unknown codec": Mistake("train run.yaml --set codec.name=unit8", "did you mean 'uint8'?"),
    "a path that is not there": Mistake("train run.yaml --set data.path=pictures", "pictures"),
    "an unknown column": Mistake("train run.yaml --set data.desired=smiling", "'smiling'"),
    "an unknown column to hide": Mistake("train run.yaml --set data.sensitive=male", "'male'"),
    "an unknown network": Mistake("train run.yaml --set model.name=resnet81", "did you mean"),
    "an unknown cut": Mistake("train run.yaml --set model.cut=layer9", "layer9"),
    "a bottleneck larger than the map": Mistake("train run.yaml --set model.bottleneck=8x64x64", "bottleneck"),
    "weights that are not there": Mistake("train run.yaml --set model.weights=face.safetensors", "face.safetensors"),
    "a GPU that is not there": Mistake("train run.yaml --set hardware.edge_device=cuda:9", "cuda"),
    "a cloud that is not there": Mistake("edge run.yaml --connect 127.0.0.1:{free}", "cannot be reached", goes_on=True),
    "a bundle of another fleet": Mistake("edge run.yaml --bundle other/bundles/door.bundle", "not accepted"),
    "a port that is taken": Mistake("cloud run.yaml --listen 127.0.0.1:{port}", "{port}"),
    "a run resumed with other settings": Mistake("train begun/config.yaml --resume --set epochs=3", "epochs"),
    "a tab in the settings": Mistake("train tab.yaml", "line 2, column 1: a tab; indent with spaces"),
    "a text in place of a section": Mistake("train flat.yaml", "data: must be a mapping of keys to values"),
    "a list in place of a text": Mistake("train run.yaml --set model.cut=[layer1]", "model.cut: must be a text"),
    "a photograph in place of settings": Mistake("train photographs/1.jpg", "is not a text file in UTF-8"),
    "no verb before the settings": Mistake("run.yaml", "a verb comes before the settings"),
    "no epoch": Mistake("train run.yaml --set epochs=0", "epochs: must be greater than 0, got 0"),
    "a percentage in place of a share": Mistake(
        "train run.yaml --set data.audit_share=10", "less than or equal to 0.5"
    ),
    "images of 4x4 pixels": Mistake("train run.yaml --set data.image_size=4", "must be 8 to 4096 pixels"),
    "photographs without labels": Mistake(
        "train run.yaml --set data.path=photographs", "there is no table of their labels"
    ),
    "the label to learn is to be hidden": Mistake(
        "train run.yaml --set data.sensitive=smile", "cannot be desired and sensitive"
    ),
    "a cut behind which nothing is left": Mistake("train run.yaml --set model.cut=fc", "already the output"),
    "noise without its size": Mistake("train run.yaml --set dp.mechanism=gaussian", "dp.epsilon, dp.sigma"),
    "a run that was begun before": Mistake("train begun/config.yaml", "--resume"),
    "a browser's address": Mistake("edge run.yaml --connect http://127.0.0.1:{free}", "must be HOST:PORT"),
    "settings in place of a run": Mistake("audit run.yaml", "holds no run"),
}


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Path, Mapping[str, int]]]:
    """A folder with what the commands need, and the ports that they name."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "run.yaml").write_text(SETTINGS)
        (folder / "flat.yaml").write_text("data: drawn\n")
        (folder / "tab.yaml").write_text("data:\n\tpath: drawn\n")
        (folder / "photographs").mkdir()
        Image.new("RGB", (64, 64)).save(folder / "photographs" / "1.jpg")
        for name in ("mine", "other"):
            smartedge(folder, f"fleet init {name}")
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound, but nobody listens
            receiver = GrpcReceiver(DropHandler(), "127.0.0.1", credentials=cloud_credentials(folder / "mine"))
            receiver.start()
            try:
                smartedge(folder, f"fleet add other door --cloud 127.0.0.1:{receiver.port}")
                smartedge(folder, "train run.yaml --single-process --set run_dir=begun")
                yield folder, {"port": receiver.port, "free": nobody.getsockname()[1]}
            finally:
                receiver.close()


def smartedge(folder: Path, command: str) -> None:
    subprocess.run([sys.executable, "-m", "smartedge", *command.split()], cwd=folder, check=True, capture_output=True)


def tried(mistake: Mistake, folder: Path, ports: Mapping[str, int]) -> dict[str, float]:
    """Seconds on the clock and of CPU until the message of one mistake."""
    command = mistake.command.format(**ports).split()
    says = mistake.says.format(**ports)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "smartedge", *command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert process.stderr is not None
    with process:
        told, seconds = "", 0.0
        for line in process.stderr:
            told += line
            if mistake.goes_on and says in line:
                seconds = time.monotonic() - begun
                process.kill()
        process.wait()
    seconds = seconds or time.monotonic() - begun
    if says not in " ".join(told.split()) or process.returncode == 0:
        sys.exit(f"{' '.join(command)} did not say {says!r}:\n{told}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu}


def main() -> None:
    """Time every mistake, and keep the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one mistake, by its name; nothing is kept")
    args = parser.parse_args()
    chosen = {name: each for name, each in MISTAKES.items() if args.only in (None, name)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    with prepared() as (folder, ports):
        for _ in range(args.rounds):
            for name, mistake in chosen.items():
                found[name].append(tried(mistake, folder, ports))
    rows: list[dict[str, Any]] = [
        {
            "mistake": name,
            "seconds": round(statistics.median(each["seconds"] for each in tries), 2),
            "cpu_seconds": round(statistics.median(each["cpu_seconds"] for each in tries), 2),
        }
        for name, tries in found.items()
    ]
    for row in rows:
        print(f"{row['seconds']:6.2f} s {row['cpu_seconds']:6.2f} s CPU  {row['mistake']}")
    if args.only is None:
        real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
        facts = {"goal_s": GOAL_S, "rounds": args.rounds, "load": os.getloadavg()[0], "real_time": real_time}
        late = {key: [row["mistake"] for row in rows if row[key] > GOAL_S] for key in ("seconds", "cpu_seconds")}
        keep_result(HERE / "results" / "mistakes.json", {**facts, "late": late, "tries": rows})


if __name__ == "__main__":
    main()
