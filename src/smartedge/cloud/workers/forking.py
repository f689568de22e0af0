"""torchrun whose workers are forked from its own process: ``python -m smartedge.cloud.workers.forking``.

It takes torchrun's arguments. This process imports all that a worker needs, once. So a worker that takes the place of
another one imports nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from smartedge.cloud import worker
from smartedge.cloud.back import build_back
from smartedge.config import load_run_config
from smartedge.errors import SmartEdgeError
from smartedge.logs import say

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the workers, and again where one is lost. Returns the exit code."""
    args = parse_args(arguments)
    run = worker.parser().parse_args(args.training_script_args).run
    config, _, _ = config_from_args(args)
    config.start_method = "fork"
    torch.set_num_threads(1)  # threads of a pool would be missing in the forked process
    with contextlib.suppress(SmartEdgeError):  # the first worker tells it
        build_back(load_run_config(run), 2)  # imports what this run's network needs
    try:
        elastic_launch(config, _work)(os.dup(0), *args.training_script_args)
    except (ChildFailedError, SignalException) as error:
        say(f"the workers have ended ({type(error).__name__})", file=sys.stderr)
        return 1
    return 0


def _work(stdin: int, *arguments: str) -> None:
    """One worker, in its own process. ``stdin``: the launcher's; multiprocessing has closed this process's own."""
    sys.stdin = os.fdopen(stdin, encoding="utf-8")
    worker.as_process(arguments)


if __name__ == "__main__":
    sys.exit(main())
