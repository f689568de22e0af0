"""Who a sender is, whether it may send, and how often a sender that was refused may be heard.

A call is checked by its metadata and its connection's certificate, before a message of it is read.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smartedge.errors import FleetError
from smartedge.types import EDGE_NAME
from smartedge.wire.credentials import TOKEN_HEADER, Credentials, Guard, bearer
from smartedge.wire.link import UNNAMED_EDGE
from smartedge.wire.x509 import serial_of

__all__ = ["Access", "Peer", "RefusalLog"]

_log = logging.getLogger(__name__)

_WINDOW_S = 60.0
_HOSTS = 4096  # remembered at most
_LINES_OF_A_HOST = 5  # in a window
_LINES = 100  # of all hosts, in a window
_AT_ONCE = 5  # refusals that a host hears of at once
_DELAY_S = 1.0  # of the next one; twice as long each time
_LONGEST_DELAY_S = 16.0  # a connection that proved nothing is closed after 20 s: its sender must hear why before
_REFUSALS_A_SECOND = 200.0  # of all hosts: a flood from many addresses must leave time for edges


@dataclass(frozen=True)
class Peer:
    """A sender that was let in."""

    edge: str
    serial: int | None  # of its certificate


class Access:
    """Lets senders in.

    Args:
        credentials: with ``ca``, senders have certificates, which TLS has checked, and the common name is the edge's.
            With ``token``, senders must show the same one.
        guard: says which edges may send. Where senders have no certificates, each must show a token of its own.
    """

    def __init__(self, credentials: Credentials, guard: Guard | None) -> None:
        self._certified = credentials.ca is not None
        self._guard = guard
        self._expected = None if credentials.token is None else bearer(credentials.token).encode()

    @property
    def proves(self) -> bool:
        """Whether a sender that was let in has proved who it is, or that it knows a secret."""
        return self._certified or self._guard is not None or self._expected is not None

    def admit(self, metadata: Mapping[str, str], auth: Mapping[str, Any]) -> Peer:
        """The sender of a call.

        Args:
            metadata: of the call.
            auth: what gRPC knows of the connection's certificate.

        Raises:
            FleetError: it may not send.
        """
        shown = str(metadata.get(TOKEN_HEADER, ""))
        if self._expected is not None and not hmac.compare_digest(shown.encode("utf-8", "replace"), self._expected):
            raise FleetError("the token is missing or wrong; set link.token_file to the same secret on both sides")
        peer = Peer(UNNAMED_EDGE, None)
        if self._certified:
            peer = self._certificate_of(auth)
        elif self._guard is not None:
            edge = self._guard.edge_of(shown.removeprefix("Bearer "))
            if edge is None:
                raise FleetError("the edge's token is missing, wrong, expired or revoked; renew its bundle")
            peer = Peer(edge, None)
        if refusal := self.refusal(peer):
            raise FleetError(refusal)
        return peer

    def refusal(self, peer: Peer) -> str | None:
        """Why a sender that was let in may not send any more; None: it may."""
        return None if self._guard is None else self._guard.refusal(peer.edge, peer.serial)

    def _certificate_of(self, auth: Mapping[str, Any]) -> Peer:
        names, certificates = list(auth.get("x509_common_name", ())), list(auth.get("x509_pem_cert", ()))
        edge = names[0].decode("utf-8", "replace") if len(names) == 1 else ""
        if not re.fullmatch(EDGE_NAME, edge):
            if self._guard is None:
                return Peer(UNNAMED_EDGE, None)
            raise FleetError("the certificate's common name is no name of an edge; use a bundle of the cloud's fleet")
        return Peer(edge, serial_of(certificates[0]) if certificates else None)


@dataclass
class _Host:
    since: float  # begin of its window for lines of log
    last: float  # its last refusal
    refusals: int = 0  # since it was quiet for a whole window
    said: int = 0  # lines in its window
    unsaid: int = 0


@dataclass
class RefusalLog:
    """Says who was refused and why, a few times a minute for each host; slows down who is refused often.

    A sender hears of a refusal when :meth:`refuse` returns, and has only a few calls at a time. So a late answer slows
    it down. A host that was refused five times waits 1 s, then twice as long each time, up to 16 s, until it was
    quiet for a minute. All hosts together get a bounded number of answers a second, as long as those wait no longer.
    """

    total: int = 0
    _free_at: float = 0.0  # when the next answer may go
    _hosts: dict[str, _Host] = field(default_factory=dict)
    _since: float = 0.0
    _lines: int = 0

    async def refuse(self, host: str, who: str, error: Exception) -> None:
        """Log a refusal. Returns when the sender may hear of it."""
        now = time.monotonic()
        self.total += 1
        if now - self._since > _WINDOW_S:
            self._since, self._lines = now, 0
        seen = self._hosts.pop(host, None) or _Host(now, now)
        if len(self._hosts) >= _HOSTS:
            del self._hosts[next(iter(self._hosts))]  # the one that was refused the longest ago
        self._hosts[host] = seen
        if now - seen.since > _WINDOW_S:
            if seen.unsaid:
                self._say("%s: %d more refusals within a minute", _plain(host), seen.unsaid)
            seen.since, seen.said, seen.unsaid = now, 0, 0
        if now - seen.last > _WINDOW_S:
            seen.refusals = 0
        seen.last = now
        seen.refusals += 1
        if seen.said < _LINES_OF_A_HOST:
            seen.said += 1
            self._say("stream from %s: [%s] %s", _plain(who), getattr(error, "code", "SE"), _plain(str(error)))
        else:
            seen.unsaid += 1
        # Who hangs up before its answer does not wait, so without a bound a flood would delay everybody's for hours.
        self._free_at = min(max(now, self._free_at) + 1 / _REFUSALS_A_SECOND, now + _LONGEST_DELAY_S)
        too_many = seen.refusals - _AT_ONCE
        late = min(_LONGEST_DELAY_S, _DELAY_S * 2 ** min(too_many - 1, 16)) if too_many > 0 else 0.0
        await asyncio.sleep(max(late, self._free_at - now))

    def _say(self, text: str, *values: object) -> None:
        self._lines += 1
        if self._lines <= _LINES:
            _log.warning(text, *values)


def _plain(text: str) -> str:
    """Text that may come from anybody, on one line, without control characters and of bounded length."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:500])
