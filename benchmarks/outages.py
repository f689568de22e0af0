"""Bad links: the cloud is away for minutes, the link is reset again and again, is slow, or loses much.

    python benchmarks/outages.py                        # all; 10 minutes, of which the machine waits most
    python benchmarks/outages.py --only away --away 600 # the cloud is away for 10 minutes; in place of 2
    python benchmarks/outages.py --table

Edge and cloud are processes (``trials.py``), with a proxy between them (``bad_link.py``), since not every kernel has
``netem``. In the case ``away`` the cloud is killed in the edge's second epoch, and later started again, with
``--resume``. Nothing else is done in any case.

Each case stands beside a run over the same proxy that does nothing, made just before. ``epoch`` is the median of the
wall-clock times between two checkpoints of the edge; it trains at the same pace where it never waits for the link. The
weights, results and frames must be those of a run in one process, bit for bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bad_link import BadLink, Disturbance
from common import HERE, keep_result
from trials import TINY, Process, differences_of, ended, give_key, seconds_since, side, stopping, train_alone, warm_up

from smartedge.artifacts.run import Confirmed
from smartedge.config import Config, load_config
from smartedge.training import collect

RESULTS = HERE / "results" / "outages"
QUIET = Disturbance()
CASES: dict[str, Disturbance] = {
    "away": QUIET,
    "reset every 5 s": Disturbance(reset_every=5.0),
    "2 s delay": Disturbance(delay=2.0),
    "30 % loss": Disturbance(loss=0.3),
}
LONGEST_S = 900.0  # of a run, beyond the time for which the cloud is away
LOOK_S = 0.02


def settings(run_dir: Path, work: Path, epochs: int) -> Config:
    data = {"cache_dir": str(work / "cache"), "limit": {"train": 640, "val": 20, "test": 40}}
    return load_config(load_config(TINY), {"run_dir": str(run_dir), "epochs": epochs, "data": data})


class Epochs:
    """The wall-clock times at which an edge's checkpoints counted."""

    def __init__(self, config: Config) -> None:
        self._file = config.run_dir / "edge" / "confirmed.json"
        self.times: dict[int, float] = {}

    def look(self) -> int:
        """The number of the newest checkpoint."""
        if (confirmed := Confirmed.read_if_there(self._file)) is not None:
            self.times.setdefault(confirmed.checkpoint, self._file.stat().st_mtime)
        return max(self.times, default=0)

    def seconds(self) -> list[float]:
        """The time of each epoch but the first."""
        times = [self.times[number] for number in sorted(self.times)]
        return [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]


def run(config: Config, disturbance: Disturbance, away: float) -> dict[str, Any]:
    """One run over the proxy. Where ``away`` is not 0, the cloud is killed, and comes back so many seconds later."""
    where = ("127.78.0.1", _free_port("127.78.0.1"))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    give_key(config.run_dir)
    listen = ["--listen", f"{where[0]}:{where[1]}"]
    cloud = side("cloud", config, *listen)
    proxy = Process(BadLink(listening, where, disturbance, seed=0).run, config.run_dir.with_suffix(".proxy.log"))
    listening.close()
    edge = side("edge", config, "--connect", f"127.0.0.1:{port}")
    epochs, begun = Epochs(config), time.monotonic()
    back: float | None = None
    trained: float | None = None
    started = [cloud, proxy, edge]
    with stopping(started):
        while edge.code is None or cloud.code is None:
            now = time.monotonic()
            assert now - begun < LONGEST_S + away, f"not ended: {edge.tail()} {cloud.tail()}"
            newest = epochs.look()
            if trained is None and newest == config.epochs:
                trained = seconds_since(begun)
            if away and back is None and newest >= 1:
                cloud.kill()
                back = now + away
            if back is not None and now >= back:
                back = float("inf")
                cloud = side("cloud", config, *listen, "--resume")
                started.append(cloud)
            ended([each for each in (edge, cloud, proxy) if each.code is None], LOOK_S)
            failed = [each.tail() for each in (edge, proxy) if each.code]
            failed += [cloud.tail()] if (cloud.code or 0) > 0 else []  # below 0: it was killed
            assert not failed, failed
        epochs.look()
    took = seconds_since(begun)
    collect(config.run_dir)
    told = config.run_dir.with_suffix(".edge.log").read_text()
    return {
        "epoch_seconds": round(statistics.median(epochs.seconds()), 3),
        "slowest_epoch_seconds": max(epochs.seconds()),
        "trained_after_seconds": trained,
        "ended_after_seconds": took,
        "link_lost": told.count("cloud unreachable for"),
        "link_back": told.count("the cloud is there again"),
    }


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def case(name: str, work: Path, epochs: int, away: float, scale: float) -> dict[str, Any]:
    """A case, and the run beside it in which nothing happens."""
    whole = settings(work / f"whole-{epochs}" / "run", work, epochs)
    if not whole.run_dir.exists():
        give_key(whole.run_dir)
    train_alone(whole)
    made = CASES[name]
    every = made.reset_every and made.reset_every / scale
    disturbance = made._replace(reset_every=every, delay=made.delay / scale)
    found: dict[str, Any] = {"case": name, "epochs": epochs, **disturbance._asdict()}
    if name == "away":
        found["away_seconds"] = away
    for kind, here, gone in (("beside", QUIET, 0.0), ("disturbed", disturbance, away if name == "away" else 0.0)):
        folder = work / name.replace(" ", "-") / kind
        shutil.rmtree(folder, ignore_errors=True)
        config = settings(folder / "run", work, epochs)
        found[kind] = run(config, here, gone)
        found[kind]["differences"] = differences_of(whole.run_dir, config.run_dir)
    return found


def table(folder: Path) -> bool:
    """Print what is there. Whether all of it is equal to the undisturbed run."""
    print(f"{'case':<18}{'epoch, s':>10}{'beside':>8}{'trained':>9}{'ended':>8}{'lost':>6}  equal")
    equal = True
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text())
        here, beside = found["disturbed"], found["beside"]
        name = found["case"] + (f" {found['away_seconds']:g} s" if "away_seconds" in found else "")
        same = not here["differences"] and not beside["differences"]
        equal &= same
        print(
            f"{name:<18}{here['epoch_seconds']:>10}{beside['epoch_seconds']:>8}{here['trained_after_seconds']:>9.1f}"
            f"{here['ended_after_seconds']:>8.1f}{here['link_lost']:>6}  {'yes' if same else here['differences'][:3]}"
        )
    return equal


def main(arguments: Sequence[str]) -> int:
    """See the module. The exit code is 1 where a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--away", type=float, default=120.0, help="seconds for which the cloud is away")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--scale", type=float, default=1.0, help="resets come so many times sooner, and less delay")
    parser.add_argument("--work", type=Path, default=Path("runs/outages"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(arguments)
    work: Path = args.work.resolve()
    if not args.table:
        warm_up()
        work.mkdir(parents=True, exist_ok=True)
        for name in args.only:
            found = case(name, work, args.epochs, args.away, args.scale)
            file = f"{name.replace(' ', '-').replace('%', 'percent')}.json"
            keep_result(args.results / file, found)
    return int(not table(args.results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
