"""Says in words whether a cloud answers, and whether its link fits the credentials of this side.

gRPC tells a sender only that it cannot connect, and tries again until its time is up. So a sender greets the receiver
by itself before it begins, and where gRPC could not connect. A receiver of gRPC that refuses a certificate sends no
alert. It closes the connection, where it would otherwise send its first message.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from smartedge.errors import LinkError
from smartedge.files import PRIVATE, disk_error
from smartedge.wire.addresses import split_location
from smartedge.wire.credentials import Credentials

__all__ = ["LOOK_S", "greet", "tls_context"]

LOOK_S = 2.0  # somebody waits for the answer
_TRIES = 3  # a connection that is closed as many times in the same way was not closed by a bad link
_ABOUT_CERTIFICATES = ("ALERT_CERTIFICATE", "ALERT_BAD_CERTIFICATE", "ALERT_UNSUPPORTED_CERTIFICATE", "UNKNOWN_CA")
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # the greeting, without settings
_SETTINGS = 4  # kind of the first frame that every HTTP/2 program sends
_FRAME_HEAD = 9  # bytes


def greet(location: str, credentials: Credentials, wait_s: float = LOOK_S) -> str | None:
    """Connect once to ``host:port``, as a sender with these credentials does, and say how that went.

    A link that breaks meanwhile, and a receiver that is slow, are taken for one that is not there: they may be there
    later. What will not be otherwise later is an error.

    Args:
        location: of the receiver.
        credentials: what this side shows, and how it checks the receiver.
        wait_s: how long this may take, also where the network looks for a name.

    Returns:
        Why nobody answers, for the user; None: a receiver does.

    Raises:
        LinkError: somebody answers who uses TLS where this side does not, or the other way round; whose certificate
            this side does not accept, or who does not accept the one of this side; or who speaks another language.
    """
    where, silent = split_location(location), f"no answer within {wait_s:g} s"
    context = tls_context(credentials) if credentials.tls else None
    ended: list[str | BaseException | None] = []

    def look() -> None:
        try:
            if context is None:
                ended.append(_greet_in_clear(location, where, wait_s))
            else:
                ended.append(_greet_with_tls(location, where, credentials, context, wait_s))
        except TimeoutError:  # sockets and TLS say it in their own words
            ended.append(silent)
        except (OSError, UnicodeError) as error:  # the latter: a name that no host can have
            ended.append(getattr(error, "strerror", None) or str(error))
        except BaseException as error:
            ended.append(error)

    looking = threading.Thread(target=look, name="greeting", daemon=True)
    looking.start()
    looking.join(timeout=wait_s)
    if not ended:
        return silent
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def _greet_with_tls(
    location: str, where: tuple[str, int], credentials: Credentials, context: ssl.SSLContext, wait_s: float
) -> str | None:
    context.set_alpn_protocols(["h2"])
    name = credentials.server_name or where[0]
    for _ in range(_TRIES):
        try:
            with (
                _connected(where, wait_s) as connection,
                context.wrap_socket(connection, server_hostname=name) as secured,
            ):
                if secured.selected_alpn_protocol() != "h2":
                    raise LinkError(
                        f"link to {location}: the other side uses TLS without HTTP/2; is it a smartedge cloud, or a "
                        "proxy that passes HTTP/2 on?"
                    )
                if _first_words(lambda: secured.sendall(_HTTP2), secured.recv):
                    return None
        except ssl.SSLCertVerificationError as error:
            raise LinkError(
                f"link to {location}: the cloud's certificate is not accepted ({error.verify_message}); is it the "
                "cloud of this edge's fleet, and is this machine's clock right?"
            ) from error
        except ssl.SSLEOFError:
            return "the connection was closed while it was made"
        except ssl.SSLError as error:
            reason = str(error.reason)
            if "ALERT" not in reason and _greeted_in_clear(where, wait_s):
                raise LinkError(
                    f"link to {location}: the other side does not use TLS; is it a cloud that was started with "
                    "--fleet, or with link.tls_cert?"
                ) from error
            if not any(word in reason for word in _ABOUT_CERTIFICATES):
                return f"TLS failed: {reason}"
    if credentials.certificate is None:
        raise LinkError(
            f"link to {location}: the cloud asks for a certificate; give --bundle, or set link.tls_cert and "
            "link.tls_key"
        )
    raise LinkError(
        f"link to {location}: the cloud refuses this edge's certificate: it has expired, was signed for another fleet, "
        "or is not one for an edge. The fleet's owner makes a new bundle with 'smartedge fleet renew'"
    )


def _greet_in_clear(location: str, where: tuple[str, int], wait_s: float) -> str | None:
    words = _greeted_in_clear(where, wait_s)
    if len(words) == _FRAME_HEAD and words[3] == _SETTINGS:
        return None
    if _takes_tls(where, wait_s):
        raise LinkError(
            f"link to {location}: the cloud uses TLS, and this side does not; give --bundle, or set link.tls_ca (and "
            "link.tls_cert with link.tls_key where the cloud asks for a certificate)"
        )
    if len(words) == _FRAME_HEAD:
        raise LinkError(f"link to {location}: what answers there is not a smartedge cloud; is this its address?")
    return "the connection was closed while it was made"


def _greeted_in_clear(where: tuple[str, int], wait_s: float) -> bytes:
    with _connected(where, wait_s) as connection:
        return _first_words(lambda: connection.sendall(_HTTP2), connection.recv)


def _connected(where: tuple[str, int], wait_s: float) -> socket.socket:
    """A connection to one of the addresses of a name. Each has its share of the time, since one of them may be dead."""
    addresses = {address for *_, address in socket.getaddrinfo(*where, type=socket.SOCK_STREAM)}
    connection = socket.create_connection(where, timeout=wait_s / len(addresses))
    connection.settimeout(wait_s)
    return connection


def _first_words(say: Callable[[], object], hear: Callable[[int], bytes]) -> bytes:
    """What the other side says first, as long as the head of a frame; less where it closed the connection before."""
    words = b""
    try:
        say()
        while len(words) < _FRAME_HEAD and (more := hear(_FRAME_HEAD - len(words))):
            words += more
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):  # it was closed before all was read
        pass
    return words


def _takes_tls(where: tuple[str, int], wait_s: float) -> bool:
    """Whether somebody there uses TLS, with any certificate. Nothing is sent, and nothing believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(where, wait_s) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason)
    except ConnectionError:
        return False
    return True


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """What Python's own TLS needs of a sender's credentials. It also checks those of a receiver.

    Raises:
        LinkError: a certificate or key is not valid; or there is no place for them.
    """
    try:
        context = ssl.create_default_context(cadata=None if credentials.ca is None else credentials.ca.decode("ascii"))
        if credentials.certificate is not None and credentials.key is not None:
            with _file_of(credentials.certificate + b"\n" + credentials.key) as path:
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise LinkError(
            f"link: a certificate or key is no valid PEM, or they do not belong together ({error}); copy both again, "
            "or make new ones ('smartedge fleet renew DIR' for a fleet's cloud)"
        ) from error
    except OSError as error:
        raise LinkError(f"link: certificate and key cannot be given to TLS: {disk_error(error)}") from error
    return context


@contextlib.contextmanager
def _file_of(content: bytes) -> Iterator[Path]:
    """A file for the block, since TLS reads a certificate from a file only. On Linux it is in memory, not on a disk."""
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            file = stack.enter_context(os.fdopen(os.memfd_create("pair", os.MFD_CLOEXEC), "wb"))
            path = Path(f"/dev/fd/{file.fileno()}")
        else:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "pair.pem"
            file = stack.enter_context(os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb"))
        file.write(content)
        file.flush()
        yield path
