"""Reads a store from a copy of it, for example in an object store, without a copy on this machine (docs/store.md).

The indexes, which hold all but the payloads, are fetched when they are new, and stay in memory. A frame is fetched when
it is read, and its checksum is checked then.
"""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

from smartedge.artifacts.store_copy import CopiedFile, CopiedLog, CopiedSegment, StoreCopy
from smartedge.cloud.store.feature_log import FeatureReader
from smartedge.cloud.store.remote import Remote
from smartedge.errors import LogError
from smartedge.framelog.index import Index, Place
from smartedge.framelog.reader import STREAMS_NUMBER
from smartedge.framelog.records import (
    FILE_HEADER_BYTES,
    FRAME,
    GAP,
    RECORD_HEADER_BYTES,
    FileHeader,
    Record,
)

__all__ = ["MANIFEST", "CopiedReader", "CopiedStore", "headers_name", "manifest_of", "segment_names"]

MANIFEST = "manifest.json"
_AGAIN = "copy the store again, to an empty place ('smartedge log RUN --to URL')"


def segment_names(edge: str, number: int, size: int) -> tuple[str, str]:
    """The names of a segment of so many bytes, and of its index."""
    name = f"edges/{edge}/{number:06d}-{size}"
    return f"{name}.frames", f"{name}.index"


def headers_name(edge: str, size: int) -> str:
    """The name of the stream headers of an edge, which have so many bytes."""
    return f"edges/{edge}/{size}.streams"


def manifest_of(remote: Remote) -> StoreCopy | None:
    """The manifest of a copy; None where there is none.

    Raises:
        LogError: it cannot be read, or is damaged.
    """
    data = remote.read(MANIFEST)
    if data is None:
        return None
    found = StoreCopy.parse(data, f"{remote.url}/{MANIFEST}")
    if found.sha256 != found.checksum():
        raise LogError(f"{remote.url}/{MANIFEST}: is damaged: its checksum is wrong; {_AGAIN}")
    return found


class CopiedStore:
    """A copy of a store. :meth:`refresh` finds what was copied since.

    Args:
        remote: the place of the copy.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._manifest: StoreCopy | None = None

    @property
    def where(self) -> str:
        """Its address."""
        return self._remote.url

    @property
    def complete(self) -> bool:
        """Whether nothing more comes into the store."""
        return self._manifest is not None and self._manifest.complete

    @property
    def edges(self) -> list[str]:
        """The edges of which the copy holds a log."""
        return [] if self._manifest is None else sorted(self._manifest.edges)

    def refresh(self) -> None:
        """Look at the manifest again.

        Raises:
            LogError: it is not there, cannot be read, or is damaged.
        """
        found = manifest_of(self._remote)
        if found is None:
            raise LogError(f"{self._remote.url}/{MANIFEST}: is not there; {StoreCopy.missing}")
        self._manifest = found

    def reader(self, edge: str) -> CopiedReader:
        """The log of an edge, which must be one of :attr:`edges`.

        Raises:
            LogError: it cannot be read, or is damaged.
        """
        return CopiedReader(self, self._remote, edge)

    def log(self, edge: str) -> CopiedLog | None:
        """What the manifest says of an edge."""
        return None if self._manifest is None else self._manifest.edges.get(edge)


class CopiedReader(FeatureReader):
    """The frames of one edge, in a copy of its log. :meth:`refresh` finds what the store's manifest says since.

    Args:
        store: knows the manifest.
        remote: the place of the copy.
        edge: whose frames these are.

    Raises:
        LogError: something that the manifest names is missing or damaged.
    """

    def __init__(self, store: CopiedStore, remote: Remote, edge: str) -> None:
        self._store, self._remote = store, remote
        self._log: CopiedLog | None = None
        self._indexes: dict[int, bytes] = {}  # number of a segment -> its index
        self._sizes: dict[int, int] = {}  # number of a segment -> its bytes
        self._heads = array("Q")  # of each frame from the first on: where its head begins in that index
        super().__init__(Path(), edge)

    @property
    def where(self) -> str:
        """See :class:`~smartedge.framelog.reader.LogReader`."""
        return f"{self._remote.url}/edges/{self.edge}"

    @property
    def durable(self) -> int:
        """See :class:`~smartedge.framelog.reader.LogReader`."""
        return self.next_seq

    @property
    def total_bytes(self) -> int:
        """Size of all segments."""
        return sum(self._sizes.values())

    def head(self, seq: int) -> bytes:
        """See :class:`~smartedge.framelog.reader.LogReader`."""
        place = self._place(seq)
        begin = self._heads[seq - self.first_seq]
        return self._indexes[place.segment][begin : begin + place.head]

    def refresh(self) -> None:
        """Fetch what is new in the store's manifest."""
        log = self._store.log(self.edge)
        with self._lock:
            if log is None:
                raise LogError(f"{self.where}: edge {self.edge!r}: the manifest does not name it")
            old = self._log
            if log == old or (old is not None and log.log == old.log and log.generation < old.generation):
                return  # of two copies that were made at a time the older one may be the last to be named
            self._read_headers(log)
            self._read_indexes(log, () if old is None else old.segments)
            self._sizes = {segment.number: segment.bytes for segment in log.segments}
            self._log = log
        self._parse_headers()

    def _read_headers(self, log: CopiedLog) -> None:
        self.stream_headers = []
        if log.headers is not None:
            name = headers_name(self.edge, log.headers.bytes)
            data = self._fetched(name, log.headers)
            header = self._checked_header(data, name, log, STREAMS_NUMBER)
            self._add_streams(data[FILE_HEADER_BYTES:], header)
        if len(self.stream_headers) != log.streams:
            raise self._broken(f"{self.where}", f"its stream headers are not the {log.streams} that were copied")

    def _read_indexes(self, log: CopiedLog, known: tuple[CopiedSegment, ...]) -> None:
        """Take the indexes of segments that are new or longer; those before them stay as they are."""
        same = 0
        while same < min(len(known), len(log.segments)) and known[same] == log.segments[same]:
            same += 1
        if not same:
            self._index, self._indexes, self._heads = Index(), {}, array("Q")
            if log.segments:
                self._index = Index(log.segments[0].first_frame)
        for segment in log.segments[same:]:
            self._index.cut(segment.first_frame)
            del self._heads[max(0, segment.first_frame - self._index.first) :]
            self._read_index(log, segment)
        if self.next_seq != log.frames:
            raise self._broken(self.where, f"it ends before frame {self.next_seq}, and {log.frames} were copied")

    def _read_index(self, log: CopiedLog, segment: CopiedSegment) -> None:
        name = segment_names(self.edge, segment.number, segment.bytes)[1]
        data = self._fetched(name, segment.index)
        header = self._checked_header(data, name, log, segment.number)
        if header.first_seq != segment.first_frame or header.first_seq != self.next_seq:
            raise self._broken(name, f"it begins with frame {header.first_seq}, and {self.next_seq} must be next")
        at, position = FILE_HEADER_BYTES, FILE_HEADER_BYTES  # in the index, and in the segment
        while at < len(data):
            record = Record.unpack(data[at : at + RECORD_HEADER_BYTES], header.seed)
            at, position = at + RECORD_HEADER_BYTES, position + RECORD_HEADER_BYTES
            if (
                record is None
                or record.seq != self.next_seq
                or at + record.head > len(data)
                or not self._add(segment.number, position, record, data[at : at + record.head], log.frames)
            ):
                raise self._broken(name, f"the record of frame {self.next_seq} is not sound")
            self._heads.extend([at] * (self._index.end - self._index.first - len(self._heads)))
            at, position = at + record.head, position + record.body
        if position != segment.bytes:
            raise self._broken(name, f"its segment ends at byte {position}, not {segment.bytes}")
        self._indexes[segment.number] = data

    def _add(self, segment: int, position: int, record: Record, head: bytes, most: int) -> bool:
        """Add the next record of a segment to the index; False where it is not sound, or ends after frame ``most``."""
        if record.kind == FRAME and record.stream < len(self.stream_headers) and record.seq < most:
            self._index.add(segment, position, record)
            return True
        if record.kind != GAP or not record.fits(head):
            return False
        after = int.from_bytes(head, "little")
        if after <= most:
            self._index.add_gap(after)
        return after <= most

    def _fetched(self, name: str, file: CopiedFile) -> bytes:
        data = self._remote.read(name)
        if data is None:
            raise self._broken(name, "is gone, although the manifest names it")
        if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            raise self._broken(name, "its checksum is wrong")
        return data

    def _checked_header(self, data: bytes, name: str, log: CopiedLog, number: int) -> FileHeader:
        header = FileHeader.unpack(data[:FILE_HEADER_BYTES])
        if header is None or (header.log.hex(), header.number) != (log.log, number):
            raise self._broken(name, "its header is damaged, or of another log")
        return header

    def _bytes(self, place: Place, seq: int, count: int) -> bytes:
        name, _ = segment_names(self.edge, place.segment, self._sizes[place.segment])
        return self._remote.read_at(name, place.position, count)

    def _damaged(self, seq: int, segment: int, position: int) -> LogError:
        return self._broken(self.where, f"frame {seq} is damaged or missing at byte {position} of segment {segment}")

    def _broken(self, name: str, why: str) -> LogError:
        place = name if name.startswith(self._remote.url) else f"{self._remote.url}/{name}"
        return LogError(f"{place}: edge {self.edge!r}: {why}; {_AGAIN}")
