"""Random ``kill -9`` of edge, cloud or both, in runs of every method and schedule that crosses a link.

    python benchmarks/kills.py --trials 200           # those that are not done yet; 2 to 6 seconds each
    python benchmarks/kills.py --trials 200 --most 20 # a piece of them
    python benchmarks/kills.py --table                # what is there
    python benchmarks/kills.py --only 17              # one of them again, where its processes' output is kept

Trial ``n`` is drawn from the seed ``n``: which run, which processes die, and when, from their start to about their end.
Each killed process is started again by one command, that of before with ``--resume``. Nothing else is done. A trial is
well where both sides then end with code 0, and weights, test results, rows of the metrics, releases of each image and
the frames in the cloud's store are those of the undisturbed run, bit for bit. A trial that went wrong is tried again by
the next call; what was wrong stays in the results, under ``before``.

Edge and cloud are processes, forked from one that has imported everything, and talk over a socket.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common import HERE, keep_result, provenance
from trials import (
    TINY,
    Process,
    differences_of,
    ended,
    give_key,
    seconds_since,
    side,
    stopping,
    train_alone,
    warm_up,
)

from smartedge.config import Config, load_config
from smartedge.training import collect

RESULT = HERE / "results" / "kills.json"
ADVERSARY = {"exits": ["linear", "mlp"], "steps": 2, "reset_every": 1}
GAUSSIAN = {"mechanism": "gaussian", "epsilon": 8.0}
RUNS: dict[str, dict[str, Any]] = {
    "hierarchical, joint": {},
    "hierarchical, two-stage": {"schedule": "two-stage"},
    "hierarchical, freeze-and-log": {"schedule": "freeze-and-log"},
    "upload, joint": {"method": "upload"},
    "upload, freeze-and-log": {"method": "upload", "schedule": "freeze-and-log"},
    "split, joint": {"method": "split"},
    "joint, with noise": {"model": {"bottleneck": [4, 2, 2]}, "adversary": ADVERSARY, "dp": GAUSSIAN},
    "two-stage, with noise, taught": {
        "schedule": "two-stage",
        "model": {"bottleneck": [4, 2, 2]},
        "train": {"distill": {"epochs": 1}},
        "dp": {**GAUSSIAN, "label_epsilon": 2.0},
    },
    "freeze-and-log, codewords": {
        "schedule": "freeze-and-log",
        "model": {"codebook": 6},
        "dp": {"mechanism": "randomised-response", "epsilon": 30.0},
    },
}
LONGEST_S = 120.0  # of a trial; then it has failed
LONGEST_PAUSE_S = 0.7  # from a kill to the next command


class Kill(NamedTuple):
    """One ``kill -9``."""

    after: float  # the start of the trial, in seconds
    victims: tuple[str, ...]
    pause: float  # until the victims are started again, in seconds


@dataclass
class Trial:
    """What came of a trial."""

    seed: int
    run: str
    kills: list[Kill]
    commands: int = 0  # beyond the two that began the run
    killed: int = 0  # processes
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)  # what differs from the undisturbed run, or failed


def settings(name: str, run_dir: Path, work: Path) -> Config:
    changes = {**RUNS[name], "run_dir": str(run_dir), "data": {"cache_dir": str(work / "cache")}}
    return load_config(load_config(TINY), changes)


def plan(seed: int, lasts: float) -> list[Kill]:
    """When which processes die, where an undisturbed run lasts so long. Most often one or both of them, once."""
    drawn = random.Random(f"kills {seed}")
    kills = []
    for _ in range(drawn.choice([1, 1, 2])):
        victims = drawn.choice([("edge",), ("cloud",), ("edge", "cloud")])
        kills.append(Kill(drawn.random() * lasts, victims, drawn.random() * LONGEST_PAUSE_S))
    return sorted(kills)


def address(number: int) -> str:
    """An address of this machine that no other program uses."""
    host = f"127.77.{number // 250}.{number % 250 + 1}"
    with socket.create_server((host, 0)) as probe:
        return f"{host}:{probe.getsockname()[1]}"


def undisturbed(name: str, work: Path) -> tuple[Path, float]:
    """The run that nobody disturbs, in one process, and how long two processes take for it."""
    folder = work / name.replace(", ", "-")
    whole, apart = settings(name, folder / "whole", work), settings(name, folder / "apart", work)
    took = folder / f"seconds-{hashlib.sha256(whole.to_yaml().encode()).hexdigest()[:8]}"
    if not took.exists():
        shutil.rmtree(folder, ignore_errors=True)
        for config in (whole, apart):
            give_key(config.run_dir)
        train_alone(whole)
        trial = Trial(-1, name, [])
        run(trial, apart, address(251))
        trial.wrong += differences_of(whole.run_dir, apart.run_dir)
        assert not trial.wrong, trial.wrong
        took.write_text(str(trial.seconds))
    return whole.run_dir, float(took.read_text())


def run(trial: Trial, config: Config, where: str) -> None:
    """Run both sides, with the trial's kills, to the end."""
    arguments = {"cloud": ["--listen", where], "edge": ["--connect", where]}
    begun = time.monotonic()
    sides: dict[str, Process] = {verb: side(verb, config, *arguments[verb]) for verb in ("cloud", "edge")}
    started = list(sides.values())
    kills = list(trial.kills)
    starts: dict[str, float] = {}  # when to start a killed side again
    with stopping(started):
        while starts or any(each.code is None for each in sides.values()):
            now = time.monotonic() - begun
            if now > LONGEST_S:
                trial.wrong.append(f"has not ended after {LONGEST_S:g} s")
                break
            if any(each.code and verb not in starts for verb, each in sides.items()):
                break  # a side has failed
            if kills and kills[0].after <= now:
                kill = kills.pop(0)
                for victim in kill.victims:
                    if sides[victim].code is None:
                        sides[victim].kill()
                        trial.killed += 1
                        starts[victim] = now + kill.pause
            for victim in [verb for verb, at in starts.items() if at <= now]:
                del starts[victim]
                sides[victim] = side(victim, config, *arguments[victim], "--resume")
                started.append(sides[victim])
                trial.commands += 1
            soon = min([LONGEST_S, *(kill.after for kill in kills[:1]), *starts.values()])
            ended(list(sides.values()), soon - (time.monotonic() - begun))
    trial.seconds = seconds_since(begun)
    for verb, process in sides.items():
        if process.code:
            trial.wrong.append(f"{verb} ended with code {process.code}: {process.tail()}")
    if not trial.wrong:
        collect(config.run_dir)


def attempt(seed: int, work: Path) -> Trial:
    """One trial. Where everything had ended before the first kill, the kills come sooner."""
    name = list(RUNS)[seed % len(RUNS)]
    whole, lasts = undisturbed(name, work)
    folder = work / f"trial-{seed}"
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        trial = Trial(seed, name, plan(seed, lasts))
        config = settings(name, folder / "run", work)
        give_key(config.run_dir)
        run(trial, config, address(seed))
        if trial.killed or trial.wrong:
            break
        lasts /= 2
    if not trial.wrong:
        trial.wrong = differences_of(whole, config.run_dir)
    if trial.commands != trial.killed:
        trial.wrong.append(f"{trial.commands} commands for {trial.killed} killed processes")
    if not trial.wrong:
        shutil.rmtree(folder)
    return trial


def done() -> dict[int, dict[str, Any]]:
    """The trials that are kept, by seed."""
    found = json.loads(RESULT.read_text())["trials"] if RESULT.exists() else []
    return {trial["seed"]: trial for trial in found}


def table(trials: dict[int, dict[str, Any]]) -> None:
    """Print how many trials of each run there are, and how many went well."""
    print(f"{'run':<32}{'trials':>8}{'well':>6}{'killed':>8}{'commands':>10}")
    for name in [*RUNS, "all"]:
        of = [each for each in trials.values() if name in (each["run"], "all")]
        well, killed, commands = (
            sum(not each["wrong"] for each in of),
            *(sum(each[key] for each in of) for key in ("killed", "commands")),
        )
        print(f"{name:<32}{len(of):>8}{well:>6}{killed:>8}{commands:>10}")


def main(arguments: Sequence[str]) -> int:
    """See the module. The exit code is 1 where a trial went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="seeds 0 to this, not included")
    parser.add_argument("--most", type=int, help="do no more than so many in this call")
    parser.add_argument("--only", type=int, nargs="+", help="these seeds, done already or not; nothing is kept")
    parser.add_argument("--work", type=Path, default=Path("runs/kills"), help="folder for the runs")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(arguments)
    warm_up()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    kept = done()
    wanted = args.only or [seed for seed in range(args.trials) if seed not in kept or kept[seed]["wrong"]]
    failed = False
    for seed in [] if args.table else wanted[: args.most]:
        trial = attempt(seed, work)
        failed |= bool(trial.wrong)
        when = ", ".join(f"{'+'.join(kill.victims)} at {kill.after:.2f} s" for kill in trial.kills)
        print(f"{seed:>4} {trial.run:<31}{trial.seconds:5.1f} s: {when}:", trial.wrong or "well", flush=True)
        if args.only is None:
            before = [*kept[seed]["before"], kept[seed]["wrong"]] if seed in kept else []
            kept[seed] = {**asdict(trial), "commit": provenance()["commit"], "before": before}
            keep_result(RESULT, {"trials": [kept[each] for each in sorted(kept)]}, f"--trials {args.trials}")
    table(kept)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
