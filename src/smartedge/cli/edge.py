"""``smartedge edge``: the edge's side alone."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.common import add_side_arguments, metrics_address, next_line, side
from smartedge.cli.ending import edge_ended
from smartedge.cli.fronts import add_trust_arguments, open_published
from smartedge.errors import ConfigError
from smartedge.launch.processes import AWAITED
from smartedge.methods.base import get_method
from smartedge.runs.allocator import return_freed_memory
from smartedge.runs.progress import Update
from smartedge.stopping import Stopped

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Train the front with its own exit on this device, and stream features to the cloud.

  $ smartedge edge run.yaml --bundle door.bundle
   edge train   ━━━━━━━━━━━━━━━━━━━━━━━━ 372/372 0:01:10 epoch 6/6 loss 0.215

  $ smartedge edge --front fronts/faces --source photographs --bundle door.bundle
   edge release train   ━━━━━━━━━━━━━━━━━ 40/40 0:00:07

The second command trains nothing and needs no torch: it releases the images of a folder once, with a published front
('smartedge export'). The folder holds train, val and test, each with a folder per class. The cloud of such a run is
started with the same --front. To answer single images with a published front: 'smartedge infer'.

Both sides need the same method, schedule, epochs, seed, model, train, dp and codec, and of data the same desired,
image_size, fit, augment, mean and std. All other settings may differ. So the cloud need not know what is hidden, or
how.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("edge", description=_DESCRIPTION)
    add_side_arguments(parser)
    parser.add_argument(
        "--connect",
        metavar="HOST:PORT",
        help="where the cloud listens; udp://HOST:PORT: a link without a way back, see 'smartedge cloud --listen-udp'; "
        "nats://HOST:PORT/STREAM/COUNT: a broker, see 'smartedge ingest'; default: the address in the bundle; not for "
        "method 'local'",
    )
    parser.add_argument("--source", metavar="DIR", type=Path, help="with --front: the labelled images to release")
    add_trust_arguments(parser)
    parser.add_argument("--division", type=int, help=argparse.SUPPRESS)  # a pipe, for 'smartedge train'
    parser.add_argument(
        "--bundle", metavar="FILE", type=Path, help="this edge's file of the cloud's fleet ('smartedge fleet add')"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the edge's side to its end."""
    if args.front is not None:
        return_freed_memory()
    from smartedge.fleet.bundle import open_bundle
    from smartedge.launch.dividing import divide_in_process
    from smartedge.training import release_images, run_edge

    if (args.front is None) != (args.source is None):
        raise ConfigError("--front DIR and --source DIR belong together: a published front, and the images to release")
    if args.front is None and (args.trust or args.unsigned or args.require):
        raise ConfigError("--trust, --unsigned, --require: only with --front")
    published = None if args.front is None else open_published(args.front, args, labels_sent=True)
    bundle = None if args.bundle is None else open_bundle(args.bundle)
    metrics = metrics_address(args)
    with side(args, "edge") as (config, monitor, stop):
        if args.connect is None and bundle is None and get_method(config.method).has_cloud:
            raise ConfigError(
                f"--bundle FILE or --connect HOST:PORT is needed: method {config.method!r} sends to a cloud"
            )
        how: Any = {"bundle": bundle, "resume": args.resume, "metrics": metrics, "stop": stop}
        if published is not None:
            done = release_images(published, config, args.source, args.connect, monitor, **how)
        elif args.connect == AWAITED and args.until_input_ends:
            answer = None if args.division is None else os.fdopen(args.division, "rb")
            parts = divide_in_process(config, monitor, answer)  # while the cloud starts
            done = run_edge(config, _awaited(config), monitor, parts=parts, **how)
        else:
            done = run_edge(config, args.connect, monitor, **how)
        if not done:
            raise Stopped
        if not args.until_input_ends:  # 'smartedge train' says it for both sides
            text = edge_ended(config.run_dir, has_cloud=get_method(config.method).has_cloud)
            monitor.update(Update("edge", "done", text=text))
    return 0


def _awaited(config: Config) -> str:
    """The address of the cloud that 'smartedge train' starts beside this side. Meanwhile torch is imported."""
    from smartedge.runs.machine import pick_device

    pick_device(config.hardware.edge_device, "hardware.edge_device")  # first, so that an error comes at once
    import smartedge.edge.runner  # noqa: F401 - takes a while

    if not (address := next_line()):
        raise Stopped
    return address
