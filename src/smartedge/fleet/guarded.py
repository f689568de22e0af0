"""Text files of a fleet with a checksum in their first line: certificates and keys.

A bit that turns in a key or certificate would else be noticed by the other side alone, as a refusal that names no file.
Programs that read PEM skip what stands before the first ``-----BEGIN`` (RFC 7468, section 5.2), so the line does not
disturb them.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from smartedge.errors import FleetError
from smartedge.files import open_regular, read_small, write_atomically

__all__ = ["parse_guarded", "read_guarded", "write_guarded"]

_LINE = b"smartedge checksum %08x\n"  # CRC-32 of what follows the line


def write_guarded(path: Path, text: str) -> None:
    """Write a file with its checksum, whole or not at all, for its owner alone.

    Raises:
        OSError: the disk does not take it; the old content is still there.
    """
    content = text.encode("ascii")
    write_atomically(path, _LINE % zlib.crc32(content) + content)


def read_guarded(path: Path, remedy: str) -> str:
    """The text that :func:`write_guarded` wrote.

    Args:
        path: the file.
        remedy: what the user should do where it is damaged.

    Raises:
        FleetError: the checksum is not there, or the text is not the one that was written.
        OSError: the file cannot be read, is not there, or is too large.
    """
    with open_regular(path) as file:
        return parse_guarded(read_small(file), path, remedy)


def parse_guarded(data: bytes, path: Path, remedy: str) -> str:
    """The text in the content of a file; as :func:`read_guarded`."""
    line, end, content = data.partition(b"\n")
    if line + end != _LINE % zlib.crc32(content):
        raise FleetError(f"{path}: is damaged: it does not match the checksum in its first line; {remedy}")
    return content.decode("ascii")
