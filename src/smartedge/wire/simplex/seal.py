"""Datagrams, each encrypted and authenticated by itself (ChaCha20-Poly1305, RFC 8439).

A datagram is

    1 byte     version of this form
    8 bytes    the edge's number: the first bytes of the SHA-256 of its name
    8 bytes    counter, big-endian
    the rest   the content, encrypted, with a tag of 16 bytes

The first 17 bytes are authenticated with the content. The nonce is the counter, after four zero bytes. An edge has a
key of its own, and a counter is used once. Counters are reserved on the disk before they are used, so that a restart or
a power failure skips some and repeats none. A process begins no lower than at the clock, in microseconds. So a counter
that was lost, or came back from an older backup, repeats none either; unless the clock was set back, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import struct
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.errors import LinkError
from smartedge.extras import how_to_install
from smartedge.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

__all__ = ["KEY_BYTES", "OVERHEAD", "Opener", "Sealer"]

KEY_BYTES = 32
OVERHEAD = 33  # bytes of a datagram beyond its content

_VERSION = 1
_OUTSIDE = struct.Struct(">B8sQ")
_COUNTERS_A_SECOND = 1_000_000  # more than a process sends datagrams in a second
_RESERVED = 2**16  # counters that are reserved at a time
_LAST = 2**63  # counter that a file may hold: 2**64 does not fit in a datagram
_WINDOW = 2**13  # datagrams that may come later than a newer one


class Sealer:
    """The edge's side: seals contents.

    Args:
        edge: name of the edge.
        key: ``KEY_BYTES`` bytes, known to the edge and the cloud alone.
        counter_file: where the counter survives a restart. It belongs to the key.

    Raises:
        LinkError: the file cannot be read or written, or holds no counter.
    """

    def __init__(self, edge: str, key: bytes, counter_file: Path) -> None:
        self._cipher = _cipher(key)
        self._edge = _number_of(edge)
        self._file = counter_file
        self._next = self._end = max(self._read(), int(time.time() * _COUNTERS_A_SECOND))

    def seal(self, content: bytes) -> bytes:
        """A datagram with this content.

        Raises:
            LinkError: the disk does not take the reservation of further counters.
        """
        counter = self._take()
        outside = _OUTSIDE.pack(_VERSION, self._edge, counter)
        return outside + self._cipher.encrypt(_nonce(counter), content, outside)

    @property
    def counter(self) -> int:
        """The counter of the next datagram; it grows for as long as the key is used."""
        return self._next

    def _take(self) -> int:
        if self._next == self._end:
            try:
                write_atomically(self._file, _counter_text(self._end + _RESERVED))
            except OSError as error:
                raise LinkError(
                    f"{self._file}: the one-way link's counter cannot be kept ({error.strerror}). Nothing is sent: "
                    "a counter that is used twice breaks the encryption. Make room, or mend the permissions"
                ) from error
            self._end += _RESERVED
        self._next += 1
        return self._next - 1

    def _read(self) -> int:
        try:
            text = self._file.read_text(encoding="ascii")
            counter = text.partition(" ")[0]
            if not counter.isdecimal() or text != _counter_text(int(counter)) or int(counter) > _LAST:
                raise ValueError("it is damaged")
            return int(counter)
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise LinkError(
                f"{self._file}: the counter of the one-way link cannot be read ({error}); "
                "get a new bundle for this edge ('smartedge fleet renew'), and remove the file"
            ) from error


class Opener:
    """The cloud's side: opens the datagrams of all edges, each at most once.

    Args:
        keys: name of an edge → its key.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys: dict[str, bytes] = {}
        self._edges: dict[bytes, tuple[str, ChaCha20Poly1305, _Window]] = {}
        self.unopened: Counter[str] = Counter()  # edge -> datagrams in its name that were dropped
        self.admit(keys)

    def admit(self, keys: Mapping[str, bytes]) -> list[str]:
        """Open the datagrams of these edges from now on, and of no others. What has come is remembered by key.

        Returns:
            The edges whose earlier key no longer counts. Counters of a later key may be lower: another device, with
            another clock, may have it.
        """
        gone = [edge for edge, key in self._keys.items() if keys.get(edge) != key]
        for edge in gone:
            del self._keys[edge], self._edges[_number_of(edge)]
        for edge, key in keys.items():
            if edge not in self._keys:
                self._keys[edge] = key
                self._edges[_number_of(edge)] = edge, _cipher(key), _Window()
        return gone

    def open(self, datagram: bytes) -> tuple[str, bytes] | None:
        """The edge's name and the content; None where the datagram is forged, damaged or a repetition."""
        from cryptography.exceptions import InvalidTag

        if len(datagram) <= OVERHEAD:
            return None
        version, number, counter = _OUTSIDE.unpack_from(datagram)
        if version != _VERSION or number not in self._edges:
            return None
        edge, cipher, window = self._edges[number]
        if not window.may_come(counter):
            self.unopened[edge] += 1
            return None
        try:
            content = cipher.decrypt(_nonce(counter), datagram[_OUTSIDE.size :], datagram[: _OUTSIDE.size])
        except InvalidTag:
            self.unopened[edge] += 1
            return None
        window.note(counter)
        return edge, content


class _Window:
    """Which counters have come, among the newest ``_WINDOW`` ones. Older ones count as come (RFC 4303, 3.4.3)."""

    def __init__(self) -> None:
        self._newest = -1
        self._come = 0  # bit i: the counter ``newest - i`` has come

    def may_come(self, counter: int) -> bool:
        age = self._newest - counter
        return age < 0 or (age < _WINDOW and not self._come >> age & 1)

    def note(self, counter: int) -> None:
        age = self._newest - counter
        if age >= 0:
            self._come |= 1 << age
        else:
            self._come = ((self._come << min(-age, _WINDOW)) | 1) & ((1 << _WINDOW) - 1)
            self._newest = counter


def _counter_text(counter: int) -> str:
    """A counter and its CRC-32: a smaller one would be used again."""
    return f"{counter} {zlib.crc32(str(counter).encode()):08x}\n"


def _cipher(key: bytes) -> ChaCha20Poly1305:
    """ChaCha20-Poly1305 with this key.

    Raises:
        LinkError: the libraries of the one-way link are not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("cryptography", "raptorq")):
        raise LinkError(f"the one-way link needs further libraries; run: {how_to_install('simplex')}")
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _number_of(edge: str) -> bytes:
    return hashlib.sha256(edge.encode()).digest()[:8]


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
