"""Internal files of a run.

The two sides of a run write these files, and only `smartedge` reads them. `results.json`
([results-schema.md](results-schema.md)) is put together from them. A file of an unknown version is refused.

## `run.json`

Where and how the run was started.

[table of RunFacts]

## `shared/run.json`

The facts that a server needs to answer for the run. This is the only part of the edge's run directory that may travel:
nothing in it was computed from images. Of the labels it holds how many classes there are: their names, which may be
names of people, stay in `edge/summary.json`. A file of an earlier version holds them. The edge writes it when its part
of the run ends. The run directory of the cloud does not need it: there `smartedge serve` reads what the edges said when
they connected.

[table of SharedRun]

## `edge/run.json`

Which run the edge's folder belongs to.

[table of EdgeRun]

## `edge/confirmed.json`

A checkpoint of the edge counts once every frame that was released before it is durable: in the edge's spool, or, where
there is no spool, in the cloud, which has confirmed it.

[table of Confirmed]

## `edge/shipped.json`

How far the cloud has confirmed the frames of the spool, and what the link carried for it. The files of the spool itself
are described in [store.md](store.md).

[table of Shipped]

`traffic`, here and in the edge's summary:

[table of TrafficTotals]

## `edge/progress.json`, `cloud/progress.json`

How far a side is, for `smartedge watch`. Nothing else reads it, and it is not synced to the disk.

[table of SideProgress]

The kinds of work, and the lines of the log:

[table of Work]

[table of News]

## `edge/summary.json`

The edge's figures of the run, written when it ends.

[table of EdgeSummary]

## `cloud/summary.json`

The cloud's figures of the run, written when it ends.

[table of CloudSummary]

Figures, and the blocks `privacy`, `task` and `reference_bytes`, are those of [results-schema.md](results-schema.md).

## `cloud/order.jsonl`

The journal of the order, in a run of several edges with schedule `joint` or `two-stage`. A line is written, and on the
disk, before the cloud does what it says. A resumed run follows it.

[table of OrderLine]

## `cloud/start.json`

Where `fleet.deadline` is set: when the run's cloud was started first. A cloud that is resumed keeps its deadline.

[table of CloudStart]

## `cloud/snapshot.json`

In a run of several edges with schedule `freeze-and-log`: the frames from which the back is trained.

[table of Snapshot]

## `manifest.json` of a copy of a store

What a copy of the store holds (`smartedge log RUN --to URL`, [store.md](store.md)). It lies where the copy lies.

[table of StoreCopy]

The log of an edge, and a segment of it:

[table of CopiedLog]

[table of CopiedSegment]

## `cloud/fleet.json`

The cloud's figures of each edge, in a run of several edges, written when the cloud ends.

[table of FleetFigures]

An edge:

[table of EdgeFigures]

## `state.json` of a checkpoint

The state without the tensors. Those are in `tensors.safetensors`, beside it.

[table of CheckpointState]
"""

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
