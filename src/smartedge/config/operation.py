"""The sections of a settings file about where and how a run is carried out: link, fleet, disks, processes, devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smartedge.config.section import Section
from smartedge.config.sections import PositiveInt

__all__ = ["CloudConfig", "FleetConfig", "HardwareConfig", "LinkConfig", "SpoolConfig", "StoreConfig"]


class LinkConfig(Section):
    """The connection between edge and cloud. The address that the edge connects to says of which kind it is."""

    queue_frames: int = Field(8, ge=1, le=1024, description="frames that may wait for the link before the edge waits")
    max_lead_frames: int = Field(
        4096, ge=1, description="frames by which the log may be ahead of training in the cloud's own process"
    )
    connect_timeout: float = Field(30.0, gt=0, description="seconds that one attempt to reach the cloud may take")
    token_file: Path | None = Field(None, description="a file; its first line is the token, the same on both sides")
    tls_cert: Path | None = Field(None, description="this side's certificate (PEM)")
    tls_key: Path | None = Field(None, description="its private key (PEM)")
    tls_ca: Path | None = Field(None, description="certificates that check the other side's certificate (PEM)")
    insecure: bool = Field(False, description="allow listening beyond this machine without TLS and token")
    simplex_rate: float = Field(
        1e6, gt=0, description="on a link without a way back (udp://): bits per second that it carries"
    )
    simplex_loss: float = Field(
        0.1, ge=0, lt=1, description="on a link without a way back: share of the datagrams that it may lose"
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_is_in_the_address(cls, given: object) -> object:
        if isinstance(given, Mapping) and "kind" in given:
            raise ValueError(
                "kind: remove it; the address says what kind of link it is: smartedge edge --connect HOST:PORT (gRPC), "
                "nats://HOST:PORT/STREAM (JetStream, taken in by 'smartedge ingest'), udp://HOST:PORT (no way back)"
            )
        return given


class FleetConfig(Section):
    """Several edges in one run. Only the cloud uses these settings. docs/fleet.md explains them."""

    expect: PositiveInt | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        1,
        description="edges that the run waits for: how many, or a list of names; null: any number, until the deadline "
        "or 'smartedge close'",
    )
    cuts: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        None,
        description="where edges have different model.cut: all of them, in the order of the network; the back begins "
        "at the first one; each edge sets its own model.cut. Default: all have the same",
    )
    logit_adjustment: bool = Field(
        True,
        description="whether the back's answers are corrected, in training, for how often each edge sends each label; "
        "without it the back learns to answer by the edge where labels are skewed",
    )
    deadline: float | None = Field(
        None,
        gt=0,
        description="hours after the cloud's first start; then it takes in nothing more, and trains with what has "
        "come. A resumed cloud keeps its deadline. Default: none",
    )
    mix: int = Field(
        8,
        ge=1,
        le=256,
        description="frames, of different edges where possible, whose images are shuffled together and learned from in "
        "as many steps",
    )
    patience: float = Field(
        5.0, gt=0, description="seconds that the cloud waits for an edge that has nothing to give, before it goes on"
    )
    farewell: float = Field(
        1.0,
        ge=0,
        description="hours for which a cloud that is done waits for edges that were killed before they heard that "
        "everything arrived; the results are written before",
    )
    max_influence: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the images that is learned from where an edge's training loss is an outlier; 0: none; "
        "default: all, and outliers are reported. Not with schedule 'freeze-and-log'",
    )


class SpoolConfig(Section):
    """The edge's outbox on disk. What was released waits there until the cloud has confirmed it."""

    max_bytes: int | None = Field(None, ge=2**16, description="bytes that it may take; default: what the disk holds")
    when_full: Literal["block", "stop"] = Field(
        "block",
        description="block: training waits until the cloud has confirmed more; stop: the run ends with an error",
    )


class StoreConfig(Section):
    """The cloud's logs of accepted frames, one for each edge."""

    keep: Literal["all", "unconsumed"] = Field(
        "all",
        description="unconsumed: frames that no resumed run needs are dropped; then there is nothing to audit",
    )
    max_bytes: int | None = Field(
        None, ge=2**16, description="bytes that the log of one edge may take; default: what the disk holds"
    )


class CloudConfig(Section):
    """The processes that train the back. docs/workers.md explains them."""

    workers: int = Field(
        1,
        ge=0,
        le=256,
        description="processes that train the back; 1: the cloud's own process; 0: the cloud only takes frames in, and "
        "you start workers with torchrun",
    )
    shards: PositiveInt = Field(
        1,
        le=1024,
        description="parts of each step that one worker or several compute, and that are added in their order; batch "
        "normalisation is per part, so this changes the result (the number of workers does not)",
    )


class HardwareConfig(Section):
    """The device and threads of each side."""

    edge_device: str = Field("auto", description="cpu, cuda, mps or auto")
    cloud_device: str = Field("auto", description="cpu, cuda, mps or auto")
    threads: PositiveInt | None = Field(
        None, description="CPU threads of each process; default: half of this machine's cores"
    )
