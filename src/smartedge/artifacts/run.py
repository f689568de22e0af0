"""What the two sides of a run write for themselves and for each other.

These files are read by `smartedge` alone: `results.json` ([results-schema.md](results-schema.md)) is put together from
them. A file of an unknown version is refused.

## `run.json`

Where and how the run was started.

[table of RunFacts]

## `shared/run.json`

The part of the edge's run directory that may travel: what a server needs to answer for the run. It holds nothing that
was computed from images or labels. The edge writes it when its part of the run ends.

[table of SharedRun]

## `edge/run.json`

Which run the edge's folder belongs to.

[table of EdgeRun]

## `edge/confirmed.json`

A checkpoint of the edge counts once the cloud has confirmed that it holds every frame that was sent before it.

[table of Confirmed]

`traffic`, here and in the edge's summary:

[table of TrafficTotals]

## `edge/summary.json`

What the edge says of the run when it ends.

[table of EdgeSummary]

## `cloud/summary.json`

What the cloud says of the run when it ends.

[table of CloudSummary]

Figures, and the blocks `privacy`, `task` and `reference_bytes`, are those of [results-schema.md](results-schema.md).

## `state.json` of a checkpoint

All of the state but the tensors, which lie beside it in `tensors.safetensors`.

[table of CheckpointState]
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from smartedge.artifacts.base import Artifact
from smartedge.artifacts.results import MachineFacts, TaskFacts
from smartedge.artifacts.summary import TrafficTotals

__all__ = ["Confirmed", "EdgeRun", "RunFacts", "SharedRun"]

_NEW = "start a new run in another run_dir"


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


class SharedRun(Artifact):
    """``shared/run.json``: what a server needs to answer for a run. It may travel: nothing in it comes from labels."""

    missing: ClassVar[str] = (
        "the edge writes it when its part of the run ends: finish the run first ('smartedge train --resume'); on "
        "another machine, copy the folder shared/ of the edge's run directory there"
    )
    remedy: ClassVar[str] = "copy the folder shared/ of the edge's run directory again"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    settings: dict[str, JsonValue] = Field(
        description="those on which edge and cloud agree; what is hidden, and where data lie, is not among them"
    )
    task: TaskFacts = Field(description="as in `results.json`")
    feature_shape: tuple[int, ...] = Field(description="of what crosses the cut")


class EdgeRun(Artifact):
    """``edge/run.json``: which run the edge's folder belongs to."""

    missing: ClassVar[str] = "the edge has not begun"
    remedy: ClassVar[str] = _NEW
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    run: str = Field(description="identifies the run; the ledger and the cloud's log hold the same")
    data: str = Field(description="fingerprint of the images' ids and labels: a resumed run must have the same")


class Confirmed(Artifact):
    """``edge/confirmed.json``: up to where the cloud has confirmed what the edge sent."""

    missing: ClassVar[str] = "no checkpoint was confirmed yet"
    remedy: ClassVar[str] = _NEW
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    checkpoint: int = Field(description="the newest checkpoint before which the cloud holds every frame")
    traffic: TrafficTotals = Field(description="what was sent up to then")
