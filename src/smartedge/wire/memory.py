"""The link within one process: for ``--single-process``, and as the public test double of a link."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from smartedge.errors import LinkError
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import frame_schema, frame_to_batch, header_from_json, header_to_json
from smartedge.wire.link import FrameHandler, StreamReceiver, check_kind, check_reply
from smartedge.wire.meter import ByteCount

__all__ = ["MemoryLink"]


class MemoryLink:
    """A :class:`~smartedge.wire.link.FrameSender` whose frames reach the handler in the same call.

    They pass through the same bytes and checks as over a network.
    """

    def __init__(self, handler: FrameHandler) -> None:
        self._handler = handler
        self._header: StreamHeader | None = None
        self._receiver: StreamReceiver | None = None
        self._up = 0
        self._down = 0

    def open(self, header: StreamHeader) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        if self._receiver is not None:
            raise LinkError("link: a stream is open already; close it before opening another")
        data = header_to_json(header)
        self._up += len(data) + frame_schema(header).serialize().size
        self._header = header_from_json(data)
        self._receiver = StreamReceiver(self._handler, self._header)

    def write(self, frame: Frame) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream(exchange=False) as (header, receiver):
            receiver.take(self._across(frame_to_batch(frame, header)))

    def exchange(self, frame: Frame) -> Frame:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream(exchange=True) as (header, receiver):
            reply = receiver.take(self._across(frame_to_batch(frame, header)))
            assert reply is not None  # StreamReceiver.take sees to it
            data = reply.serialize()
            self._down += data.size
            return check_reply(pa.ipc.read_record_batch(data, reply.schema), frame, header)

    def close(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        with self._stream() as (_, receiver):
            self._receiver = None
            receiver.finish()

    def counters(self) -> ByteCount:
        """The Arrow messages and stream headers, which nothing lies beneath here."""
        return ByteCount(self._up, self._down, "payload")

    def disconnect(self) -> None:
        """See :class:`~smartedge.wire.link.FrameSender`."""
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.abort()

    def _across(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch as the receiver gets it: out of bytes of its own."""
        data = batch.serialize()
        self._up += data.size
        return pa.ipc.read_record_batch(data, batch.schema)

    @contextlib.contextmanager
    def _stream(self, *, exchange: bool | None = None) -> Iterator[tuple[StreamHeader, StreamReceiver]]:
        """Header and receiver of the open stream. With any error inside, the stream is lost."""
        header, receiver = self._header, self._receiver
        if header is None or receiver is None:
            raise LinkError("link: no stream is open; call open(header) first")
        if exchange is not None:
            check_kind(header, exchange=exchange)
        try:
            yield header, receiver
        except BaseException:
            self.disconnect()
            raise
