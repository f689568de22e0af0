"""Each side's figures, written when it ends: ``edge/summary.json``, ``cloud/summary.json``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part
from smartedge.artifacts.results import Distortion, Figures, Privacy, ReferenceBytes, WeightsFacts
from smartedge.artifacts.task import TaskFacts
from smartedge.errors import RunError

__all__ = ["CloudSummary", "EdgeSummary", "Session", "TrafficTotals", "has_finished", "refuse_unfinished"]

_MISSING = (
    "so this side of the run has not ended; where the sides ran on two machines, 'smartedge collect' on the edge "
    "brings the cloud's part"
)


class Session(Part):
    """One process of a run, from its start or resumption to its end."""

    started: float = Field(description="seconds since 1970")
    ended: float = Field(description="seconds since 1970")
    epochs: int = Field(description="epochs completed in this session")

    @classmethod
    def ending(cls, started: float, begun: float, epochs: int) -> Session:
        """The one that ends now. Its length does not change where the machine's clock is set meanwhile.

        Args:
            started: :func:`time.time` at its start.
            begun: :func:`time.monotonic` at its start.
            epochs: that it completed.
        """
        return cls(started=started, ended=started + time.monotonic() - begun, epochs=epochs)


class TrafficTotals(Part):
    """Counts of what the edge has sent so far, by split."""

    up: dict[str, int] = Field(description="split → bytes")
    down: dict[str, int] = Field(description="split → bytes")
    images: dict[str, int] = Field(description="split → images sent, every release counted")
    source: str = Field(description="where bytes are counted; empty where nothing was sent")
    release_seconds: float = Field(description="clip, ledger, noise")
    encode_seconds: float
    link_seconds: float
    codec_error: Distortion | None = Field(description="of the first frame of the latest training stream")


class _Summary(Artifact):
    """The figures that both sides have."""

    missing: ClassVar[str] = _MISSING
    remedy: ClassVar[str] = "end the run again with --resume, or start a new one"
    page: ClassVar[str] = "docs/run-files-schema.md"

    finished: bool = Field(description="whether the run was complete when this side ended")
    session: Session = Field(description="the last one, where the run was resumed")
    busy_seconds: float = Field(description="seconds of computing, in the whole run")
    test: Figures | None = Field(description="of this side's head on the test split; null where it has none")
    weights: WeightsFacts | None = Field(default=None, description="pretrained weights that its part began with")
    peak_rss_bytes: int | None = Field(description="largest resident set of the process; null where not known")


class EdgeSummary(_Summary):
    """``edge/summary.json``."""

    schema_version: Literal[1] = 1
    side: Literal["edge"] = "edge"
    threaded: bool = Field(description="whether frames were sent by a thread of their own")
    processor_seconds: float | None = Field(
        default=None,
        description="`busy_seconds` without the time in which other programs had the processor; null where the edge "
        "has a GPU, where the cloud is in the same process, and in early versions",
    )
    data_wait_seconds: float = Field(description="seconds in which the edge waited for images")
    data_busy_seconds: float = Field(description="seconds of reading and augmenting images")
    teacher_val: Figures | None = Field(description="of the undivided network of `train.distill` on validation images")
    traffic: TrafficTotals
    releases_per_image: int = Field(description="of a training image, at most")
    privacy: Privacy | None = Field(description="the ledger's figures; null where nothing was sent")
    feature_shape: tuple[int, ...] = Field(description="of what crosses the cut")
    reference_bytes: ReferenceBytes
    task: TaskFacts
    images: dict[str, int] = Field(description="split → number of images")
    skipped: dict[str, int] = Field(description="reason → number of images left out")
    notes: tuple[str, ...] = Field(description="notes about the data")
    baseline_rss_bytes: int = Field(description="resident set of the process before it trained")


class CloudSummary(_Summary):
    """``cloud/summary.json``."""

    schema_version: Literal[1] = 1
    side: Literal["cloud"] = "cloud"
    frames: int = Field(description="frames in the feature log")


def refuse_unfinished(run_dir: Path, *, sides: Sequence[str] = ("edge",)) -> None:
    """Refuse a run whose edge has not finished: its front will change.

    Args:
        run_dir: the run directory.
        sides: those whose folders are needed.

    Raises:
        RunError: it has not, or a folder is not there.
    """
    for side in sides:
        if not (run_dir / side).is_dir():
            raise RunError(
                f"{run_dir}: there is no {side}/; edge/ and cloud/ must be in one run directory, on the edge's "
                "machine: 'smartedge collect' brings cloud/ there"
            )
    if not has_finished(run_dir / "edge"):
        raise RunError(
            f"{run_dir}: the edge has not finished this run, so its front is not the one that will be used; finish it "
            "with --resume"
        )


def has_finished(folder: Path) -> bool:
    """Whether the side with this folder has completed its run; False where its summary cannot be read."""
    model = EdgeSummary if folder.name == "edge" else CloudSummary
    try:
        return model.read(folder / "summary.json").finished
    except RunError:
        return False
