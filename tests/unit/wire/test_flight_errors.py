from __future__ import annotations

import pyarrow as pa
from pyarrow import flight

from smartedge.errors import FrameError, LinkError, SmartEdgeError
from smartedge.wire.flight_errors import ERRORS, from_flight_error, to_flight_error


def test_every_error_of_arrow_flight_is_mapped() -> None:
    errors = {value for value in vars(flight).values() if isinstance(value, type) and issubclass(value, Exception)}
    missing = errors - set(ERRORS)
    assert not missing, f"pyarrow.flight has new errors: give them a place in _ERRORS: {missing}"
    for error in [*errors, pa.ArrowInvalid, pa.ArrowCancelled, pa.ArrowNotImplementedError, ConnectionError]:
        arguments = (2, 1) if error is flight.FlightWriteSizeExceededError else ()
        became = from_flight_error(error("a message", *arguments), "link")
        assert isinstance(became, (LinkError, FrameError)) and "a message" in str(became)


def test_an_error_without_a_message_is_told_by_its_kind() -> None:
    assert (
        str(from_flight_error(ConnectionResetError(), "link")) == "link: the connection failed (ConnectionResetError)"
    )


def test_of_a_long_message_the_first_line_is_told_up_to_300_characters() -> None:
    became = from_flight_error(ConnectionResetError("x" * 301 + "\nmore"), "link")
    assert str(became) == f"link: the connection failed ({'x' * 300})"


def test_every_error_of_ours_crosses_the_link() -> None:
    for cls in (SmartEdgeError, *SmartEdgeError.__subclasses__()):
        there = to_flight_error(cls("what, where, and what to do"))
        back = from_flight_error(there, "link")
        assert type(back) is cls and str(back) == "what, where, and what to do"


def test_a_code_that_is_not_ours_is_not_trusted() -> None:
    error = from_flight_error(flight.FlightServerError("text", b"SE-NEW message"), "link to x")
    assert type(error) is LinkError and "text" in str(error)
