"""The bytes of a log's files: a file header, then records. All numbers are little-endian.

A file header (48 bytes) says which log and which file it is:

    16s magic    16s id of the log    uint32 number of the file    uint64 first frame    uint32 CRC-32 of all this

A record is a header (32 bytes) and a body. The body is two byte strings, head and payload, as they came:

    4s kind    uint32 stream    uint64 seq    uint32 bytes of the head    uint32 bytes of the payload
    uint32 CRC-32 of the body    uint32 CRC-32 of the record's header

The CRC of a record's header starts from the CRC of the file's header. So a record of another log or another file, or
one in an old block of the disk, is not taken for a record of this file.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from smartedge.files import PRIVATE

__all__ = [
    "FILE_HEADER_BYTES",
    "FRAME",
    "GAP",
    "RECORD_HEADER_BYTES",
    "STREAM",
    "Bytes",
    "FileHeader",
    "LogFile",
    "Record",
    "pack_checked",
    "read_at",
    "sound_records",
    "unpack_checked",
]

_MAGIC = b"smartedge-log 1\n"
_FILE = struct.Struct("<16s16sIQ")
_RECORD = struct.Struct("<4sIQIII")
_CRC = struct.Struct("<I")

Bytes: TypeAlias = "bytes | memoryview"

FILE_HEADER_BYTES = _FILE.size + _CRC.size
RECORD_HEADER_BYTES = _RECORD.size + _CRC.size

STREAM = b"STRM"  # the head is a stream header; seq is its first frame
FRAME = b"FRAM"
GAP = b"GAP "  # frames from seq on never came; the head is uint64, the frame after the last missing one


def pack_checked(layout: struct.Struct, fields: Iterable[object], seed: int = 0) -> bytes:
    """The fields as bytes, and their CRC-32, which starts from ``seed``."""
    data = layout.pack(*fields)
    return data + _CRC.pack(zlib.crc32(data, seed))


def unpack_checked(layout: struct.Struct, data: bytes, seed: int = 0) -> tuple[Any, ...] | None:
    """The fields that :func:`pack_checked` wrote at the begin of ``data``; None where it is cut short or damaged."""
    if len(data) < layout.size + _CRC.size or _CRC.unpack_from(data, layout.size)[0] != zlib.crc32(
        data[: layout.size], seed
    ):
        return None
    return layout.unpack_from(data)


class FileHeader(NamedTuple):
    """What a file of a log says about itself."""

    log: bytes  # 16 bytes, the same in all files of a log
    number: int
    first_seq: int  # of the first frame in the file

    def pack(self) -> bytes:
        """The header as bytes."""
        return pack_checked(_FILE, (_MAGIC, *self))

    @classmethod
    def unpack(cls, data: bytes) -> FileHeader | None:
        """The header in the first bytes of a file; None where they are no sound header."""
        magic, *fields = unpack_checked(_FILE, data) or (None,)
        return cls(*fields) if magic == _MAGIC else None

    @property
    def seed(self) -> int:
        """What the checksums of the records' headers in this file start from."""
        return zlib.crc32(self.pack())


class Record(NamedTuple):
    """The header of a record."""

    kind: bytes
    stream: int  # number of the frame's stream in the log
    seq: int
    head: int  # bytes
    payload: int  # bytes
    checksum: int  # CRC-32 of the body

    @property
    def body(self) -> int:
        """Bytes of head and payload."""
        return self.head + self.payload

    def fits(self, body: bytes) -> bool:
        """Whether a body has the length and the checksum that the header says."""
        return len(body) == self.body and zlib.crc32(body) == self.checksum

    def pack(self, seed: int) -> bytes:
        """The record's header as bytes."""
        return pack_checked(_RECORD, self, seed)

    @classmethod
    def unpack(cls, data: bytes, seed: int) -> Record | None:
        """The record's header in ``data``; None where it is cut short or damaged."""
        fields = unpack_checked(_RECORD, data, seed)
        return None if fields is None else cls(*fields)


class LogFile:
    """A file of a log that is written to.

    Args:
        descriptor: of the file; closed by :meth:`close`.
        header: the one that the file begins with.
        end: where the next record goes.
    """

    def __init__(self, descriptor: int, header: FileHeader, end: int = FILE_HEADER_BYTES) -> None:
        self.descriptor = descriptor
        self.header = header
        self.end = end
        self.broken = False  # what follows the end is not known

    @classmethod
    def new(cls, path: Path, header: FileHeader) -> LogFile:
        """Make a file, or empty one that is there.

        Raises:
            OSError: the disk does not take it.
        """
        made = cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE), header, 0)
        try:
            data = header.pack()
            made.end = os.pwrite(made.descriptor, data, 0)
            if made.end < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            made.close()
            path.unlink()
            raise
        return made

    @classmethod
    def open(cls, path: Path) -> LogFile | None:
        """Open a file for writing; None where it is not there, or its header is damaged.

        Raises:
            OSError: it cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        header = FileHeader.unpack(read_at(descriptor, 0, FILE_HEADER_BYTES))
        if header is None:
            os.close(descriptor)
            return None
        return cls(descriptor, header)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.descriptor).st_size

    def append(self, kind: bytes, stream: int, seq: int, head: Bytes, payload: Bytes = b"") -> Record:
        """Write a record at the end, or nothing. Returns the record's header.

        Head and payload go to the system from where they are: they are not copied before.

        Raises:
            OSError: the disk does not take them. The file ends where it did; or, if the disk does not take that
                either, it is ``broken``.
        """
        record = Record(kind, stream, seq, len(head), len(payload), zlib.crc32(payload, zlib.crc32(head)))
        rest, place = [memoryview(part) for part in (record.pack(self.header.seed), head, payload)], self.end
        try:
            while rest:
                count = os.pwritev(self.descriptor, rest, place)
                place += count
                while rest and count >= len(rest[0]):
                    count -= len(rest.pop(0))
                if count:
                    rest[0] = rest[0][count:]
        except OSError:
            self.broken = True
            os.ftruncate(self.descriptor, self.end)
            self.broken = False
            raise
        self.end = place
        return record

    def cut_off(self, end: int) -> int:
        """Cut the file off at ``end``; returns how many bytes went.

        Raises:
            OSError: the disk does not take it.
        """
        over = self.size - end
        if over:
            os.ftruncate(self.descriptor, end)
        self.end = end
        return over

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def sound_records(data: bytes, seed: int) -> Iterator[tuple[Record, bytes]]:
    """The records in ``data`` with their bodies, up to the first one that is damaged or cut short."""
    at = 0
    while (record := Record.unpack(data[at : at + RECORD_HEADER_BYTES], seed)) is not None:
        at += RECORD_HEADER_BYTES
        body = data[at : at + record.body]
        if not record.fits(body):
            return
        yield record, body
        at += record.body


def read_at(file: int, position: int, count: int) -> bytes:
    """``count`` bytes of a file from ``position`` on; fewer at its end.

    Raises:
        OSError: the disk does not give them.
    """
    data = os.pread(file, count, position)
    while len(data) < count and (more := os.pread(file, count - len(data), position + len(data))):
        data += more
    return data
