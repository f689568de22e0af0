from __future__ import annotations

from urllib.parse import quote

import grpc

from smartedge.errors import FleetError, FrameError, LinkError, LogError, SmartEdgeError
from smartedge.wire.grpc_errors import CODES, from_rpc_error, status_of


class Call:
    """A call that failed."""

    def __init__(self, code: grpc.StatusCode, details: str | None, metadata: tuple[tuple[str, object], ...] | None):
        self.code, self.details, self.trailing_metadata = (lambda: code), (lambda: details), (lambda: metadata)


def test_every_status_of_grpc_is_mapped() -> None:
    assert set(CODES) == set(grpc.StatusCode), "gRPC has other codes: give them a place in CODES"
    for code in grpc.StatusCode:
        became = from_rpc_error(Call(code, "a message", None), "link to x")
        assert isinstance(became, (LinkError, FrameError, FleetError)) and str(became).startswith("link to x: ")
        assert str(became).endswith("(a message)")


def test_an_error_without_a_message_is_told_by_its_kind() -> None:
    assert str(from_rpc_error(Call(grpc.StatusCode.CANCELLED, None, ()), "link")).endswith("(CANCELLED)")


def test_of_a_long_message_the_first_line_is_told_up_to_300_characters() -> None:
    became = from_rpc_error(Call(grpc.StatusCode.UNKNOWN, "x" * 301 + "\nmore", ()), "link")
    assert str(became) == f"link: the other side failed; see its log ({'x' * 300})"


def test_every_error_of_ours_crosses_the_link() -> None:
    for cls in (SmartEdgeError, *SmartEdgeError.__subclasses__()):
        details, metadata = status_of(cls("what, where, and what to do"))
        back = from_rpc_error(Call(grpc.StatusCode.FAILED_PRECONDITION, details, metadata), "link")
        assert type(back) is cls and str(back) == "what, where, and what to do"


def test_a_long_message_is_cut_to_what_metadata_may_hold() -> None:
    for text in ("x" * 100_000, "—" * 100_000):
        details, _ = status_of(LogError(text))
        assert 1500 < len(quote(details)) <= 4000


def test_a_code_that_is_not_ours_is_not_trusted() -> None:
    for metadata in ((("smartedge-code", "SE-NEW"),), (("smartedge-code", b"SE-LOG"),)):
        error = from_rpc_error(Call(grpc.StatusCode.ABORTED, "text", metadata), "link to x")
        assert type(error) is LinkError and "text" in str(error)
