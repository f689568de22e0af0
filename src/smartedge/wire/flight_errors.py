"""Turns errors of Arrow Flight into errors of smartedge, and back. No other module does."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import flight

from smartedge.errors import FrameError, LinkError, SmartEdgeError, from_code

__all__ = ["ARROW_ERRORS", "ERRORS", "busy", "from_flight_error", "to_flight_error"]

_MAX_MESSAGE_CHARS = 1500  # an error crosses in gRPC metadata, which may have 8 KiB and holds it twice

# Class of Arrow's error -> (our class, advice for the user). The most specific class that matches is used.
ERRORS: dict[type[Exception], tuple[type[SmartEdgeError], str]] = {
    flight.FlightUnavailableError: (LinkError, "the other side is not there, went away, or its TLS does not match"),
    flight.FlightTimedOutError: (LinkError, "the other side did not answer in time"),
    flight.FlightCancelledError: (LinkError, "the call was cancelled"),
    flight.FlightUnauthenticatedError: (LinkError, "give both sides the same token"),
    flight.FlightUnauthorizedError: (LinkError, "the other side does not allow this"),
    flight.FlightInternalError: (LinkError, "the connection failed; is the other side a smartedge cloud?"),
    flight.FlightServerError: (LinkError, "the other side failed; see its log"),
    flight.FlightWriteSizeExceededError: (FrameError, "lower train.batch_size"),
    flight.FlightError: (LinkError, "the other side failed; see its log"),
    pa.ArrowException: (LinkError, "the connection failed; is the other side a smartedge cloud?"),
    OSError: (LinkError, "the connection failed"),
}
ARROW_ERRORS = (flight.FlightError, pa.ArrowException, OSError)


def from_flight_error(error: Exception, where: str) -> SmartEdgeError:
    """Our error for an error of pyarrow. Where that one carries the receiver's error, it is the receiver's."""
    carried = getattr(error, "extra_info", None) or b""
    code, _, message = carried.decode("utf-8", "replace").partition(" ")
    if message and (ours := from_code(code, message)):
        return ours
    cls, advice = next(ERRORS[base] for base in type(error).__mro__ if base in ERRORS)
    return cls(f"{where}: {advice} ({str(error).splitlines()[0][:300] if str(error) else type(error).__name__})")


def to_flight_error(error: SmartEdgeError, cls: type[flight.FlightError] = flight.FlightServerError) -> Exception:
    """An error that :func:`from_flight_error` turns back into ``error`` at the other end."""
    message = str(error)[:_MAX_MESSAGE_CHARS]
    made: Exception = cls(f"[{error.code}] {message}", extra_info=f"{error.code} {message}".encode())
    return made


def busy(message: str) -> Exception:
    """An error that refuses a stream for now; the sender tries again."""
    return to_flight_error(LinkError(message), flight.FlightUnavailableError)
