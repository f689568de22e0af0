"""Files of the cloud in a run of several edges: its start, the journal of the order, the snapshot, figures of edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from smartedge.artifacts.base import Artifact, CheckedArtifact, Part, json_checksum
from smartedge.artifacts.results import Figures

__all__ = ["CloudStart", "EdgeFigures", "FleetFigures", "OrderLine", "Snapshot"]

_NEW = "start a new run in another run_dir"


class OrderLine(Part):
    """One line of ``cloud/order.jsonl``: ``joined``, ``frames``, ``evaluated``, ``quarantined`` or ``closed``."""

    check: int = Field(description="CRC-32 of the line without this field")
    joined: str | None = Field(None, description="an edge that takes part from here on")
    frames: tuple[tuple[str, int], ...] | None = Field(
        None, description="edge and number of the frames that are mixed and learned from next"
    )
    evaluated: tuple[str, int, int] | None = Field(
        None, description="edge, and the first and last frame, that are evaluated next"
    )
    capped: tuple[str, ...] | None = Field(
        None, description="edges of which only the share `fleet.max_influence` of the images is learned from"
    )
    quarantined: tuple[str, int] | None = Field(
        None,
        description="training failed on this frame of this edge: from it on, no frame of the edge is used, in earlier "
        "lines neither",
    )
    closed: bool | None = Field(None, description="true: nothing more is learned from")


class CloudStart(CheckedArtifact):
    """``cloud/start.json``: when the cloud of the run was started first. `fleet.deadline` counts from there."""

    missing: ClassVar[str] = "the cloud writes it where `fleet.deadline` is set"
    remedy: ClassVar[str] = "remove it: `fleet.deadline` then counts from the next start of the cloud"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    started: float = Field(description="seconds since 1970, by the clock of the cloud's machine")


class Snapshot(Artifact):
    """``cloud/snapshot.json``: what the store held when training began (schedule ``freeze-and-log``)."""

    missing: ClassVar[str] = "the cloud writes it when all edges have sent everything"
    remedy: ClassVar[str] = _NEW
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[2] = 2
    check: int = Field(description="CRC-32 of `frames`, as JSON with sorted keys")
    frames: dict[str, int] = Field(description="edge → number of its frames that are used, from 0 on")

    @classmethod
    def of(cls, frames: Mapping[str, int]) -> Self:
        """The snapshot of so many frames of each edge."""
        return cls(check=json_checksum(dict(frames)), frames=dict(frames))

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """A damaged number would leave out frames in silence."""
        if self.check != json_checksum(self.frames):
            raise ValueError("the numbers are not those that were written")
        return self


class EdgeFigures(Part):
    """The cloud's figures of one edge."""

    cut: str = Field(description="where its front ends")
    frames: int = Field(description="frames in its log")
    images: int = Field(description="images that it sent, since the cloud was started")
    bytes: int = Field(description="size of its log")
    learned: int = Field(description="frames that the back has learned from or was evaluated on")
    lag: int = Field(description="frames that wait to be used")
    gaps: int = Field(description="frames that a link without a way back did not bring")
    refused: int = Field(description="streams and frames that were refused, since the cloud was started")
    closed: bool = Field(description="whether it has sent everything")
    quarantined: int | None = Field(description="the frame on which training failed; null: none")
    capped: bool = Field(description="whether only the share `fleet.max_influence` of its images is learned from")
    loss: float | None = Field(description="mean training loss on its images, of late; null: not known")
    outlier: float | None = Field(
        description="how far its features lie from those of the other edges, in robust standard deviations; null: "
        "there are fewer than three edges"
    )
    drift: float | None = Field(
        description="how far the mean of its features moved since its first frames, divided by how far the median "
        "edge's moved; null: there are fewer than three edges"
    )
    test: Figures | None = Field(description="of the back on the test images that it sent")


class FleetFigures(Artifact):
    """``cloud/fleet.json``: the cloud's figures of each edge."""

    missing: ClassVar[str] = "the cloud writes it in a run of several edges (fleet.expect)"
    remedy: ClassVar[str] = "continue the run with --resume"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    complete: bool = Field(description="whether the run is complete")
    model: str = Field(description="the network")
    schedule: str = Field(description="the schedule")
    epsilon: float | None = Field(
        description="`dp.epsilon` of the settings: the budget of an image; null: none is set, or it is of each number "
        "of a feature map alone (`dp.granularity: element`)"
    )
    delta: float | None = Field(default=None, description="`dp.delta` of the settings; null: as `epsilon`")
    label_epsilon: float | None = Field(description="`dp.label_epsilon` of the settings; null: labels travel in clear")
    jain: float | None = Field(
        description="Jain's index of the shares of their frames that the back has used: 1 where all edges are equally "
        "far, 1/n where one of n had everything; null: no frame was used"
    )
    edges: dict[str, EdgeFigures] = Field(description="edge → its figures")
