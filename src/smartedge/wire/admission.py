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

from smartedge.errors import FleetError, LinkError, SmartEdgeError
from smartedge.logs import plain
from smartedge.types import EDGE_NAME
from smartedge.wire.credentials import TOKEN_HEADER, Credentials, Guard, bearer
from smartedge.wire.link import UNNAMED_EDGE
from smartedge.wire.x509 import serial_of

__all__ = ["Access", "Peer", "RefusalLog"]

_log = logging.getLogger(__name__)

_WINDOW_S = 60.0
_SENDERS = 4096  # remembered at most
_LINES_OF_A_SENDER = 5  # in a window
_LINES = 100  # of all senders, in a window
_AT_ONCE = 5  # refusals that a sender hears of at once
_DELAY_S = 1.0  # of the next one; twice as long each time
_LONGEST_DELAY_S = 16.0  # a connection that proved nothing is closed after 20 s: its sender must hear why before
_BROKEN_OFF_S = 0.2  # until the next stream of an edge whose stream broke off
_REFUSALS_A_SECOND = 100.0  # of all senders: a flood from many addresses must leave time for edges


@dataclass(frozen=True)
class Peer:
    """A sender that was let in."""

    edge: str
    serial: int | None  # of its certificate

    @property
    def name(self) -> str | None:
        """The name that it has proved; None where it has none of its own."""
        return None if self.edge == UNNAMED_EDGE else self.edge


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
            LinkError: it may not send now; later it may.
        """
        shown = str(metadata.get(TOKEN_HEADER, ""))
        if self._expected is not None and not hmac.compare_digest(shown.encode(), self._expected):
            raise FleetError("the token is missing or wrong; set link.token_file to the same secret on both sides")
        peer = Peer(UNNAMED_EDGE, None)
        if self._certified:
            peer = self._certificate_of(auth)
        elif self._guard is not None:
            edge = self._guard.edge_of(shown.removeprefix("Bearer "))
            if edge is None:
                raise FleetError("the edge's token is missing, wrong or revoked; renew its bundle")
            peer = Peer(edge, None)
        if (refusal := self.refusal(peer)) is not None:
            raise refusal
        return peer

    def refusal(self, peer: Peer) -> SmartEdgeError | None:
        """Why a sender that was let in may not send any more; None: it may."""
        return None if self._guard is None else self._guard.refusal(peer.edge, peer.serial)

    def _certificate_of(self, auth: Mapping[str, Any]) -> Peer:
        names, certificates = list(auth.get("x509_common_name", ())), list(auth.get("x509_pem_cert", ()))
        edge = names[0].decode(errors="replace") if len(names) == 1 else ""
        if not re.fullmatch(EDGE_NAME, edge):  # without a guard, too: else all such senders would share one log
            raise FleetError(
                "the certificate's common name is no name of an edge (1 to 63 of a-z 0-9 _ -, beginning with a letter "
                "or digit); use a bundle of the cloud's fleet, or make a certificate with such a name"
            )
        return Peer(edge, serial_of(certificates[0]) if certificates else None)


@dataclass
class _Sender:
    since: float  # begin of its window for lines of log
    last: float  # its last refusal
    refusals: int = 0  # since it was quiet for a whole window
    said: int = 0  # lines in its window
    unsaid: int = 0
    next_at: float = 0.0  # an edge's next stream waits until then


@dataclass
class RefusalLog:
    """Says who was refused and why, a few times a minute for each sender; slows down who is refused often.

    A sender that has proved its name is that edge, wherever it comes from. Any other one is its host. So an edge does
    not suffer for others behind its address, or behind the same proxy.

    A sender hears of a refusal when :meth:`refuse` returns, and has only a few calls at a time. So a late answer slows
    it down. A sender that was refused five times waits 1 s, then twice as long each time, up to 16 s, until it was
    quiet for a minute. All senders together get a bounded number of answers a second, as long as those wait no longer.
    Who hangs up in place of waiting gains nothing where it is an edge: its next stream waits, too, before it is read.
    """

    total: int = 0
    _free_at: float = 0.0  # when the next answer may go
    _hosts: dict[str, _Sender] = field(default_factory=dict)
    _edges: dict[str, _Sender] = field(default_factory=dict)  # apart: no number of strangers makes an edge forgotten
    _since: float = 0.0
    _lines: int = 0

    async def let_in(self, edge: str) -> None:
        """Return when the next stream of an edge may begin: at once, unless it was refused often or broke off."""
        seen = self._edges.get(edge)
        while seen is not None and (left := seen.next_at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if seen is not None and seen.refusals > _AT_ONCE:
            seen.next_at = time.monotonic() + _DELAY_S  # streams that waited beside it come one by one

    async def refuse(self, host: str, who: str, error: SmartEdgeError, *, edge: str | None = None) -> None:
        """Log a refusal. Returns when the sender may hear of it.

        Args:
            host: where it comes from.
            who: how it is named in the log.
            error: why. An error of the link is nobody's fault, and costs only a short wait.
            edge: the name that it has proved.
        """
        now = time.monotonic()
        self.total += 1
        if now - self._since > _WINDOW_S:
            self._since, self._lines = now, 0
        seen = self._seen(host, edge, now)
        if seen.said < _LINES_OF_A_SENDER:
            seen.said += 1
            self._say("stream from %s: [%s] %s", _short(who), error.code, _short(str(error)))
        else:
            seen.unsaid += 1
        late = 0.0
        if not isinstance(error, LinkError):
            seen.refusals += 1
            too_many = seen.refusals - _AT_ONCE
            late = min(_LONGEST_DELAY_S, _DELAY_S * 2 ** min(too_many - 1, 16)) if too_many > 0 else 0.0
        seen.next_at = max(seen.next_at, now + max(late, _BROKEN_OFF_S))
        # Who hangs up before its answer does not wait, so without a bound a flood would delay everybody's for hours.
        self._free_at = min(max(now, self._free_at) + 1 / _REFUSALS_A_SECOND, now + _LONGEST_DELAY_S)
        await asyncio.sleep(max(late, self._free_at - now))

    def _seen(self, host: str, edge: str | None, now: float) -> _Sender:
        """What is known of a sender; its counts begin anew where it was quiet."""
        name, senders = (host, self._hosts) if edge is None else (edge, self._edges)
        seen = senders.pop(name, None) or _Sender(now, now)
        if len(senders) >= _SENDERS:
            del senders[next(iter(senders))]  # the one that was refused the longest ago
        senders[name] = seen
        if now - seen.since > _WINDOW_S:
            if seen.unsaid:
                self._say("%s: %d more refusals within a minute", _short(name), seen.unsaid)
            seen.since, seen.said, seen.unsaid = now, 0, 0
        if now - seen.last > _WINDOW_S:
            seen.refusals = 0
        seen.last = now
        return seen

    def _say(self, text: str, *values: object) -> None:
        self._lines += 1
        if self._lines <= _LINES:
            _log.warning(text, *values)


def _short(text: str) -> str:
    """Text that may come from anybody, on one line and of bounded length."""
    return plain(text[:500])
