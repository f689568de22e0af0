"""The calibration of a run's exit, made once from the run's own validation images and kept beside its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from smartedge.artifacts.front import Calibration, RunCalibration
from smartedge.cloud.files_for_edges import back_weights
from smartedge.errors import RunError, SmartEdgeError
from smartedge.inference.answering import BATCH
from smartedge.inference.backs import LocalBack
from smartedge.inference.calibrating import calibrate
from smartedge.inference.trained import TorchFront, TrainedRun
from smartedge.launch.datasets import dataset_of
from smartedge.privacy.noise import Noise
from smartedge.types import Labels

__all__ = ["calibration_of"]


def calibration_of(run: TrainedRun, front: TorchFront) -> Calibration:
    """The calibration of a run's exit: from ``edge/calibration.json``, or made now from the validation images.

    It is made again where it lacks the back's accuracy and the back is there by now.

    Args:
        run: a finished run, with its edge's folder.
        front: of this run.

    Raises:
        RunError: ``config.yaml``, which names the validation images, is not there.
        SmartEdgeError: the validation images cannot be opened.
    """
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
    with suppress(OSError):  # of a run that can only be read, it is made again each time
        RunCalibration(calibration=found).write(file)
    return found


def _validation(run: TrainedRun) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    """The validation images of a run, uint8 (B, 3, H, W), and their desired labels."""
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
