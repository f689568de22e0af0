"""What several verbs need of published fronts: whom to trust, what to require, and the calibration of a run's exit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.errors import ConfigError, RunError, SmartEdgeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smartedge.artifacts.front import Calibration
    from smartedge.fronts.bundle import PublishedFront
    from smartedge.inference.trained import TorchFront, TrainedRun
    from smartedge.types import Labels

__all__ = ["add_trust_arguments", "calibration_of", "open_published"]


def add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose fronts are used, and what they must meet."""
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--trust", metavar="FILE", type=Path, help="the key that fronts are checked with: front.pub of the fleet"
    )
    whose.add_argument("--unsigned", action="store_true", help="accept a front whose publisher cannot be checked")
    parser.add_argument(
        "--require",
        metavar="CONDITION",
        action="append",
        default=[],
        help="refuse a front that does not meet it: 'certificate<=70%%', 'attack<=75%%', 'certificate.Male<=70%%', "
        "'epsilon<=8' or 'version>=3'; may be repeated",
    )


def open_published(folder: Path, args: argparse.Namespace, *, labels_sent: bool) -> PublishedFront:
    """Open a front bundle, and check it as the arguments say: by the fleet's key in ``--bundle``, or by ``--trust``.

    Raises:
        ConfigError: nothing says whom to trust.
        FrontError: the bundle does not pass.
    """
    from smartedge.fleet.bundle import open_bundle
    from smartedge.fleet.signing import read_trust_key
    from smartedge.fronts.bundle import open_front
    from smartedge.fronts.requirements import Requirement

    require = [Requirement.parse(text) for text in args.require]
    trust: str | None = None
    if args.trust is not None:
        trust = read_trust_key(args.trust)
    elif args.unsigned:
        print(f"{folder}: who published this front is not checked (--unsigned)", file=sys.stderr)
    elif args.bundle is not None:
        trust = open_bundle(args.bundle).front_key
    else:
        raise ConfigError(
            f"{folder}: who may publish fronts for this edge? Give --bundle FILE of its fleet, --trust front.pub, or "
            "--unsigned"
        )
    return open_front(folder, trust=trust, require=require, labels_sent=labels_sent)


def calibration_of(run: TrainedRun, front: TorchFront) -> Calibration:
    """The calibration of a run's exit: from ``edge/calibration.json``, or made now from the validation images.

    Raises:
        SmartEdgeError: the validation images cannot be opened.
    """
    from smartedge.artifacts.front import RunCalibration
    from smartedge.inference.backs import LocalBack
    from smartedge.inference.calibrating import calibrate
    from smartedge.privacy.noise import Noise
    from smartedge.runs.checkpoint import back_weights

    file = run.folder / "edge" / "calibration.json"
    has_back = back_weights(run.folder / "cloud", run.config.model.cut).exists()
    known = RunCalibration.read_if_there(file)
    if known is not None and (known.calibration.back_accuracy is not None or not has_back):
        return known.calibration
    found = calibrate(
        front,
        _validation(run),
        noise=Noise.open(run.folder / "edge" / "noise.key", existing=True),
        protected=run.config.dp.apply_to == "always",
        back=LocalBack(run) if has_back else None,
    )
    RunCalibration(calibration=found).write(file)
    return found


def _validation(run: TrainedRun) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    import numpy as np

    from smartedge.datasets import dataset_of
    from smartedge.inference.answering import BATCH

    if not (run.folder / "config.yaml").exists():
        raise RunError(f"{run.folder}: has no config.yaml, so its validation images are not known; give --threshold")
    try:
        split = dataset_of(run.config).splits["val"]
    except SmartEdgeError as error:
        raise type(error)(
            f"the run's validation images, which calibrate its exit, cannot be opened: {error}"
        ) from error
    for start in range(0, len(split), BATCH):
        batch = split.read(np.arange(start, min(start + BATCH, len(split))))
        yield batch.images_BCHW.numpy(), batch.labels.numpy()
