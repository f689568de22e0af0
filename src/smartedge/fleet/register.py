"""The register of a fleet as the cloud asks it: whether an edge may send, now."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Generic, TypeVar

from smartedge.artifacts.fleet import EdgeRegister, SimplexKeys
from smartedge.errors import FleetError, LinkError, SmartEdgeError
from smartedge.files import refuse_if_others_can_read

__all__ = ["REGISTER", "SIMPLEX_KEYS", "Register", "SimplexRegister"]

REGISTER = "edges.json"
SIMPLEX_KEYS = "simplex.json"

_log = logging.getLogger(__name__)

_LAST_S = 60.0  # how long what was read last is used, while the file is being copied or is damaged
_Content = TypeVar("_Content")


class _Watched(Generic[_Content]):
    """The content of a file that is read again when the file has changed. May be asked from any thread.

    Args:
        path: the file. Each question looks at its times and size.
        read: reads and checks it.

    Raises:
        FleetError: it cannot be read now.
    """

    def __init__(self, path: Path, read: Callable[[Path], _Content]) -> None:
        self._path, self._read = path, read
        self._lock = threading.Lock()
        self._stamp = self._stamp_now()
        self._content = read(path)
        self._fault: FleetError | None = None
        self._fault_since = 0.0

    def now(self) -> _Content:
        """The content. Where the file cannot be read, what was read last, for a minute.

        Raises:
            LinkError: it cannot be read for longer than that. The caller may ask again later.
        """
        with self._lock:
            if (stamp := self._stamp_now()) is None or stamp != self._stamp:
                self._read_again(stamp)
            if self._fault is not None and time.monotonic() - self._fault_since >= _LAST_S:
                raise LinkError(f"the cloud cannot read who may send, so it admits nobody for now ({self._fault})")
            return self._content

    def _read_again(self, stamp: tuple[int, int, int, int] | None) -> None:
        try:
            self._content, self._stamp, self._fault = self._read(self._path), stamp, None
        except FleetError as error:
            if self._fault is None:
                self._fault_since = time.monotonic()
                _log.warning("%s. What it said before counts for %g s; then nobody is admitted", error, _LAST_S)
            self._stamp, self._fault = None, error  # looked at again next time

    def _stamp_now(self) -> tuple[int, int, int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino


class Register:
    """The register in a fleet's folder. A changed file is read again, so that a revocation works without a restart.

    While it cannot be read, what it said before counts for a minute; then it admits nobody.

    Args:
        folder: of the fleet.

    Raises:
        FleetError: the register is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._register = _Watched(folder / REGISTER, EdgeRegister.read)

    def refusal(self, edge: str, serial: int | None = None) -> SmartEdgeError | None:
        """Why an edge may not send now; None: it may.

        What has expired is an error of the link: by a clock that is wrong, it may be valid again in a moment. TLS turns
        such a certificate away, which an edge takes for an outage, too.

        Args:
            edge: its name, from its certificate.
            serial: serial number of its certificate, where the link knows it. None: any of the edge's certificates
                will do, so the edge is refused when all of them are revoked.

        Raises:
            LinkError: the register cannot be read at the moment.
        """
        return _refusal(self._register.now(), edge, serial, datetime.now(timezone.utc))

    def admitted(self, edges: Iterable[str]) -> set[str]:
        """Those of the edges that may send now, as :meth:`refusal` without a serial number says.

        Raises:
            LinkError: the register cannot be read at the moment.
        """
        register, now = self._register.now(), datetime.now(timezone.utc)
        return {edge for edge in edges if _refusal(register, edge, None, now) is None}

    def edge_of(self, token: str) -> str | None:
        """The edge that a token belongs to; None: it is nobody's. Whether that edge may send, :meth:`refusal` says.

        A token is ``EDGE.SECRET``. The register holds its SHA-256, so reading the register gives no token away.

        Raises:
            LinkError: the register cannot be read at the moment.
        """
        edge = token.partition(".")[0]
        entry = self._register.now().edges.get(edge)
        shown = hashlib.sha256(token.encode()).hexdigest()
        expected = (entry.token_sha256 if entry is not None else None) or "0" * 64
        return edge if hmac.compare_digest(shown, expected) else None


class SimplexRegister:
    """The keys of the one-way link, as the cloud asks for them. An edge that may not send has none.

    Args:
        folder: of the fleet.

    Raises:
        FleetError: a file is missing or damaged, or others may read the keys.
    """

    def __init__(self, folder: Path) -> None:
        self._register = Register(folder)
        self._keys = _Watched(folder / SIMPLEX_KEYS, _read_keys)
        self._told = ""  # the fault that was told last
        self._known: set[str] = set()  # edges that have, or had, a key
        self._refused: set[str] = set()  # edges whose datagrams were said to be dropped

    def keys(self) -> dict[str, bytes]:
        """Name of an edge → its key, now. Empty where a file cannot be read for longer than a minute."""
        try:
            keys = self._keys.now()
            admitted = self._register.admitted(keys)
            self._known |= keys.keys()  # revoking an edge removes its key
            for edge in sorted(self._known - admitted - self._refused):  # nobody else can tell that edge's owner
                why = self._register.refusal(edge) or f"it has no key in {SIMPLEX_KEYS} any more"
                _log.warning("datagrams of edge %s are dropped: %s", edge, why)
            self._refused = self._known - admitted
            return {edge: key for edge, key in keys.items() if edge in admitted}
        except LinkError as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.error("no datagram is taken: %s", error)
            return {}


def _refusal(register: EdgeRegister, edge: str, serial: int | None, now: datetime) -> SmartEdgeError | None:
    entry = register.edges.get(edge)
    if entry is None:
        return FleetError(f"edge '{edge}' is not of this fleet; the fleet's owner adds it with 'smartedge fleet add'")
    if entry.shows == "token":
        until = [] if entry.token_until is None else [entry.token_until]
    else:
        issued = [each for each in entry.certificates if serial is None or each.serial == f"{serial:x}"]
        if not issued:
            return FleetError(f"the certificate of edge '{edge}' is not in the fleet's register; renew its bundle")
        until = [each.until for each in issued if not each.revoked]
    if any(each > now for each in until):
        return None
    what = f"the {entry.shows} of edge '{edge}'"
    remedy = "the fleet's owner makes a new bundle with 'smartedge fleet renew'"
    if not until:
        return FleetError(f"{what} was revoked; {remedy}")
    return LinkError(f"{what} has expired; {remedy}. Is the cloud's clock right?")


def _read_keys(path: Path) -> dict[str, bytes]:
    if path.exists():
        refuse_if_others_can_read(path, FleetError, "the keys of the one-way link")
    return {edge: bytes.fromhex(key) for edge, key in SimplexKeys.read(path).keys.items()}
