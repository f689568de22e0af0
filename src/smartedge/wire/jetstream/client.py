"""A connection to a broker, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any

from smartedge.errors import LinkError
from smartedge.wire.addresses import is_loopback, location_of
from smartedge.wire.credentials import Credentials
from smartedge.wire.handshake import tls_context
from smartedge.wire.jetstream.messages import Address

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["connect", "from_nats_error", "refuse_in_clear"]

_log = logging.getLogger(__name__)

_READ_BYTES = 2**18  # at a time; a MB in pieces of 32 KiB, as the library reads, takes a quarter more processor time

_QUIET = logging.getLogger("nats")  # it logs tracebacks of errors that are raised or handled anyway

_NO_STREAM = (
    "no stream takes this; 'smartedge ingest' makes it when it first starts, where its address names at least as many "
    "streams as this side's"
)
_TAKEN = "another stream of the broker takes this subject; delete that one, or take the subject from it"
# What the broker says, in part -> what to do. In the order in which they are looked for.
_ADVICE = (
    ("permissions violation", "this side has no permission for it ('smartedge fleet broker' writes permissions)"),
    ("maximum messages per subject", "ingest takes nothing of this edge now; is it running, and what does it say?"),
    ("maximum bytes", "the broker's stream is full; is 'smartedge ingest' running? Else raise its max_bytes"),
    ("maximum messages", "the broker's stream is full; is 'smartedge ingest' running? Else raise its max_msgs"),
    ("maximum allowed", "the broker's stream takes only smaller messages; raise or remove its max_msg_size"),
    ("subjects overlap", _TAKEN),
    ("expected stream does not match", _TAKEN),
    ("sealed", "the broker's stream is sealed, and takes nothing any more; let ingest make another one"),
    ("insufficient storage", "the broker has no room left; make room on its disk, or raise max_file_store"),
    ("insufficient resources", "the broker has no room left; make room on its disk, or raise max_file_store"),
    ("authorization", "it does not admit this side; give --bundle (edge) or --fleet (ingest), or link.token_file"),
    ("jetstream not enabled", "start the broker with JetStream (docs/broker.md)"),
    ("code=none err_code=none", "start the broker with JetStream (docs/broker.md)"),  # nobody answers for it
    ("nostreamresponse", _NO_STREAM),
    ("no response from stream", _NO_STREAM),
)
_TIMEOUT = (
    "the broker did not answer in time. It may be overloaded; its disk may be full (its log says so; make room, and "
    "start it again); or this side may have no permission: a broker does not answer what it denies ('smartedge fleet "
    "broker' writes its permissions)"
)


def refuse_in_clear(address: Address, credentials: Credentials, *, insecure: bool) -> None:
    """Refuse to talk to a broker beyond this machine without TLS.

    Raises:
        LinkError: ``insecure`` would be needed.
    """
    if credentials.tls or is_loopback(address.host):
        return
    if not insecure:
        raise LinkError(
            f"refusing to talk to the broker on {address.host}, beyond this machine, without TLS: use a bundle of the "
            "cloud's fleet (edge) or --fleet (ingest), set link.tls_ca, or set link.insecure to accept it"
        )
    _log.warning("talking to the broker on %s in clear: anybody on the way can read and change it", address.host)


async def connect(
    address: Address, credentials: Credentials, *, name: str, timeout_s: float, lost: asyncio.Future[LinkError]
) -> Client:
    """Connect once, and never again by itself.

    With TLS the handshake comes first, before a word in clear: a machine in between cannot talk this side out of it.

    Args:
        address: of the broker.
        credentials: what this side shows, and how it checks the broker.
        name: of the edge, or of the ingest process. Answers come to an inbox of that name, so that nobody else needs a
            permission to read there.
        timeout_s: for the connection, in seconds.
        lost: is set when the connection is lost, or the broker has denied something.

    Raises:
        LinkError: it cannot be reached, or does not admit this side.
        ModuleNotFoundError: ``nats-py`` is not installed.
    """
    import nats.aio.client
    from nats.aio.client import Client

    nats.aio.client.DEFAULT_BUFFER_SIZE = _READ_BYTES  # there is no option for it

    class Robust(Client):
        """Reads of headers only what the broker says. The library's reader breaks off at what an edge may send."""

        async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
            return _status(headers)

    _QUIET.setLevel(logging.CRITICAL)
    where = f"broker {address.location}"
    dead = 0  # addresses of the broker's name that did not answer

    def lose(error: LinkError) -> None:
        if not lost.done():
            lost.set_result(error)

    async def on_error(error: Exception) -> None:
        nonlocal dead
        if not connected:
            dead += 1
            if not isinstance(error, (OSError, asyncio.TimeoutError)) or dead >= len(servers):
                raise error  # else the library would try again until the time is over
            return
        lose(from_nats_error(error, where))

    async def on_close() -> None:
        lose(LinkError(f"{where}: the connection was lost"))

    client, connected, servers = Robust(), False, list[str]()
    options: dict[str, Any] = {}
    if credentials.tls:
        options["tls"] = tls_context(credentials)
        options["tls_handshake_first"] = True
        options["tls_hostname"] = credentials.server_name or address.host
    if credentials.token is not None:
        options["token"] = credentials.token
    try:
        looking = asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        found = await asyncio.wait_for(looking, timeout_s)
        servers += dict.fromkeys(f"nats://{location_of(str(each[0]), address.port)}" for *_, each in found)
        await asyncio.wait_for(
            client.connect(
                servers,
                dont_randomize=True,
                name=name,
                inbox_prefix=f"_INBOX_{name}",
                allow_reconnect=False,
                connect_timeout=max(1, round(timeout_s / len(servers))),  # of each
                max_reconnect_attempts=0,
                error_cb=on_error,
                disconnected_cb=on_close,
                closed_cb=on_close,
                ping_interval=10,
                **options,
            ),
            timeout_s,
        )
    except BaseException as error:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.close(), 2.0)
        if not isinstance(error, Exception):
            raise
        raise from_nats_error(error, where) from error
    connected = True
    return client


def _status(headers: bytes | None) -> dict[str, str] | None:
    """Status and description of a message of the broker itself; None: it has neither."""
    line, _, _ = (headers or b"").partition(b"\r\n")
    version, _, said = line.decode(errors="replace").partition(" ")
    status, _, description = said.strip().partition(" ")
    return {"Status": status, "Description": description} if version == "NATS/1.0" and status else None


def from_nats_error(error: Exception, where: str) -> LinkError:
    """Our error for one of the library or of the connection."""
    if isinstance(error, LinkError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return LinkError(
            f"{where}: its certificate is not accepted ({error.verify_message}); is it the broker of this edge's "
            "fleet, and is this machine's clock right?"
        )
    if isinstance(error, ssl.SSLError):
        return LinkError(
            f"{where}: TLS fails ({error.reason}); the broker must use TLS with handshake_first: true, and accept this "
            "side's certificate ('smartedge fleet broker' writes its settings)"
        )
    text = str(error) or type(error).__name__
    said = f"{type(error).__name__} {text}".lower()
    if advice := next((advice for part, advice in _ADVICE if part in said), None):
        return LinkError(f"{where}: {advice} ({text})")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return LinkError(f"{where}: {_TIMEOUT}")
    return LinkError(f"{where}: cannot be used ({text})")
