"""Internal files of a run. ``docs/run-files-schema.md`` explains them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from smartedge.artifacts.base import Artifact, CheckedArtifact, Part
from smartedge.artifacts.results import MachineFacts
from smartedge.artifacts.summary import TrafficTotals
from smartedge.artifacts.task import TaskFacts

__all__ = ["Confirmed", "EdgeRun", "RunFacts", "SharedRun", "Shipped", "Speed"]

_NEW = "start a new run in another run_dir"


class Speed(Part):
    """What was measured for settings that are ``auto``, and what was chosen."""

    precision: str = Field(description="`train.precision` of the run")
    channels_last: bool = Field(description="`train.channels_last` of the run")
    seconds: dict[str, float] = Field(description="way → seconds of its fastest training step of the undivided network")
    threads: int = Field(description="with so many CPU threads")


class RunFacts(Artifact):
    """``run.json``: where and how a run was started."""

    missing: ClassVar[str] = "this is no run directory; start a run with 'smartedge train'"
    remedy: ClassVar[str] = _NEW
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    machine: MachineFacts = Field(description="name → value; names that end in `_bytes` are sizes")
    versions: dict[str, str] = Field(description="package → version")
    started: str = Field(description="ISO 8601")
    command: str = Field(description="runs it again")
    speed: Speed | None = Field(
        default=None,
        description="what `auto` in `train` was measured with: `precision` and `channels_last` that were chosen, "
        "`seconds` of a step in each way, `threads`; null: nothing was `auto`. `config.yaml` has what was chosen",
    )


class SharedRun(Artifact):
    """``shared/run.json``: what a server needs to answer for a run. Of labels it has only the number of classes."""

    missing: ClassVar[str] = (
        "the edge writes it when its part of the run ends: finish the run first ('smartedge train --resume'); on a "
        "machine where neither side has run, copy the folder shared/ of the edge's run directory there"
    )
    remedy: ClassVar[str] = "copy the folder shared/ of the edge's run directory again"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    settings: dict[str, JsonValue] = Field(
        description="those on which edge and cloud must agree; sensitive columns and paths of data are not among them"
    )
    task: TaskFacts = Field(description="as in `results.json`, with numbers for the names of classes")
    feature_shape: tuple[int, ...] = Field(description="of what crosses the cut")


class EdgeRun(Artifact):
    """``edge/run.json``: which run the edge's folder belongs to."""

    missing: ClassVar[str] = "the edge has not begun"
    remedy: ClassVar[str] = _NEW
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    run: str = Field(description="identifies the run; the ledger and the cloud's log hold the same")
    data: str = Field(description="fingerprint of the images' ids and labels; a resumed run must have the same one")


class Confirmed(CheckedArtifact):
    """``edge/confirmed.json``: the newest checkpoint whose frames are durable."""

    missing: ClassVar[str] = "no checkpoint was confirmed yet"
    remedy: ClassVar[str] = _NEW
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[3] = 3
    checkpoint: int = Field(description="the newest checkpoint before which every frame is durable")
    spooled: bool = Field(description="the frames are in the spool; false: the cloud has confirmed them")
    traffic: TrafficTotals = Field(description="counts of what was sent until then")


class Shipped(CheckedArtifact):
    """``edge/shipped.json``: how far the cloud has confirmed the frames of the spool."""

    missing: ClassVar[str] = "nothing was sent yet"
    remedy: ClassVar[str] = "remove it: the edge asks the cloud then"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[3] = 3
    confirmed: int = Field(description="the cloud holds every frame before this number")
    ended: int = Field(description="the cloud has heard of the end of every stream before this frame")
    up: dict[str, int] = Field(description="split → bytes")
    down: dict[str, int] = Field(description="split → bytes")
    source: str = Field(description="where bytes are counted")
