"""What the client of the broker reads of a message's headers."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from smartedge.errors import LinkError
from smartedge.wire.credentials import Credentials
from smartedge.wire.jetstream.client import _status, connect, from_nats_error
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.jetstream.pulling import _consumer_is_gone


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (b"NATS/1.0 409 Consumer Deleted\r\n\r\n", ("409", "Consumer Deleted")),
        (b"NATS/1.0 503\r\n\r\n", ("503", "")),
        (b"NATS/1.0   100   Idle Heartbeat \r\na: b\r\n\r\n", ("100", "  Idle Heartbeat")),
        (b"NATS/1.0 \xff\xfe junk\xff\r\n\r\n", ("\ufffd\ufffd", "junk\ufffd")),  # an edge may send it
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", None),
        (b"NATS/1.0 \r\n\r\n", None),
        (b"HTTP/1.1 503 no\r\n\r\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_only_what_the_broker_itself_says_is_a_status(headers: bytes | None, found: tuple[str, str] | None) -> None:
    expected = None if found is None else {"Status": found[0], "Description": found[1]}
    assert _status(headers) == expected


@pytest.mark.parametrize(
    ("headers", "gone"),
    [
        (b"NATS/1.0 503\r\n\r\n", True),  # nobody answers for the consumer
        (b"NATS/1.0 409 Consumer Deleted\r\n\r\n", True),
        (b"NATS/1.0 409 Leadership Change of the consumer\r\n\r\n", True),
        (b"NATS/1.0 404 No Messages\r\n\r\n", False),
        (b"NATS/1.0 408 Request Timeout\r\n\r\n", False),
        (b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n", False),
        (b"", False),
    ],
)
def test_a_request_that_ends_is_told_from_a_consumer_that_is_gone(headers: bytes, gone: bool) -> None:
    message = Msg(Client(), subject="inbox", headers=_status(headers))
    assert _consumer_is_gone(message) == gone


def test_a_broker_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library limits each of its steps, and not all of them together."""

    async def never(client: Client, *given: object, **options: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        lost = asyncio.get_running_loop().create_future()
        address = Address("127.0.0.1", 9, "frames")
        await asyncio.wait_for(connect(address, Credentials(), name="door", timeout_s=0.05, lost=lost), 30)

    monkeypatch.setattr(Client, "connect", never)
    with pytest.raises(LinkError, match="did not answer in time"):
        asyncio.run(main())


CALLBACKS = ("error_cb", "disconnected_cb", "closed_cb")
Meanwhile = Callable[[dict[str, Any]], Awaitable[None]]


def connected(
    monkeypatch: pytest.MonkeyPatch,
    credentials: Credentials,
    *,
    timeout_s: float = 10.0,
    meanwhile: Meanwhile | None = None,
    later: Meanwhile | None = None,
) -> tuple[dict[str, Any], LinkError | None]:
    """What the library's client is told, and why the connection was lost then."""
    told: dict[str, Any] = {}
    signature = inspect.signature(Client.connect)

    async def connecting(*given: object, **options: Any) -> None:
        told.update(signature.bind(*given, **options).arguments)  # as the library would take it
        if meanwhile is not None:
            await meanwhile(told)

    async def main() -> LinkError | None:
        lost = asyncio.get_running_loop().create_future()
        address = Address("127.0.0.1", 9, "frames")
        await connect(address, credentials, name="door", timeout_s=timeout_s, lost=lost)
        if later is not None:
            await later(told)
        return lost.result() if lost.done() else None

    with monkeypatch.context() as patched:
        patched.setattr(Client, "connect", connecting)
        why = asyncio.run(main())
    del told["self"]
    return told, why


def test_what_the_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told, why = connected(monkeypatch, Credentials(token="secret"), timeout_s=2.6)
    assert {name: value for name, value in told.items() if name not in CALLBACKS} == {
        "servers": ["nats://127.0.0.1:9"],
        "dont_randomize": True,
        "name": "door",
        "inbox_prefix": "_INBOX_door",
        "allow_reconnect": False,
        "connect_timeout": 3,
        "max_reconnect_attempts": 0,
        "ping_interval": 10,
        "token": "secret",
    }
    assert why is None and told.keys() >= set(CALLBACKS)
    assert connected(monkeypatch, Credentials(), timeout_s=0.2)[0]["connect_timeout"] == 1


@pytest.mark.parametrize(("server_name", "host"), [(None, "127.0.0.1"), ("broker.example", "broker.example")])
def test_with_tls_the_handshake_comes_first(
    server_name: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, _ = connected(monkeypatch, Credentials(encrypted=True, server_name=server_name))
    assert isinstance(told["tls"], ssl.SSLContext) and told["tls"].verify_mode == ssl.CERT_REQUIRED
    assert (told["tls_handshake_first"], told["tls_hostname"]) == (True, host) and "token" not in told


def test_an_error_while_connecting_ends_the_attempt_and_closes_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Client] = []

    async def close(client: Client) -> None:
        closed.append(client)

    async def refused(told: dict[str, Any]) -> None:
        await told["error_cb"](OSError("no route"))

    monkeypatch.setattr(Client, "close", close)
    with pytest.raises(LinkError, match=r"^broker 127\.0\.0\.1:9: cannot be used \(no route\)$"):
        connected(monkeypatch, Credentials(), meanwhile=refused)
    assert len(closed) == 1


@pytest.mark.parametrize("error", [OSError("no route"), asyncio.TimeoutError()])
def test_an_address_of_a_name_that_is_dead_is_not_the_last_that_is_tried(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [(socket.AF_INET6, 1, 6, "", ("2001:db8::9", 9, 0, 0)), (socket.AF_INET, 1, 6, "", ("192.0.2.1", 9))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **how: both)

    async def one_is_dead(told: dict[str, Any]) -> None:
        await told["error_cb"](error)

    async def both_are_dead(told: dict[str, Any]) -> None:
        await one_is_dead(told)
        await one_is_dead(told)

    async def the_other_refuses(told: dict[str, Any]) -> None:
        await one_is_dead(told)
        await told["error_cb"](ValueError("Authorization Violation"))

    async def the_first_refuses(told: dict[str, Any]) -> None:
        await told["error_cb"](ValueError("Authorization Violation"))

    told, _ = connected(monkeypatch, Credentials(), meanwhile=one_is_dead)
    assert told["servers"] == ["nats://[2001:db8::9]:9", "nats://192.0.2.1:9"]
    assert (told["connect_timeout"], told["dont_randomize"]) == (5, True)
    with pytest.raises(LinkError):
        connected(monkeypatch, Credentials(), meanwhile=both_are_dead)
    for refuses in (the_other_refuses, the_first_refuses):  # else the library would ask until the time is over
        with pytest.raises(LinkError, match="does not admit this side"):
            connected(monkeypatch, Credentials(), meanwhile=refuses)


def test_a_connection_is_lost_for_the_reason_that_was_given_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def denied(told: dict[str, Any]) -> None:
        await told["error_cb"](ValueError("Permissions Violation for Publish"))
        await told["closed_cb"]()

    async def closed(told: dict[str, Any]) -> None:
        await told["disconnected_cb"]()

    where = "broker 127.0.0.1:9: "
    assert str(connected(monkeypatch, Credentials(), later=denied)[1]).startswith(f"{where}this side has no permission")
    assert str(connected(monkeypatch, Credentials(), later=closed)[1]) == f"{where}the connection was lost"


class NoStreamResponseError(Exception):
    """As the library's: its name says it all."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Permissions Violation for Publish"), "this side has no permission for it"),
        (ValueError("maximum messages per subject exceeded"), "ingest takes nothing of this edge now"),
        (ValueError("maximum bytes exceeded"), "the broker's stream is full"),
        (ValueError("message size exceeds maximum allowed"), "the broker's stream takes only smaller messages"),
        (ValueError("subjects overlap with an existing stream"), "another stream of the broker takes this subject"),
        (ValueError("expected stream does not match"), "another stream of the broker takes this subject"),
        (ValueError("invalid operation on sealed stream"), "the broker's stream is sealed"),
        (ValueError("maximum messages exceeded"), "the broker's stream is full"),
        (ValueError("insufficient storage resources"), "the broker has no room left"),
        (ValueError("insufficient resources"), "the broker has no room left"),
        (ValueError("Authorization Violation"), "it does not admit this side"),
        (ValueError("JetStream not enabled"), "start the broker with JetStream"),
        (ValueError("code=None err_code=None"), "start the broker with JetStream"),
        (NoStreamResponseError(), "no stream takes this"),
        (ValueError("no response from stream"), "no stream takes this"),
        (TimeoutError(), "the broker did not answer in time"),
        (asyncio.TimeoutError(), "the broker did not answer in time"),
        (OSError("refused"), "cannot be used"),
        (KeyError(), "cannot be used"),
    ],
    ids=repr,
)
def test_errors_say_what_to_do(error: Exception, said: str) -> None:
    found = str(from_nats_error(error, "broker x"))
    assert found.startswith(f"broker x: {said}")
    if not isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        assert found.endswith(f"({error})" if str(error) else f"({type(error).__name__})")


def test_errors_of_tls_say_whose_certificate_it_is() -> None:
    not_accepted, failed = ssl.SSLCertVerificationError(1, "x"), ssl.SSLError(1, "x")
    not_accepted.verify_message, failed.reason = "self-signed", "WRONG_VERSION_NUMBER"
    assert "broker x: its certificate is not accepted (self-signed); " in str(from_nats_error(not_accepted, "broker x"))
    assert "broker x: TLS fails (WRONG_VERSION_NUMBER); " in str(from_nats_error(failed, "broker x"))
    ours = LinkError("as it was said")
    assert from_nats_error(ours, "broker x") is ours
