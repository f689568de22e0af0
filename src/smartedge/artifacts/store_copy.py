"""What a copy of a store holds: ``manifest.json``, the last file that is written to it (docs/store.md)."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part
from smartedge.errors import LogError

__all__ = ["CopiedFile", "CopiedLog", "CopiedSegment", "StoreCopy"]


class CopiedFile(Part):
    """A file of the copy, whose content never changes."""

    bytes: int = Field(description="its size")
    sha256: str = Field(description="of its content, in hexadecimal")


class CopiedSegment(Part):
    """A segment of a log as far as it was durable: ``edges/EDGE/NUMBER-BYTES.frames`` and ``….index``."""

    number: int = Field(description="of the segment in its log")
    first_frame: int = Field(description="number of its first frame")
    bytes: int = Field(description="size of the segment, whose records have checksums of their own")
    index: CopiedFile = Field(description="the segment without the payloads of its frames")


class CopiedLog(Part):
    """The log of one edge."""

    log: str = Field(description="id of the log, in hexadecimal")
    generation: int = Field(description="of the watermark; it grows")
    frames: int = Field(description="number of the next frame to come")
    streams: int = Field(description="number of stream headers")
    headers: CopiedFile | None = Field(
        description="`edges/EDGE/BYTES.streams`: the stream headers; null: there are none"
    )
    segments: tuple[CopiedSegment, ...] = Field(description="in the order of their numbers")


class StoreCopy(Artifact):
    """``manifest.json`` of a copy of a store."""

    error: ClassVar = LogError
    missing: ClassVar[str] = "is it the address of a copy? 'smartedge log RUN --to URL' makes one"
    remedy: ClassVar[str] = "copy the store again, to an empty place"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    sha256: str = Field(description="of this file without this field")
    complete: bool = Field(description="whether nothing more comes into the store")
    edges: dict[str, CopiedLog] = Field(description="edge → its log")

    @classmethod
    def of(cls, edges: dict[str, CopiedLog], *, complete: bool) -> StoreCopy:
        """The manifest, with its checksum."""
        made = cls(sha256="", complete=complete, edges=edges)
        return made.model_copy(update={"sha256": made.checksum()})

    def checksum(self) -> str:
        """What :attr:`sha256` must be."""
        fields = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
