"""How long a newcomer waits: the default ``profile``, every block of the tutorial as it is written, and ``auto``.

    python benchmarks/first_hour.py profile     # a minute
    python benchmarks/first_hour.py tutorial    # half an hour
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
import subprocess
import sys
import tempfile
import time
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


def tutorial(folder: Path) -> dict[str, Any]:
    """Seconds of each block of the tutorial that runs, and of all."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from pages import Folder, blocks_of

    page, blocks = Folder(folder, small=False), []
    ended = False
    try:
        for block in blocks_of(ROOT / "docs" / "tutorial.md"):
            begun = time.monotonic()
            page.run([block])
            if block.runs:
                blocks.append({"line": block.line, "seconds": round(time.monotonic() - begun, 1)})
                print(f"{blocks[-1]['seconds']:8.1f} s  {block.text.splitlines()[0]}", flush=True)
        ended = True
    finally:
        page.close(kill=not ended)
    return {"seconds": round(sum(float(each["seconds"]) for each in blocks), 1), "blocks": blocks}


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
    part = parser.parse_args().part
    with tempfile.TemporaryDirectory() as folder:
        found = {"profile": profile, "tutorial": tutorial, "auto": auto}[part](Path(folder))
    print(f"{found['seconds']} s")
    keep_result(HERE / "results" / f"first-hour-{part}.json", found)


if __name__ == "__main__":
    main()
