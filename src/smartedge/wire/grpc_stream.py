"""One stream at the sender's end of the link over gRPC: what sends it, hears what comes back, and notices silence."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from smartedge.errors import LinkError
from smartedge.types import StreamHeader
from smartedge.wire.frame import Message, answer_header, header_to_json
from smartedge.wire.grpc_errors import refuses
from smartedge.wire.link_pb2 import Down, Up
from smartedge.wire.parts import Joiner

__all__ = ["SILENCE_S", "Stream"]

_LOOK_S = 0.2  # how often a thread that waits looks whether the call still lives
_WAITING_MESSAGES = 4  # between the caller and gRPC
SILENCE_S = 120.0  # a receiver sends something every 30 s; one that was silent for so long hangs, or was stopped
_HEAR_S = 30.0  # how long the end of a stream waits for the last confirmation, at most


class Stream:
    """A call. gRPC takes messages from a short queue, on a thread of its own. Another thread reads what comes back."""

    def __init__(self, header: StreamHeader, call: Any, metadata: list[tuple[str, str]]) -> None:
        self.header = header
        self.confirmed = -1  # nothing was heard yet
        self.heard = threading.Event()  # the first message, or the end
        self._all_heard = threading.Event()  # every frame is confirmed, or the end
        self.up = self.down = 0  # bytes of messages
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._heard_at = time.monotonic()
        self._silent = False  # the call was broken off, since nothing came
        self._answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()  # None: the call has ended
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING_MESSAGES)
        self.send([Up(header=header_to_json(header)).SerializeToString()])
        self._call = call(iter(self._waiting.get, None), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name="link", daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, name="link watch", daemon=True).start()

    @property
    def broke_off(self) -> bool:
        """Whether the call has ended before every frame was confirmed."""
        return self._ended.is_set() and self.confirmed != self.header.end_seq

    def send(self, messages: Iterable[bytes | None]) -> None:
        """Hand messages to gRPC, None for the end of the stream. Wait where the receiver is full.

        Raises:
            RpcError: the call has ended.
        """
        for data in messages:
            self.up += len(data or b"")
            while not self._ended.is_set():
                with contextlib.suppress(queue.Full):
                    self._waiting.put(data, timeout=_LOOK_S)
                    break
            else:
                self.raise_failure()
                if data is not None:
                    raise LinkError("the receiver ended the stream before the last frame")

    def answer(self) -> Message | None:
        """The next answer; None where the call ended well without one."""
        answer = self._answers.get()
        if answer is None:
            self._answers.put(None)
            self.raise_failure()
        return answer

    def flush(self) -> None:
        """Wait until the receiver has confirmed every frame.

        Raises:
            RpcError: the call has ended before.
        """
        self._all_heard.wait()
        self.check_confirmed()

    def check_confirmed(self) -> None:
        """Raise what ended the call, unless every frame is confirmed."""
        if self.confirmed != self.header.end_seq:
            self.raise_failure()
            raise LinkError("the receiver ended the stream before it confirmed the last frame")

    def finish(self) -> None:
        """End the stream, and wait for the receiver's last word.

        An end that comes after the last confirmation tells the receiver that this side has heard it.

        Raises:
            RpcError: the call has ended before. All frames may be confirmed, but the receiver may not know that this
                side has heard it.
        """
        if not self.header.answered:
            self._all_heard.wait(timeout=_HEAR_S)
        try:
            self.send([None])
            self._reader.join()
            self.raise_failure()
        except grpc.RpcError as error:
            if not self.header.answered or self.confirmed != self.header.end_seq or refuses(error):
                raise  # else the confirmation was the receiver's answer to the end

    def cancel(self) -> None:
        """Break the call off. May be called from any thread."""
        self._call.cancel()

    def raise_failure(self) -> None:
        """Raise what ended the call, unless it ended well."""
        if self._failure is not None:
            raise self._failure

    def _read(self) -> None:
        joiner = Joiner(answer_header(self.header)) if self.header.answered else None
        try:
            for data in self._call:
                self.down += len(data)
                self._heard_at = time.monotonic()
                down = Down.FromString(data)
                if down.HasField("confirmed"):
                    self.confirmed = down.confirmed
                    if self.confirmed == self.header.end_seq:
                        self._all_heard.set()
                if joiner and down.HasField("answer") and (message := joiner.add(data)) is not None:
                    self._answers.put(message)
                self.heard.set()
        except DecodeError:
            self._failure = LinkError(
                "what came back over the link is not readable; is the other side a smartedge cloud?"
            )
        except BaseException as error:
            self._failure = error
            if self._silent:
                self._failure = LinkError(
                    f"the cloud has sent nothing for {SILENCE_S:g} s: it hangs or was stopped, or the network holds "
                    "back what it sends"
                )
        self._call.cancel()  # does nothing where it has ended
        self._ended.set()
        self.heard.set()
        self._all_heard.set()
        self._answers.put(None)
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._waiting.put_nowait(None)  # lets gRPC's thread end, which waits for the next message

    def _watch(self) -> None:
        """Break the call off where nothing has come for too long.

        The kernel of a machine whose process hangs still answers for it, so TCP notices nothing.
        """
        while not self._ended.wait(max(0.0, self._heard_at + SILENCE_S - time.monotonic())):
            if time.monotonic() - self._heard_at >= SILENCE_S:
                self._silent = True
                return self.cancel()
