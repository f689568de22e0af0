"""Says in words why TLS with a receiver fails.

gRPC tells a sender only that it cannot connect, and tries again until its time is up. So a sender makes one handshake
with Python's own TLS before it begins. A receiver of gRPC that refuses a certificate sends no alert. It closes the
connection, where it would otherwise send its first message.
"""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from pathlib import Path

from smartedge.errors import LinkError
from smartedge.files import PRIVATE
from smartedge.wire.credentials import Credentials
from smartedge.wire.sockets import split_location

__all__ = ["check_clear", "check_handshake", "why_unreachable"]

_WAIT_S = 5.0
_LOOK_S = 2.0  # somebody waits for the answer


def why_unreachable(location: str) -> str | None:
    """Why nothing takes a connection at ``host:port`` now; None: something does."""
    try:
        socket.create_connection(split_location(location), timeout=_LOOK_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def check_clear(location: str) -> None:
    """Greet the receiver with TLS, which it should not take where this side talks in clear.

    Raises:
        LinkError: it does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent, and nothing believed
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(split_location(location), timeout=_LOOK_S) as connection:
            context.wrap_socket(connection).close()
    except OSError:  # it does not take TLS, or is not there
        return
    raise LinkError(
        f"link to {location}: the cloud uses TLS, and this side does not; give --bundle, or set link.tls_ca (and "
        "link.tls_cert with link.tls_key where the cloud asks for a certificate)"
    )


def check_handshake(location: str, credentials: Credentials) -> None:
    """Make one TLS handshake with the receiver, where these credentials use TLS and the receiver can be reached.

    Nothing is said about a receiver that cannot be reached, or that closes the connection without a reason: the link
    tries again later.

    Raises:
        LinkError: this side does not accept the receiver's certificate, or the receiver does not accept this side's.
    """
    if not credentials.tls:
        return
    host, port = split_location(location)
    try:
        context = tls_context(credentials)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout=_WAIT_S) as connection,
            context.wrap_socket(connection, server_hostname=credentials.server_name or host) as secured,
        ):
            answered = secured.recv(1) != b""
    except ssl.SSLCertVerificationError as error:
        raise LinkError(
            f"link to {location}: the cloud's certificate is not accepted ({error.verify_message}); is it the cloud of "
            "this edge's fleet, and is this machine's clock right?"
        ) from error
    except (OSError, ssl.SSLError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            raise LinkError(
                f"link to {location}: the other side does not use TLS; is it a cloud that was started with --fleet, or "
                "with link.tls_cert?"
            ) from error
        return  # not there, or gone
    if answered:
        return
    if credentials.certificate is None:
        raise LinkError(
            f"link to {location}: the cloud asks for a certificate; give --bundle, or set link.tls_cert and "
            "link.tls_key"
        )
    raise LinkError(
        f"link to {location}: the cloud refuses this edge's certificate: it has expired, was signed for another fleet, "
        "or is not one for an edge. The fleet's owner makes a new bundle with 'smartedge fleet renew'"
    )


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """What Python's own TLS needs of a sender's credentials. It also checks those of a receiver.

    Raises:
        LinkError: a certificate or key is not valid.
    """
    try:
        context = ssl.create_default_context(cadata=None if credentials.ca is None else credentials.ca.decode("ascii"))
        if credentials.certificate is not None and credentials.key is not None:
            with tempfile.TemporaryDirectory() as folder:  # ssl reads a certificate from a file only
                path = Path(folder) / "pair.pem"
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(credentials.certificate + b"\n" + credentials.key)
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise LinkError(
            f"link: a certificate or key is no valid PEM, or they do not belong together ({error}); copy both again, "
            "or make new ones ('smartedge fleet renew DIR' for a fleet's cloud)"
        ) from error
    return context
