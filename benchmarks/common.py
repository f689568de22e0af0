"""What every benchmark notes beside its figures, and where the real data are."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from smartedge.runs.machine import describe_machine, versions

HERE = Path(__file__).resolve().parent


def provenance(arguments: str | None = None) -> dict[str, Any]:
    """Machine, versions, date, commit and command (with ``arguments`` where those given name more than this result)."""
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "machine": describe_machine(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "command": f"python benchmarks/{Path(sys.argv[0]).name} "
        + (shlex.join(sys.argv[1:]) if arguments is None else arguments),
    }


def data_folder(name: str) -> Path:
    """The folder of a real data set: in ``$SMARTEDGE_DATA``, or in ``shared/data`` beside the repository."""
    named = os.environ.get("SMARTEDGE_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in HERE.parents]
    for place in places:
        if (place / name).is_dir():
            return place / name
    sys.exit(f"{name} is in none of {', '.join(map(str, places))}; set SMARTEDGE_DATA to the folder that holds it")
