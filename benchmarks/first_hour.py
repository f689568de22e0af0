"""How long a newcomer waits: the default ``profile``, every block of the tutorial as it is written, and ``auto``.

    python benchmarks/first_hour.py profile     # a minute
    python benchmarks/first_hour.py tutorial    # half an hour; in parts: --work FOLDER --minutes 7, several times
    python benchmarks/first_hour.py auto        # half a minute

``profile`` runs ``smartedge profile`` on the settings that ``smartedge init`` writes. ``tutorial`` runs the blocks of
docs/tutorial.md in their order, in a new folder, with the sizes that the page names (tests make them small); only
servers listen on this machine, on free ports. ``auto`` measures six times in a row which precision and memory format is
the fastest for the default network, as ``smartedge train`` does for ``auto``: does one machine always choose the same?
Results: benchmarks/results/first-hour-profile.json, -tutorial.json and -auto.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import HERE, keep_result

from smartedge.config import load_config
from smartedge.methods.speed import measure_speed

ROOT = HERE.parent


def profile(folder: Path) -> dict[str, Any]:
    """Seconds of the default profile, and how much it measured in them."""
    program = [sys.executable, "-m", "smartedge"]
    subprocess.run([*program, "init", "run.yaml"], cwd=folder, check=True, capture_output=True)
    begun = time.monotonic()
    subprocess.run([*program, "profile", "run.yaml", "--out", "device.json"], cwd=folder, check=True)
    seconds = time.monotonic() - begun
    made = json.loads((folder / "device.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "cuts": [cut["name"] for cut in made["cuts"]],
        "left_out": made["left_out"],
    }


def tutorial(folder: Path, minutes: float = 60.0) -> dict[str, Any]:
    """Seconds on the clock and of CPU of each block of the tutorial that runs, and of all.

    Args:
        folder: where the blocks run. The blocks that an earlier call ran there are not run again.
        minutes: when they are over, no further block begins, and the next call goes on.
    """
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from pages import Folder, blocks_of

    page, kept, started = Folder(folder, small=False), folder / "blocks.json", time.monotonic()
    blocks: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    page.printed = "".join(block["printed"] for block in blocks)
    try:
        for block in blocks_of(ROOT / "docs" / "tutorial.md")[len(blocks) :]:
            if time.monotonic() - started > 60 * minutes:
                sys.exit(f"{len(blocks)} blocks are done; the same command goes on")
            before, begun, said = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), len(page.printed)
            page.run([block])
            after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            times = {"seconds": round(seconds, 1), "cpu_seconds": round(max(cpu, 0.0), 1)}
            blocks.append({"line": block.line, "runs": block.runs, **times, "printed": page.printed[said:]})
            kept.write_text(json.dumps(blocks))
            if block.runs:
                print(f"{seconds:8.1f} s  {block.text.splitlines()[0]}", flush=True)
    finally:
        page.close(kill=True)
    ran = [{key: each[key] for key in ("line", "seconds", "cpu_seconds")} for each in blocks if each["runs"]]
    return {key: round(sum(each[key] for each in ran), 1) for key in ("seconds", "cpu_seconds")} | {"blocks": ran}


def auto(folder: Path) -> dict[str, Any]:
    """What six measurements of the default network choose."""
    train = {"precision": "auto", "channels_last": "auto"}
    config = load_config({"train": train, "hardware": {"threads": 1}, "run_dir": str(folder)})
    begun, tries = time.monotonic(), []
    for _ in range(6):
        found = measure_speed(config, torch.device("cpu"))
        ratios = {way: round(seconds / found.seconds["float32"], 2) for way, seconds in found.seconds.items()}
        tries.append({"precision": found.precision, "channels_last": found.channels_last, "of_float32": ratios})
        print(tries[-1], flush=True)
    return {"seconds": round(time.monotonic() - begun, 1), "load": os.getloadavg()[0], "tries": tries}


def main() -> None:
    """Time one of them, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["profile", "tutorial", "auto"])
    parser.add_argument("--work", type=Path, help="tutorial: run its blocks in this folder, and keep it")
    parser.add_argument("--minutes", type=float, default=60.0, help="tutorial: begin no block after them")
    args = parser.parse_args()
    in_parts = partial(tutorial, minutes=args.minutes)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {"profile": profile, "tutorial": in_parts, "auto": auto}
    with tempfile.TemporaryDirectory() as made:
        folder = args.work or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        found = parts[args.part](folder)
    print(f"{found['seconds']} s")
    keep_result(HERE / "results" / f"first-hour-{args.part}.json", found)


if __name__ == "__main__":
    main()
