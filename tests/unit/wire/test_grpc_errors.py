from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest

from smartedge.errors import FleetError, FrameError, LinkError, LogError, RunError, SmartEdgeError
from smartedge.wire.grpc_errors import MEANINGS, from_rpc_error, passes, refuses, status_of


class Call:
    """A call that failed."""

    def __init__(self, code: grpc.StatusCode, details: str | None, metadata: tuple[tuple[str, object], ...] | None):
        self.code, self.details, self.trailing_metadata = (lambda: code), (lambda: details), (lambda: metadata)


def test_every_status_of_grpc_has_a_meaning_and_without_an_error_of_ours_it_is_one_of_the_link() -> None:
    """Whatever gRPC, a proxy or a machine without time to spare answers: an edge takes it for an outage."""
    assert set(MEANINGS) == set(grpc.StatusCode), "gRPC has other codes: give them a place in MEANINGS"
    for code in grpc.StatusCode:
        call = Call(code, "a message", None)
        became = from_rpc_error(call, "link to x")
        assert type(became) is LinkError and str(became) == f"link to x: {MEANINGS[code].advice} (a message)"
        assert not refuses(call)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code != grpc.StatusCode.OK])
def test_a_refusal_of_ours_is_one_with_any_status_and_is_not_tried_again(code: grpc.StatusCode) -> None:
    for error in (RunError("r"), FleetError("f"), FrameError("f"), LogError("l")):
        details, metadata = status_of(error)
        assert refuses(Call(code, details, metadata)) and not passes(Call(code, details, metadata))
        assert type(from_rpc_error(Call(code, details, metadata), "link")) is type(error)


def test_what_passes_by_itself_is_tried_again_at_once() -> None:
    passing = {code.name for code in grpc.StatusCode if passes(Call(code, "", None))}
    of_grpc = {"UNAVAILABLE", "CANCELLED", "ABORTED", "INTERNAL", "DEADLINE_EXCEEDED", "UNKNOWN", "DATA_LOSS"}
    assert passing == {*of_grpc, "RESOURCE_EXHAUSTED"}
    busy = status_of(LinkError("an open stream"))
    assert passes(Call(grpc.StatusCode.UNAVAILABLE, *busy)) and not refuses(Call(grpc.StatusCode.UNAVAILABLE, *busy))


def test_an_error_without_a_message_is_told_by_its_kind() -> None:
    assert str(from_rpc_error(Call(grpc.StatusCode.CANCELLED, None, ()), "link")).endswith("(CANCELLED)")


def test_of_a_long_message_the_first_line_is_told_up_to_300_characters() -> None:
    became = from_rpc_error(Call(grpc.StatusCode.UNKNOWN, "x" * 301 + "\nmore", ()), "link")
    assert str(became) == f"link: {MEANINGS[grpc.StatusCode.UNKNOWN].advice} ({'x' * 300})"


def test_every_error_of_ours_crosses_the_link() -> None:
    for cls in (SmartEdgeError, *SmartEdgeError.__subclasses__()):
        details, metadata = status_of(cls("what, where, and what to do"))
        back = from_rpc_error(Call(grpc.StatusCode.FAILED_PRECONDITION, details, metadata), "link")
        assert type(back) is cls and str(back) == "what, where, and what to do"


def test_a_long_message_is_cut_to_what_metadata_may_hold() -> None:
    for text in ("x" * 100_000, "—" * 100_000):
        details, _ = status_of(LogError(text))
        assert 1500 < len(quote(details)) <= 4000
    assert len(status_of(LogError("x" * 4001))[0]) == 4000


@pytest.mark.parametrize("metadata", [(), (("smartedge-code", "SE-LOG"),)], ids=["of the link", "of the receiver"])
def test_a_terminal_is_told_nothing_by_the_other_side(metadata: tuple[tuple[str, object], ...]) -> None:
    error = from_rpc_error(Call(grpc.StatusCode.ABORTED, "\x1b[31mred\u202e\x00", metadata), "link to x")
    assert str(error).isprintable() and r"\x1b[31mred" in str(error)


def test_a_code_that_is_not_ours_is_not_trusted() -> None:
    for metadata in ((("smartedge-code", "SE-NEW"),), (("smartedge-code", b"SE-LOG"),)):
        error = from_rpc_error(Call(grpc.StatusCode.ABORTED, "text", metadata), "link to x")
        assert type(error) is LinkError and "text" in str(error)
