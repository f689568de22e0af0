"""The register of a fleet as the cloud asks it: whether an edge may send, now."""

from __future__ import annotations

import hashlib
import hmac
import threading
from datetime import datetime, timezone
from pathlib import Path

from smartedge.artifacts.fleet import EdgeRegister, SimplexKeys
from smartedge.errors import FleetError
from smartedge.files import refuse_if_others_can_read

__all__ = ["REGISTER", "SIMPLEX_KEYS", "Register", "SimplexRegister"]

REGISTER = "edges.json"
SIMPLEX_KEYS = "simplex.json"


class Register:
    """The register in a fleet's folder. A changed file is read again, so that a revocation works without a restart.

    Each question looks at the file's time and size first. A register that cannot be read admits nobody.

    Args:
        folder: of the fleet.

    Raises:
        FleetError: the register is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / REGISTER
        self._lock = threading.Lock()
        self._stamp = self._stamp_now()
        self._register: EdgeRegister | None = EdgeRegister.read(self._path)
        self._fault = ""

    def refusal(self, edge: str, serial: int | None = None) -> str | None:
        """Why an edge may not send now; None: it may.

        Args:
            edge: its name, from its certificate.
            serial: serial number of its certificate, where the link knows it. None: any of the edge's certificates
                will do, so the edge is refused when all of them are revoked.
        """
        register = self._current()
        if register is None:
            return self._fault
        entry = register.edges.get(edge)
        if entry is None:
            return f"edge '{edge}' is not of this fleet; the fleet's owner adds it with 'smartedge fleet add'"
        now = datetime.now(timezone.utc)
        if entry.shows == "token":
            valid = entry.token_until is not None and entry.token_until > now
            return None if valid else f"the token of edge '{edge}' was revoked or has expired; renew its bundle"
        issued = [each for each in entry.certificates if serial is None or each.serial == f"{serial:x}"]
        if any(not each.revoked and each.until > now for each in issued):
            return None
        if not issued:
            return f"the certificate of edge '{edge}' is not in the fleet's register; renew its bundle"
        why = "was revoked" if all(each.revoked for each in issued) else "has expired"
        return (
            f"the certificate of edge '{edge}' {why}; the fleet's owner makes a new bundle with 'smartedge fleet renew'"
        )

    def edge_of(self, token: str) -> str | None:
        """The edge that a token belongs to and that may send now; None: it admits nobody.

        A token is ``EDGE.SECRET``. The register holds its SHA-256, so reading the register gives no token away.
        """
        register = self._current()
        edge = token.partition(".")[0]
        entry = None if register is None else register.edges.get(edge)
        shown = hashlib.sha256(token.encode()).hexdigest()
        expected = (entry.token_sha256 if entry is not None else None) or "0" * 64
        if not hmac.compare_digest(shown, expected) or entry is None or entry.token_until is None:
            return None
        return edge if entry.token_until > datetime.now(timezone.utc) else None

    def names(self) -> list[str]:
        """The edges that are not revoked, in order of their names."""
        register = self._current()
        return (
            [] if register is None else sorted(name for name, each in register.edges.items() if each.until is not None)
        )

    def _current(self) -> EdgeRegister | None:
        with self._lock:
            if (stamp := self._stamp_now()) is None or stamp != self._stamp:
                self._read_again(stamp)
            return self._register

    def _read_again(self, stamp: tuple[int, int, int] | None) -> None:
        try:
            self._register, self._stamp, self._fault = EdgeRegister.read(self._path), stamp, ""
        except FleetError as error:
            self._register, self._stamp = None, None  # looked at again next time
            self._fault = f"the cloud cannot read its fleet's register, so it admits nobody ({error})"

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_size, facts.st_ino


class SimplexRegister:
    """The keys of the one-way link, as the cloud asks for them. An edge that may not send has none.

    Args:
        folder: of the fleet.

    Raises:
        FleetError: a file is missing or damaged, or others may read the keys.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SIMPLEX_KEYS
        self._register = Register(folder)
        self._read()

    def keys(self) -> dict[str, bytes]:
        """Name of an edge → its key, now. Empty where the file cannot be read at the moment."""
        try:
            found = self._read()
        except FleetError:
            return {}
        return {edge: key for edge, key in found.items() if self._register.refusal(edge) is None}

    def _read(self) -> dict[str, bytes]:
        if self._path.exists():
            refuse_if_others_can_read(self._path, FleetError, "the keys of the one-way link")
        return {edge: bytes.fromhex(key) for edge, key in SimplexKeys.read(self._path).keys.items()}
