"""What the two sides of a link show to each other, how they check it, and who may send."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from smartedge.errors import LinkError, SmartEdgeError
from smartedge.files import refuse_if_others_can_read
from smartedge.wire.addresses import is_loopback

__all__ = ["TOKEN_HEADER", "Credentials", "Guard", "bearer", "listens_in_clear"]

TOKEN_HEADER = "authorization"


@dataclass(frozen=True)
class Credentials:
    """Certificates, key and token of one side. Certificates and keys are PEM.

    Raises:
        LinkError: a certificate without its key, or a token that is not printable ASCII.
    """

    ca: bytes | None = None  # certificates that check the other side's; at a receiver: senders must show one
    certificate: bytes | None = None  # of this side
    key: bytes | None = field(default=None, repr=False)  # its private key
    token: str | None = field(default=None, repr=False)
    server_name: str | None = None  # at a sender: the name in the receiver's certificate; None: that of the address
    encrypted: bool = False  # at a sender: use TLS, also without ``ca``; the machine's list then checks the receiver

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise LinkError("link: a certificate needs its private key, and a key its certificate")
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise LinkError("link.token_file: the token must be printable ASCII, and not empty")

    @property
    def tls(self) -> bool:
        """Whether a sender with these credentials uses TLS."""
        return self.encrypted or self.ca is not None or self.certificate is not None

    @classmethod
    def from_files(
        cls,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        token: str | None = None,
    ) -> Credentials:
        """Read certificates and key.

        Raises:
            LinkError: a file cannot be read, or users other than its owner may read the key.
        """
        if key is not None and key.exists():
            refuse_if_others_can_read(key, LinkError, "a private key")
        return cls(_bytes(ca), _bytes(certificate), _bytes(key), token)


class Guard(Protocol):
    """Says who may send, at any time. :class:`smartedge.fleet.register.Register` is one."""

    def refusal(self, edge: str, serial: int | None = None) -> SmartEdgeError | None:
        """Why the edge of that name may not send now, with that certificate; None: it may.

        An error of the link where the edge may try again, which goes on with its run until then.

        Raises:
            LinkError: this cannot be told at the moment.
        """

    def edge_of(self, token: str) -> str | None:
        """Name of the edge that a token belongs to; None: it is nobody's.

        Raises:
            LinkError: this cannot be told at the moment.
        """


def listens_in_clear(host: str, credentials: Credentials, *, insecure: bool) -> bool:
    """Whether a receiver at this address would take frames from other machines without TLS and a proof of who sends.

    Raises:
        LinkError: it would, and ``insecure`` does not allow it.
    """
    proves = credentials.certificate is not None and (credentials.token is not None or credentials.ca is not None)
    if is_loopback(host) or proves:
        return False
    if not insecure:
        raise LinkError(
            f"refusing to listen on {host}, beyond this machine, without TLS and a token (or client certificates): "
            "give --fleet, or set link.tls_cert, link.tls_key and link.token_file, or link.insecure to accept it"
        )
    return True


def bearer(token: str) -> str:
    """The value of the header :data:`TOKEN_HEADER` that shows a token."""
    return f"Bearer {token}"


def _bytes(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise LinkError(f"{path}: cannot be read ({error.strerror})") from error
