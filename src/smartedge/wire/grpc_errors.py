"""Turns errors of gRPC into errors of smartedge, and back. No other module does."""

from __future__ import annotations

from urllib.parse import quote

import grpc

from smartedge.errors import FleetError, FrameError, LinkError, SmartEdgeError, from_code
from smartedge.logs import plain

__all__ = ["CODES", "CODE_KEY", "from_rpc_error", "status_of"]

CODE_KEY = "smartedge-code"  # trailing metadata: the code of the receiver's error, as SE-FRAME
_MAX_MESSAGE_BYTES = 4000  # percent-encoded; metadata may have 8 KiB in all

# Status of a call -> (our class, advice for the user), where the receiver's own error did not come along.
CODES: dict[grpc.StatusCode, tuple[type[SmartEdgeError], str]] = {
    grpc.StatusCode.OK: (LinkError, "what answers there is not a smartedge cloud"),
    grpc.StatusCode.UNAVAILABLE: (LinkError, "the other side is not there, went away, or its TLS does not match"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (LinkError, "the other side did not answer in time"),
    grpc.StatusCode.CANCELLED: (LinkError, "the stream was broken off"),
    grpc.StatusCode.ABORTED: (LinkError, "the stream was broken off"),
    grpc.StatusCode.UNAUTHENTICATED: (FleetError, "give both sides the same token"),
    grpc.StatusCode.PERMISSION_DENIED: (LinkError, "the other side does not allow this"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (FrameError, "a message is larger than the other side takes"),
    grpc.StatusCode.OUT_OF_RANGE: (FrameError, "a message is larger than the other side takes"),
    grpc.StatusCode.UNIMPLEMENTED: (LinkError, "the other side is no smartedge cloud, or one of another version"),
    grpc.StatusCode.INTERNAL: (LinkError, "the connection failed; is the other side a smartedge cloud?"),
    grpc.StatusCode.DATA_LOSS: (LinkError, "the connection failed; is the other side a smartedge cloud?"),
    grpc.StatusCode.UNKNOWN: (LinkError, "the other side failed; see its log"),
    grpc.StatusCode.INVALID_ARGUMENT: (LinkError, "the other side failed; see its log"),
    grpc.StatusCode.NOT_FOUND: (LinkError, "the other side failed; see its log"),
    grpc.StatusCode.ALREADY_EXISTS: (LinkError, "the other side failed; see its log"),
    grpc.StatusCode.FAILED_PRECONDITION: (LinkError, "the other side failed; see its log"),
}


def from_rpc_error(error: grpc.Call, where: str) -> SmartEdgeError:
    """Our error for a call that failed. Where it carries the receiver's error, it is the receiver's."""
    details = plain(error.details() or "", keep="\n")  # the peer's words
    carried = dict(error.trailing_metadata() or ()).get(CODE_KEY)
    if isinstance(carried, str) and (ours := from_code(carried, details)):
        return ours
    kind, advice = CODES[error.code()]
    return kind(f"{where}: {advice} ({details.splitlines()[0][:300] if details else error.code().name})")


def status_of(error: SmartEdgeError) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Details and trailing metadata of a call's status that :func:`from_rpc_error` turns back into ``error``."""
    message = str(error)[:_MAX_MESSAGE_BYTES]
    while len(quote(message)) > _MAX_MESSAGE_BYTES:
        message = message[: len(message) * 3 // 4]
    return message, ((CODE_KEY, error.code),)
