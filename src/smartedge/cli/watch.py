"""``smartedge watch``: a run as a page in the browser, while it goes on or afterwards."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import Any

from smartedge.cli.common import watch_page
from smartedge.errors import RunError
from smartedge.logs import say

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show a run in the browser: progress of both sides, accuracy as it is learned, bytes, budgets, edges, log.

  $ smartedge watch runs/latest
  watch it at http://127.0.0.1:8817/

The page reads the files of the run directory on this machine. It works while the run goes on and after it has ended, on
a phone and without a network. It can only be read. 'smartedge train', 'cloud' and 'demo' take --watch, which serves the
same page while they run. TensorBoard shows the curves too: tensorboard --logdir RUN/tensorboard

Only this machine can open the page. --listen 0.0.0.0:8817 lets everybody who reaches this machine read it.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("watch", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", nargs="?", type=Path, default=Path("runs/latest"), help="a run "
                        "directory, or a folder of runs: then the newest; default: %(default)s")  # fmt: skip
    parser.add_argument(
        "--listen", metavar="[HOST:]PORT", default="8817", help="default: %(default)s, on this machine alone; 0: any"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve the page until the command is stopped.

    Raises:
        RunError: there is no run in the folder.
        LinkError: it cannot listen there.
    """
    folder: Path = args.run_dir
    if not (folder / "config.yaml").exists() and not any(folder.glob("*/config.yaml")):
        raise RunError(f"{folder}: holds no run; start one with 'smartedge train', or name its folder")
    with watch_page(args.listen, folder, say, "--listen"):
        say("Ctrl-C ends it", file=sys.stderr)
        threading.Event().wait()
    return 0
