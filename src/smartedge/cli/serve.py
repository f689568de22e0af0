"""``smartedge serve``: answers edges that send features to the back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smartedge.cli.arguments import host_and_port
from smartedge.cli.cloud import add_fleet_arguments, fleet_of
from smartedge.cli.common import add_operation_arguments, logs, metrics_address
from smartedge.logs import say
from smartedge.runs.telemetry import Figure, Telemetry, serving_telemetry
from smartedge.stopping import Stopped, stop_on_signals

__all__ = ["add_parser", "run"]

_HERE = "127.0.0.1:8816"
_CLIENTS = 64  # that are answered at the same time

_DESCRIPTION = """\
Let the back of a trained run answer 'smartedge infer --connect', and give each edge of the run what the cloud wrote
about it ('smartedge collect --connect'). Runs until it is stopped.

  $ smartedge serve runs/faces --listen 0.0.0.0:8816
  listening on 0.0.0.0:8816; Ctrl-C stops

RUN is the run directory in which 'smartedge cloud' or 'smartedge train' has finished. On another machine, its folders
cloud/ and shared/ are enough; the edge writes shared/. Nothing else of the edge's run directory may travel: edge/,
results.json, report.html, metrics.jsonl, tensorboard/ and audit/ come from images and labels.

The edges of --fleet may ask. Without --fleet, those may ask that show the token and certificates that the run's
config.yaml names (link.*). Where it names none, only this machine may ask.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("serve", description=_DESCRIPTION)
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="run directory of a finished hierarchical run")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", default=_HERE, help="default: %(default)s; port 0: any free one"
    )
    add_fleet_arguments(parser)
    add_operation_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    from smartedge.inference.trained import TrainedRun
    from smartedge.launch.links import check_receiver, receiver_for

    host, port = host_and_port(args.listen, "--listen", example=_HERE)
    metrics, fleet = metrics_address(args), fleet_of(args)
    trained = TrainedRun.open(args.run_dir)
    trained.check_back()
    check_receiver(trained.config, host, port, **fleet)

    from smartedge.cloud.files_for_edges import files_for_edges
    from smartedge.inference.backs import BackServer  # imports torch
    from smartedge.wire.addresses import location_of
    from smartedge.wire.files import FileAnswers

    answers = FileAnswers(files_for_edges(args.run_dir / "cloud"))
    receiver = receiver_for(
        trained.config, BackServer(trained), host, port, **fleet, streams_per_edge=_CLIENTS, answer=answers
    )

    def figures() -> Iterator[Figure]:
        yield Figure(
            "serve_refused_calls", "Calls of anybody that were refused or broke off", "counter", receiver.refusals
        )
        counts = receiver.counters()
        up, down = ({edge: float(getattr(each, way)) for edge, each in counts.items()} for way in ("up", "down"))
        yield Figure("serve_received_bytes", "Bytes from an edge, at the socket", "counter", up)
        yield Figure("serve_sent_bytes", "Bytes to an edge, at the socket", "counter", down)

    telemetry = Telemetry(figures, lambda: [])
    try:
        receiver.start()
        with logs(args), serving_telemetry(metrics, telemetry, say), stop_on_signals() as stop, stop.polled():
            say(f"listening on {location_of(host, receiver.port)}; Ctrl-C stops")
            while not stop.wait(timeout=0.5):
                pass
    finally:
        receiver.close()
    raise Stopped
