"""Copies a store to another place, for example an object store: ``smartedge log RUN --to URL`` (docs/store.md).

Files of the copy never change. What was durable is copied up to the watermark, and the manifest is written last. So
a reader of the copy sees a whole state of the store, the last one or the one before it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from smartedge.artifacts.store_copy import CopiedFile, CopiedLog, CopiedSegment, StoreCopy
from smartedge.artifacts.summary import has_finished
from smartedge.cloud.store.copied import MANIFEST, headers_name, manifest_of, segment_names
from smartedge.cloud.store.feature_log import edges_of, log_folder
from smartedge.cloud.store.marks import is_complete
from smartedge.cloud.store.remote import Remote
from smartedge.errors import LogError
from smartedge.framelog.durable import DurableLog, DurableSegment

__all__ = ["Copied", "copy_store"]


class Copied(NamedTuple):
    """What the copy holds now."""

    edges: int
    frames: int
    new_bytes: int  # that were written for it
    complete: bool  # nothing more comes into the store


def copy_store(cloud: Path, remote: Remote) -> Copied:
    """Copy what is durable in the store of a run, and not yet in the copy.

    Every record is checked on the way. The store may grow meanwhile.

    Args:
        cloud: the cloud's folder of the run.
        remote: the place of the copy; made where it is missing.

    Raises:
        LogError: a record of the store is damaged, the place holds the copy of another store or of a later state, or it
            cannot be written.
    """
    old = manifest_of(remote)
    complete = is_complete(cloud) or has_finished(cloud)  # looked at first: what came before it is then copied
    copier = _Copier(remote)
    known = {} if old is None else old.edges
    edges = {}
    for edge in edges_of(cloud):
        edges[edge] = copier.copy(DurableLog(log_folder(cloud, edge), edge), known.get(edge))
    if lost := sorted(known.keys() - edges.keys()):
        raise LogError(
            f"{remote.url}: holds a copy of the edges {', '.join(lost)}, which this store does not; copy to an empty "
            "place"
        )
    new = StoreCopy.of(edges, complete=complete)
    if new != old:
        remote.write(MANIFEST, new.model_dump_json().encode())
    return Copied(len(edges), sum(log.frames for log in edges.values()), copier.written, complete)


class _Copier:
    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.written = 0  # bytes

    def copy(self, log: DurableLog, known: CopiedLog | None) -> CopiedLog:
        """Copy the log of an edge; returns what the manifest says of it."""
        mark = log.mark
        if known is not None and (known.log != mark.log.hex() or known.frames > mark.frames):
            raise LogError(
                f"{self._remote.url}: holds the copy of another log of edge {log.edge!r}, or of a later state of it; "
                "copy to an empty place"
            )
        there = {} if known is None else {(each.number, each.bytes): each for each in known.segments}
        segments = []
        for segment in log.segments():
            copied = there.get((segment.number, segment.size))
            segments.append(copied or self._segment(log, segment))
        headers = known.headers if known is not None and known.streams == mark.streams else self._headers(log)
        return CopiedLog(
            log=mark.log.hex(),
            generation=mark.generation,
            frames=mark.frames,
            streams=mark.streams,
            headers=headers,
            segments=tuple(segments),
        )

    def _segment(self, log: DurableLog, segment: DurableSegment) -> CopiedSegment:
        name, index_name = segment_names(log.edge, segment.number, segment.size)
        whole, index = bytearray(), bytearray()
        for begin, payload in log.records(segment):
            whole += begin + payload
            index += begin
        self._remote.write(name, bytes(whole))
        self._remote.write(index_name, bytes(index))
        self.written += segment.size + len(index)
        return CopiedSegment(
            number=segment.number,
            first_frame=segment.first_seq,
            bytes=segment.size,
            index=_file(bytes(index)),
        )

    def _headers(self, log: DurableLog) -> CopiedFile | None:
        data = log.headers()
        if not data:
            return None
        self._remote.write(headers_name(log.edge, len(data)), data)
        self.written += len(data)
        return _file(data)


def _file(data: bytes) -> CopiedFile:
    return CopiedFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
