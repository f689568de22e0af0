"""``smartedge infer``: answers for images."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.cli.arguments import above_zero
from smartedge.cli.fronts import add_trust_arguments, open_published
from smartedge.errors import ConfigError, DataError, RunError
from smartedge.logs import plain, say
from smartedge.runs.allocator import return_freed_memory
from smartedge.stopping import stop_on_signals

if TYPE_CHECKING:
    import threading

    from smartedge.config import Config
    from smartedge.config.sections import DataConfig
    from smartedge.inference.answering import Answer, Answerer, Back, Front
    from smartedge.inference.calibrating import Goal
    from smartedge.inference.sources import SourceImage
    from smartedge.inference.trained import TrainedRun
    from smartedge.wire.link import FrameSender

__all__ = ["add_goal_arguments", "add_parser", "goal_of", "run"]

_THRESHOLD = 0.9
_CONNECT_S = 5.0
_DESCRIPTION = """\
Classify images with a trained run, or with a published front: the task exit answers where it is confident, else the
back does.

  $ smartedge infer runs/faces photos/*.jpg --threshold 0.9
  photos/a.jpg   yes   98.1 %   exit
  photos/b.jpg   no    71.4 %   back   (exit was 62.0 % sure)
  1 of 2 images went to the back

  $ smartedge infer fronts/faces --bundle door.bundle --connect cloud.example:8816 --source /camera

The second command stays up and answers each image that comes into the folder. It needs no torch. --source also takes a
video file, camera:/dev/video0, or - for names of files on standard input.

Without --connect nothing leaves this machine: the back in RUN answers, or the exit where cloud/ is not there. With
--connect HOST:PORT the server that runs 'smartedge serve' answers. Then every image is released first, with the run's
noise, and costs its budget one release. This release alone decides whether the image is sent. The same image again is
no new release. Where the server cannot be reached, the exit answers.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("infer", description=_DESCRIPTION)
    parser.add_argument(
        "model", metavar="RUN|FRONT", type=Path, help="run directory of a finished hierarchical run, or a front bundle"
    )
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="image files")
    parser.add_argument("--source", help="a folder to watch, a video file, camera:DEVICE, or - for names of files")
    parser.add_argument("--once", action="store_true", help="read the folder of --source once, and end")
    parser.add_argument(
        "--every", metavar="SECONDS", type=above_zero, default=1.0, help="between two pictures of a video or camera (1)"
    )
    add_goal_arguments(parser, f"that of the front bundle, or {_THRESHOLD} for a run")
    parser.add_argument("--connect", metavar="HOST:PORT", help="ask the server there instead of the back in RUN")
    parser.add_argument("--bundle", metavar="FILE", type=Path, help="this edge's file of the server's fleet")
    add_trust_arguments(parser)
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="of a front bundle: where the ledger and the key of its releases are kept; default: FRONT.state",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def add_goal_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """The three ways to choose a threshold."""
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--threshold",
        type=float,
        help=f"the back answers where the exit's confidence is below this; default: {default}",
    )
    goal.add_argument(
        "--offload",
        metavar="SHARE",
        type=_percent,
        help="choose the threshold so that the back answers at most this share of the images: 10%%",
    )
    goal.add_argument(
        "--lose",
        metavar="POINTS",
        type=float,
        help="choose the threshold so that at most so many percentage points of accuracy are lost, against a back "
        "that answers every image: 0.5",
    )


def goal_of(args: argparse.Namespace) -> Goal | None:
    """The goal of ``--offload`` or ``--lose``.

    Raises:
        ConfigError: it is out of range.
    """
    if args.offload is None and args.lose is None:
        return None
    from smartedge.inference.calibrating import Goal

    if args.offload is not None:
        return Goal(offload=args.offload)
    if not 0 <= args.lose <= 100:
        raise ConfigError(f"--lose {args.lose}: give percentage points, 0 to 100")
    return Goal(lose=args.lose / 100)


def run(args: argparse.Namespace) -> int:
    """Answer every image that can be read; exit code 3 where one cannot."""
    if not args.model.exists():
        raise RunError(f"{args.model}: is not there; give a run directory, or a front bundle of 'smartedge export'")
    if _is_front(args.model):
        return_freed_memory()
    from smartedge.inference.answering import BATCH, check_threshold

    if args.bundle is not None and args.connect is None and not _is_front(args.model):
        raise ConfigError("--bundle: only with --connect HOST:PORT; without a server nothing leaves this machine")
    if bool(args.images) == (args.source is not None):
        raise ConfigError("give either images or --source")
    if args.threshold is not None:
        check_threshold(args.threshold)
    goal = goal_of(args)
    prepared = _PublishedModel(args) if _is_front(args.model) else _RunModel(args)
    _refuse_unreadable(args, prepared.data)
    readable = unreadable = by_back = 0
    # A camera is watched until somebody stops it. Given images, or waiting for a name, are interrupted at once.
    source = args.source is not None
    with stop_on_signals() as stop, stop.polled() if source and args.source != "-" else nullcontext():
        shown = _shown(args, prepared.data, stop)
        with prepared.answerer(args, goal) as answerer:
            for batch in _batches(shown, 1 if source else BATCH):
                good = [each for each in batch if each.pixels_CHW is not None]
                for each in batch:
                    if each.pixels_CHW is None:
                        _tell_unreadable(each)
                unreadable += len(batch) - len(good)
                if not good:
                    continue
                readable += len(good)
                answers = _answers(answerer, good)
                by_back += sum(given.by == "back" for given in answers)
                _print(args, answerer.front, good, answers)
    if not args.json:
        say(f"{by_back} of {readable} images went to the back")
    return DataError.exit_code if unreadable else 0


class _RunModel:
    """A run directory: torch runs its front."""

    def __init__(self, args: argparse.Namespace) -> None:
        from smartedge.inference.trained import TrainedRun

        if args.trust or args.unsigned or args.require or args.state:
            raise ConfigError(
                f"--trust, --unsigned, --require, --state: only for a front bundle; {args.model} holds no manifest.json"
            )
        self.run = TrainedRun.open(args.model)
        self.data = self.run.config.data

    def answerer(self, args: argparse.Namespace, goal: Goal | None) -> Answerer:
        """With the back of the run, where it is there and no server is named."""
        self.run.check_front()  # before torch is imported
        from smartedge.edge.protection import open_gate
        from smartedge.inference.answering import Answerer
        from smartedge.inference.trained import TorchFront

        front, run = TorchFront(self.run), self.run
        calibration, threshold = None, _THRESHOLD if args.threshold is None else args.threshold
        if goal is not None:
            from smartedge.inference.run_calibration import calibration_of

            calibration = calibration_of(run, front)
            threshold = goal.threshold(calibration)
        back = _back(self.run) if args.connect is None and threshold > 0 else None
        server = _server(run.config, args)
        gate = None
        if server is not None:
            gate = open_gate(run.config, run.folder / "edge", None, front.mechanism, None, existing=True)
        temperature = 1.0 if calibration is None else calibration.temperature
        return Answerer(
            front, threshold=threshold, temperature=temperature, back=back, server=server, gate=gate, tell=_tell
        )


class _PublishedModel:
    """A front bundle: ONNX Runtime runs its front."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.published = open_published(args.model, args, labels_sent=False)
        self.data = self.published.config.data

    def answerer(self, args: argparse.Namespace, goal: Goal | None) -> Answerer:
        """With a server, or with the exit alone."""
        from smartedge.edge.protection import open_gate
        from smartedge.files import private_folder
        from smartedge.fronts.runtime import OnnxFront
        from smartedge.inference.answering import Answerer

        published = self.published
        front, calibration = OnnxFront(published), published.manifest.calibration
        threshold = published.manifest.threshold if args.threshold is None else args.threshold
        if goal is not None:
            if calibration is None:
                raise ConfigError(
                    "--offload, --lose: the front was published without calibration; publish it again where its "
                    "validation images are, or give --threshold"
                )
            threshold = goal.threshold(calibration)
        server, gate = _server(published.config, args), None
        if server is not None:
            state = args.state or args.model.with_name(f"{args.model.name}.state")
            private_folder(state)
            existing = (state / "noise.key").exists() or (state / "ledger.sqlite").exists()
            gate = open_gate(published.config, state, None, front.mechanism, None, existing=existing)
        temperature = 1.0 if calibration is None else calibration.temperature
        return Answerer(front, threshold=threshold, temperature=temperature, server=server, gate=gate, tell=_tell)


def _is_front(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def _back(run: TrainedRun) -> Back | None:
    """The run's back; None where the cloud's folder is not there."""
    from smartedge.inference.backs import LocalBack

    if not (run.folder / "cloud").exists():
        _tell(f"{run.folder} has no cloud/, so the exit answers every image")
        return None
    return LocalBack(run)


def _server(config: Config, args: argparse.Namespace) -> FrameSender | None:
    """The link to the server, where one is named. A server that is not there is asked again later."""
    from smartedge.fleet.bundle import open_bundle
    from smartedge.launch.links import link_to

    if args.connect is None:
        return None
    patience = min(_CONNECT_S, config.link.connect_timeout)  # an image waits meanwhile
    link = config.link.model_copy(update={"connect_timeout": patience})
    bundle = None if args.bundle is None else open_bundle(args.bundle)
    return link_to(config.model_copy(update={"link": link}), args.connect, bundle, _tell)


def _shown(args: argparse.Namespace, data: DataConfig, stop: threading.Event | None) -> Iterator[SourceImage]:
    from smartedge.inference.sources import SourceImage, open_source

    if args.source is None:
        return (SourceImage.of(name, Path(name), data.image_size, data.fit) for name in args.images)
    assert stop is not None
    if args.source == "-" and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files may hold any bytes
    more = {"every": args.every, "once": args.once, "lines": sys.stdin, "tell": _tell}
    return open_source(args.source, data.image_size, stop, fit=data.fit, **more)


def _batches(shown: Iterator[SourceImage], size: int) -> Iterator[list[SourceImage]]:
    while batch := list(itertools.islice(shown, size)):
        yield batch


def _answers(answerer: Answerer, shown: list[SourceImage]) -> list[Answer]:
    import numpy as np

    return answerer.answer(np.stack([each.pixels_CHW for each in shown if each.pixels_CHW is not None]))


def _print(args: argparse.Namespace, front: Front, shown: list[SourceImage], answers: list[Answer]) -> None:
    names = [plain(each.name) for each in shown]  # of files that anybody may have named
    width = max(map(len, names))
    for each, name, given in zip(shown, names, answers, strict=True):
        label, sure = given.text(front.task)
        if args.json:
            scores = dict(zip(front.task.names, map(float, given.scores_K), strict=True))
            found = {"image": each.name, "answer": label, "confidence": sure, "by": given.by, "scores": scores}
            say(json.dumps(found))
        else:
            note = f"   (exit was {100 * given.confidence:.1f} % sure)" if given.by == "back" else ""
            say(f"{name:<{width}}   {plain(label)}   {100 * sure:.1f} %   {given.by}{note}")


def _refuse_unreadable(args: argparse.Namespace, data: DataConfig) -> None:
    """End here where none of the given images can be read, since a network takes seconds to build."""
    if args.source is not None:
        return
    unreadable = []
    for each in _shown(args, data, None):
        if each.pixels_CHW is not None:
            return
        unreadable.append(each)
    for each in unreadable:
        _tell_unreadable(each)
    raise DataError("none of the images can be read")


def _tell_unreadable(each: SourceImage) -> None:
    _tell(f"{each.name}: {each.problem}; left out")


def _tell(text: str) -> None:
    say(text, file=sys.stderr)


def _percent(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share such as 10% or 0.1")
    return share
