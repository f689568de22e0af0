"""Turns errors of gRPC into errors of smartedge, and back. No other module does."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

import grpc

from smartedge.errors import LinkError, SmartEdgeError, from_code
from smartedge.logs import plain

__all__ = ["CODE_KEY", "MEANINGS", "Meaning", "carried_by", "from_rpc_error", "passes", "refuses", "status_of"]

CODE_KEY = "smartedge-code"  # trailing metadata: the code of the receiver's error, as SE-FRAME
_MAX_MESSAGE_BYTES = 4000  # percent-encoded; metadata may have 8 KiB in all


class Meaning(NamedTuple):
    """What a status says where no error of the receiver came along. No run ends by it: it is an error of the link."""

    advice: str  # for the user
    passes: bool  # whether it may soon be otherwise, with nothing done: a sender that is patient tries again at once


_GONE = Meaning("the other side is not there, went away, or its TLS does not match", passes=True)
_BROKEN = Meaning("the stream was broken off; this happens where a machine or the link cannot keep up", passes=True)
_FAILED = Meaning("the connection failed; is the other side a smartedge cloud?", passes=True)
_REFUSED = Meaning("something on the way, such as a proxy, does not let this through; see its log", passes=False)
_STRANGE = Meaning("what answers there is not a smartedge cloud; see the log of that program", passes=False)

MEANINGS: dict[grpc.StatusCode, Meaning] = {
    grpc.StatusCode.OK: Meaning("what answers there is not a smartedge cloud", passes=False),
    # of gRPC itself, or of the machines on the way
    grpc.StatusCode.UNAVAILABLE: _GONE,  # also: GOAWAY, a reset connection
    grpc.StatusCode.DEADLINE_EXCEEDED: Meaning("the other side did not answer in time", passes=True),
    grpc.StatusCode.CANCELLED: _BROKEN,  # also: a server without processor time to spare
    grpc.StatusCode.ABORTED: _BROKEN,
    grpc.StatusCode.INTERNAL: _FAILED,  # also: RST_STREAM, and what is no HTTP/2
    grpc.StatusCode.DATA_LOSS: _FAILED,
    grpc.StatusCode.UNKNOWN: Meaning("the other side failed; see its log", passes=True),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Meaning(
        "the other side, or a proxy, has no room, or takes no message of this size", passes=True
    ),
    grpc.StatusCode.UNIMPLEMENTED: Meaning(
        "the other side is no smartedge cloud, or one of another version", passes=False
    ),
    # The cloud says these with an error of its own. Without one they come from a proxy.
    grpc.StatusCode.UNAUTHENTICATED: _REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: _REFUSED,
    # Nobody on the way says these.
    grpc.StatusCode.OUT_OF_RANGE: _STRANGE,
    grpc.StatusCode.INVALID_ARGUMENT: _STRANGE,
    grpc.StatusCode.NOT_FOUND: _STRANGE,
    grpc.StatusCode.ALREADY_EXISTS: _STRANGE,
    grpc.StatusCode.FAILED_PRECONDITION: _STRANGE,
}


def carried_by(error: grpc.Call) -> SmartEdgeError | None:
    """The receiver's own error, where the call's status carries one."""
    code = dict(error.trailing_metadata() or ()).get(CODE_KEY)
    return from_code(code, _details(error)) if isinstance(code, str) else None


def passes(error: grpc.Call) -> bool:
    """Whether to try again at once: the receiver is not there, is busy, or the call was broken off."""
    return MEANINGS[error.code()].passes and not refuses(error)


def refuses(error: grpc.Call) -> bool:
    """Whether the receiver itself refuses, for a reason that waiting does not mend."""
    ours = carried_by(error)
    return ours is not None and not isinstance(ours, LinkError)


def from_rpc_error(error: grpc.Call, where: str) -> SmartEdgeError:
    """Our error for a call that failed: the receiver's, where its status carries one; else an error of the link."""
    if (ours := carried_by(error)) is not None:
        return ours
    details = _details(error)
    advice = MEANINGS[error.code()].advice
    return LinkError(f"{where}: {advice} ({details.splitlines()[0][:300] if details else error.code().name})")


def _details(error: grpc.Call) -> str:
    return plain(error.details() or "", keep="\n")  # the peer's words


def status_of(error: SmartEdgeError) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Details and trailing metadata of a call's status that :func:`from_rpc_error` turns back into ``error``."""
    message = str(error)[:_MAX_MESSAGE_BYTES]
    while len(quote(message)) > _MAX_MESSAGE_BYTES:
        message = message[: len(message) * 3 // 4]
    return message, ((CODE_KEY, error.code),)
