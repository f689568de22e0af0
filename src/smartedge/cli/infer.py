"""``smartedge infer``: answers for images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from smartedge.errors import ConfigError, DataError

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Classify images with a trained run: the task exit answers where it is confident, else features go to the back.

  $ smartedge infer runs/faces photos/*.jpg --threshold 0.9
  photos/a.jpg   yes   98.1 %   exit
  photos/b.jpg   no    71.4 %   back   (exit was 62.0 % sure)
  1 of 2 images went to the back

By default the back answers in this process, and nothing leaves the machine. With --connect HOST:PORT it answers on the
server that runs 'smartedge serve'. Then every image is released first, with the run's noise, and costs its budget one
release. This release alone decides whether the image is sent. The same image again is no new release.
The run's report.html shows the accuracy for each threshold.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "infer", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="run directory of a finished hierarchical run")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files")
    parser.add_argument(
        "--threshold", type=float, default=0.9, help="the back answers where the exit's confidence is below this (0.9)"
    )
    parser.add_argument("--connect", metavar="HOST:PORT", help="ask the server there instead of the back in RUN")
    parser.add_argument("--bundle", metavar="FILE", type=Path, help="this edge's file of the server's fleet")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def run(args: argparse.Namespace) -> int:
    """Answer every image that can be read; exit code 3 where one cannot."""
    import sys

    from smartedge import inference, metrics
    from smartedge.fleet.bundle import open_bundle
    from smartedge.training import link_to

    if args.bundle is not None and args.connect is None:
        raise ConfigError("--bundle: only with --connect HOST:PORT; without a server nothing leaves this machine")
    if args.threshold < 0:
        raise ConfigError("--threshold must be at least 0; 0 answers everything on the edge, 1.01 nothing")
    trained = inference.TrainedRun.open(args.run_dir)
    readable, images_BCHW, problems = _read(args.images, trained.config.data.image_size)
    for path, problem in problems.items():
        print(f"{path}: {problem}; left out", file=sys.stderr)
    if not readable:
        raise DataError("none of the images can be read")
    bundle = None if args.bundle is None else open_bundle(args.bundle)
    server = None if args.connect is None else link_to(trained.config, args.connect, bundle)
    try:
        answers = inference.answer(trained, images_BCHW, threshold=args.threshold, server=server)
    finally:
        if server is not None:
            server.disconnect()
    width = max(len(str(path)) for path in readable)
    for path, given in zip(readable, answers, strict=True):
        chosen = metrics.answers(given.scores_K[None], trained.task.kind)[0]
        if trained.task.kind == "single":
            label, sure = trained.task.names[int(chosen)], float(given.scores_K.max())
        else:
            label = ", ".join(n for n, yes in zip(trained.task.names, chosen, strict=True) if yes) or "(none)"
            sure = float(metrics.confidence(given.scores_K[None], "multi")[0])
        if args.json:
            scores = dict(zip(trained.task.names, map(float, given.scores_K), strict=True))
            found = {"image": str(path), "answer": label, "confidence": sure, "by": given.by, "scores": scores}
            print(json.dumps(found))
        else:
            note = f"   (exit was {100 * given.confidence:.1f} % sure)" if given.by == "back" else ""
            print(f"{path!s:<{width}}   {label}   {100 * sure:.1f} %   {given.by}{note}")
    if not args.json:
        print(f"{sum(given.by == 'back' for given in answers)} of {len(answers)} images went to the back")
    return DataError.exit_code if problems else 0


def _read(paths: list[Path], image_size: int) -> tuple[list[Path], Any, dict[Path, str]]:
    """Readable paths, their images as uint8 (B, 3, S, S), and what is wrong with the others."""
    import numpy as np
    import torch

    from smartedge.decode import decode

    good: dict[Path, Any] = {}
    problems: dict[Path, str] = {}
    for path in paths:
        found = decode(path, image_size)
        if isinstance(found, str):
            problems[path] = found
        else:
            good[path] = found
    images_BCHW = torch.from_numpy(np.stack(list(good.values())).transpose(0, 3, 1, 2).copy()) if good else None
    return list(good), images_BCHW, problems
