"""``state.json`` of a checkpoint: its state without the tensors. Those are in ``tensors.safetensors``, beside it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from smartedge.artifacts.base import Artifact

__all__ = ["CheckpointState"]


class CheckpointState(Artifact):
    """``checkpoints/N/state.json``."""

    missing: ClassVar[str] = "it belongs to a checkpoint"  # Checkpoints.load says what to do: that differs by side
    remedy: ClassVar[str] = "it belongs to a checkpoint"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[2] = 2
    check: int = Field(description="CRC-32 of `tree`, as JSON with sorted keys, followed by `tensors.safetensors`")
    tree: JsonValue = Field(
        description='nested: `{"map": [[key, value], …]}`, `{"list": [value, …]}`, `{"__tensor__": name}` for a tensor '
        "in `tensors.safetensors`, or a number, string, boolean or null"
    )
