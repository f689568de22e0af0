"""A small server: what an answer holds, and which names of this machine a request may use."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator

import pytest

from smartedge.errors import LinkError
from smartedge.runs.http import Listening, RequestHandler


class Tells(RequestHandler):
    """Tells whether it was asked for this machine."""

    def do_GET(self) -> None:
        body = b"own" if self.asked_for_this_machine() else b"another"
        self.answer(203, "text/plain", body, {"X-One": "1", "X-Two": "2"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with contextlib.closing(Listening(("127.0.0.1", 0), Tells, "--test")) as server:
        yield server.port


def asked(port: int, host: str | None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", "/", skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection.getresponse()


def test_an_answer_has_its_status_its_headers_and_its_length(port: int) -> None:
    answer = asked(port, "localhost")
    headers = dict(answer.getheaders())
    assert answer.status == 203 and answer.read() == b"own"
    assert {name: headers[name] for name in ("Content-Type", "Content-Length", "X-One", "X-Two")} == {
        "Content-Type": "text/plain",
        "Content-Length": "3",
        "X-One": "1",
        "X-Two": "2",
    }
    assert headers["Server"].strip() == "smartedge", "no version of Python"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LocalHost:80", True),
        ("127.0.0.1:80", True),
        ("[::1]:80", True),
        ("[::1]", True),
        (socket.gethostname().upper(), True),
        ("evil.example:80", False),
        ("localhost.evil.example", False),
        ("[localhost", True),
        ("[evil.example]", False),
        ("", False),
        (None, False),
    ],
)
def test_a_name_that_others_lead_here_is_not_this_machine(port: int, host: str | None, own: bool) -> None:
    assert asked(port, host).read() == (b"own" if own else b"another")


def test_a_place_where_nothing_can_listen_is_named() -> None:
    with pytest.raises(LinkError, match=r"^--test: cannot listen on \[2001:db8::1\]:0: "):
        Listening(("2001:db8::1", 0), Tells, "--test")


def test_a_server_that_was_closed_answers_nobody() -> None:
    server = Listening(("127.0.0.1", 0), Tells, "--test")
    server.close()
    with pytest.raises(OSError, match="refused"):
        asked(server.port, "localhost")
