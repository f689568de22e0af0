"""A fleet's authority: makes the certificates and bundles of its edges and of its cloud, and revokes them.

A fleet is a folder::

    authority.key    secret: signs certificates. Needed to add and to renew, not by the cloud
    authority.pem    certificate of the authority
    cloud.key        secret of the cloud
    cloud.pem        certificate of the cloud
    edges.json       the register (:mod:`smartedge.fleet.register`)
    simplex.json     secret: keys of the one-way link, for the cloud
    changing.lock    empty: held while somebody adds, renews or revokes
    bundles/         one bundle per edge, to be copied there and then deleted here
    being-made       empty: there until the folder is whole, so that a command that was stopped can be repeated

Who is admitted is written last, and who is not any more first. So a command that was stopped midway has either done its
work or can be repeated.

Keys are of the curve P-256 and certificates of X.509 version 3, signed with SHA-256. A certificate of an edge is for
TLS clients only and that of the cloud for TLS servers only, so that none can pass for the other. The edge's name is the
common name of its certificate.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from smartedge.artifacts.fleet import Bundle, EdgeEntry, EdgeRegister, Issued, SimplexKeys
from smartedge.errors import FleetError
from smartedge.files import PRIVATE, disk_error, private_folder, refuse_if_others_can_read, sync_folder
from smartedge.fleet.certificates import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER_NAME,
    authority_certificate,
    issue,
    read_member,
    require_cryptography,
    self_signed,
    valid_until,
)
from smartedge.fleet.guarded import write_guarded
from smartedge.fleet.register import REGISTER, SIMPLEX_KEYS
from smartedge.fleet.signing import make_signing_key
from smartedge.locks import holding
from smartedge.types import EDGE_NAME
from smartedge.wire.simplex.seal import KEY_BYTES

__all__ = ["Authority", "check_names"]

_AUTHORITY_DAYS = 3650
_LOCK, _BEING_MADE = "changing.lock", "being-made"
_NAMED = 20  # edges in a message, at most


class Authority:
    """The authority in a fleet's folder.

    Args:
        folder: of the fleet; :meth:`create` makes one.

    Raises:
        FleetError: the folder holds no fleet, its register is damaged, or others may read its keys.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / _BEING_MADE).exists():
            raise FleetError(f"{folder}: 'smartedge fleet init' was stopped before the fleet was whole; run it again")
        EdgeRegister.read(folder / REGISTER)
        for name in (AUTHORITY_KEY, "cloud.key"):
            if (folder / name).exists():
                refuse_if_others_can_read(folder / name, FleetError, "a fleet's key")

    @classmethod
    def create(cls, folder: Path, *, days: int) -> Authority:
        """Make a fleet without edges.

        Args:
            folder: made, with its parents; it must be empty or not there, or left by a call that was stopped.
            days: how long the cloud's certificate is valid.

        Raises:
            FleetError: the folder is not empty, the disk does not take it, or ``cryptography`` is not installed.
        """
        require_cryptography()
        unfinished = folder / _BEING_MADE
        try:
            _refuse_if_in_use(folder)
            private_folder(folder)
            with holding(folder / _LOCK):
                _refuse_if_in_use(folder)
                unfinished.touch(PRIVATE)  # no temporary file comes before it
                sync_folder(folder)
                own = self_signed("smartedge fleet", _AUTHORITY_DAYS)
                write_guarded(folder / AUTHORITY_KEY, own.key)
                write_guarded(folder / AUTHORITY, own.pem)
                make_signing_key(folder)
                EdgeRegister(edges={}).write(folder / REGISTER)
                _renew_cloud(folder, days)
                unfinished.unlink()
                sync_folder(folder)
        except OSError as error:
            raise FleetError(f"{folder}: the fleet cannot be made: {disk_error(error)}") from error
        return cls(folder)

    def renew_cloud(self, *, days: int) -> datetime:
        """Make the cloud a new key and certificate. Returns until when it is valid."""
        with self._alone():
            return _renew_cloud(self.folder, days)

    def add(self, edges: Sequence[str], *, cloud: str, days: int) -> list[Path]:
        """Add edges that show a certificate; returns the files of their bundles.

        Args:
            edges: their names, see :func:`check_names`.
            cloud: where they reach the cloud, ``host:port``.
            days: how long their certificates are valid.

        Raises:
            FleetError: a name is not allowed or is taken, or the authority's key is not there. Nothing was added.
        """
        with self._alone():
            self._check_new(edges)
            return self._issue(edges, cloud, days)

    def add_with_tokens(
        self, edges: Sequence[str], *, cloud: str, days: int, proxy_ca: Path | None = None
    ) -> list[Path]:
        """Add edges that show a token: for a cloud behind a proxy that ends TLS. Returns the files of their bundles.

        Args:
            edges: their names, see :func:`check_names`.
            cloud: where they reach the proxy, ``host:port``.
            days: how long their tokens are valid.
            proxy_ca: certificates (PEM) that check the proxy's; None: the list of each edge's machine.

        Raises:
            FleetError: a name is not allowed or is taken, or ``proxy_ca`` cannot be read. Nothing was added.
        """
        ca = None if proxy_ca is None else _text(proxy_ca)
        with self._alone():
            self._check_new(edges)
            return self._issue_tokens(edges, cloud, days, ca)

    def renew(self, edge: str, *, cloud: str | None, days: int, proxy_ca: Path | None = None) -> Path:
        """Give an edge a new bundle, of the kind that it had. An older certificate is valid until its end.

        A new token takes the place of the old one at once. A revoked edge is admitted again, by the new bundle alone.

        Args:
            edge: its name.
            cloud: where it reaches the cloud; None: the address of its last bundle in this folder.
            days: how long the new certificate or token is valid.
            proxy_ca: as for :meth:`add_with_tokens`; None: that of its last bundle in this folder.

        Raises:
            FleetError: there is no such edge, its address is not known any more, or a file of the fleet is damaged.
        """
        with self._alone():
            entry = self._entry(edge)
            last = self._last_bundle(edge, needed=cloud is None)
            address = cloud or (None if last is None else last.cloud)
            if address is None:
                raise FleetError(f"edge '{edge}': its last bundle is not in {self.folder}; give --cloud HOST:PORT")
            if entry.shows == "certificate":
                return self._issue([edge], address, days)[0]
            known = None if last is None else last.authority
            return self._issue_tokens([edge], address, days, known if proxy_ca is None else _text(proxy_ca))[0]

    def revoke(self, edge: str) -> None:
        """Revoke all certificates and the token of an edge. Its bundle in this folder is deleted.

        Raises:
            FleetError: there is no such edge.
        """
        with self._alone():
            entry = self._entry(edge)
            revoked = tuple(issued.model_copy(update={"revoked": True}) for issued in entry.certificates)
            changes = {"certificates": revoked, "token_sha256": None, "token_until": None}
            self._put({edge: entry.model_copy(update=changes)})
            self._put_simplex_keys({edge: None})
            self._bundle_file(edge).unlink(missing_ok=True)

    def issue_for(self, name: str, *, days: int, server: bool) -> tuple[str, str]:
        """A new certificate for a machine that is no edge, and its key; both are PEM.

        Args:
            name: its common name; it cannot be an edge's.
            days: how long it is valid.
            server: for a TLS server, under the name that edges expect; else for a client.

        Raises:
            FleetError: the authority's key is not there.
        """
        signed = issue(self.folder, name, days, server=server)
        return signed.pem, signed.key

    def certificate(self) -> str:
        """The authority's certificate, PEM.

        Raises:
            FleetError: it cannot be read, or is damaged.
        """
        return authority_certificate(self.folder)

    def cloud_until(self) -> datetime | None:
        """Until when the cloud's certificate is valid; None: it is not here, or ``cryptography`` is not installed.

        Raises:
            FleetError: it is damaged.
        """
        path = self.folder / "cloud.pem"
        if not path.exists():
            return None
        return valid_until(read_member(path, "make a new one with 'smartedge fleet renew DIR'").encode())

    def check(self) -> None:
        """Read every file of the folder that is there.

        Raises:
            FleetError: one is damaged.
        """
        for path in sorted([*self.folder.glob("*.pem"), *self.folder.glob("*.key"), *self.folder.glob("*.pub")]):
            read_member(path, "restore it from a copy")
        SimplexKeys.read_if_there(self.folder / SIMPLEX_KEYS)
        for path in sorted((self.folder / "bundles").glob("*.bundle")):
            Bundle.read(path)

    def edges(self) -> dict[str, EdgeEntry]:
        """All edges, by name."""
        return EdgeRegister.read(self.folder / REGISTER).edges

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the fleet in the block: with an older register a command would undo a revocation.

        Raises:
            FleetError: the disk does not take what the block writes.
        """
        try:
            with holding(self.folder / _LOCK):
                yield
        except OSError as error:
            raise FleetError(
                f"{error.filename or self.folder}: cannot be written: {disk_error(error)}; then run the same command "
                "again"
            ) from error

    # -- one edge

    def _last_bundle(self, edge: str, *, needed: bool) -> Bundle | None:
        """The bundle in this folder; None where there is none, or it is damaged and not needed."""
        try:
            return Bundle.read_if_there(self._bundle_file(edge))
        except FleetError as error:
            if needed:
                raise FleetError(f"{error}, and give --cloud HOST:PORT, since its address cannot be read") from error
            return None

    def _issue(self, edges: Sequence[str], cloud: str, days: int) -> list[Path]:
        """Make certificates and bundles, and write them."""
        now, known, authority = datetime.now(timezone.utc), self.edges(), self.certificate()
        entries, bundles, bundle = {}, [], self._maker()
        for edge in edges:
            signed = issue(self.folder, edge, days, server=False)
            entry = known.get(edge) or EdgeEntry(shows="certificate", added=now)
            kept = tuple(issued for issued in entry.certificates if issued.until > now)
            issued = Issued(serial=f"{signed.certificate.serial_number:x}", until=signed.until, revoked=False)
            entries[edge] = entry.model_copy(update={"certificates": (*kept, issued)})
            shown = {"server_name": SERVER_NAME, "certificate": signed.pem, "key": signed.key}
            bundles.append(bundle(edge, cloud, signed.until, authority, **shown))
        return self._admit(entries, bundles)

    def _issue_tokens(self, edges: Sequence[str], cloud: str, days: int, ca: str | None) -> list[Path]:
        """As :meth:`_issue`, with tokens."""
        now, known = datetime.now(timezone.utc), self.edges()
        until = now + timedelta(days=days)
        entries, bundles, bundle = {}, [], self._maker()
        for edge in edges:
            token = f"{edge}.{secrets.token_urlsafe(32)}"
            entry = known.get(edge) or EdgeEntry(shows="token", added=now)
            digest = hashlib.sha256(token.encode()).hexdigest()
            entries[edge] = entry.model_copy(update={"token_sha256": digest, "token_until": until})
            bundles.append(bundle(edge, cloud, until, ca, token=token))
        return self._admit(entries, bundles)

    def _maker(self) -> Callable[..., Bundle]:
        """Makes bundles, each with a new key of the one-way link."""
        front_key = make_signing_key(self.folder)

        def make(edge: str, cloud: str, until: datetime, authority: str | None, **shown: str) -> Bundle:
            """``shown`` is what the edge shows: a certificate or a token."""
            nothing = dict.fromkeys(("server_name", "certificate", "key", "token"))
            return Bundle(
                edge=edge,
                cloud=cloud,
                authority=authority,
                until=until,
                simplex_key=secrets.token_hex(KEY_BYTES),
                front_key=front_key,
                **(nothing | shown),
            )

        return make

    def _admit(self, entries: Mapping[str, EdgeEntry], bundles: Sequence[Bundle]) -> list[Path]:
        """Write the bundles; then write all of them into the register at once."""
        SimplexKeys.read_if_there(self.folder / SIMPLEX_KEYS)  # a damaged one is found before anything is written
        private_folder(self.folder / "bundles")
        for bundle in bundles:
            bundle.write(self._bundle_file(bundle.edge))
        self._put_simplex_keys({bundle.edge: bundle.simplex_key for bundle in bundles})
        self._put(entries)
        return [self._bundle_file(bundle.edge) for bundle in bundles]

    def _bundle_file(self, edge: str) -> Path:
        return self.folder / "bundles" / f"{edge}.bundle"

    def _check_new(self, edges: Sequence[str]) -> None:
        check_names(edges)
        known = self.edges()
        if taken := [edge for edge in edges if edge in known]:
            raise FleetError(
                f"{', '.join(taken)}: belongs to this fleet already; 'smartedge fleet renew' makes a new bundle for an "
                "edge"
            )

    def _entry(self, edge: str) -> EdgeEntry:
        known = self.edges()
        if edge not in known:
            names = ", ".join(sorted(known)[:_NAMED]) or "none yet"
            more = f" and {len(known) - _NAMED} more ('smartedge fleet list')" if len(known) > _NAMED else ""
            raise FleetError(f"{self.folder}: there is no edge '{edge}'; its edges: {names}{more}")
        return known[edge]

    def _put(self, entries: Mapping[str, EdgeEntry]) -> None:
        edges = {**self.edges(), **entries}
        EdgeRegister(edges=dict(sorted(edges.items()))).write(self.folder / REGISTER)

    def _put_simplex_keys(self, changed: Mapping[str, str | None]) -> None:
        known = SimplexKeys.read_if_there(self.folder / SIMPLEX_KEYS)
        keys = {**(known.keys if known else {}), **changed}
        SimplexKeys(keys={edge: key for edge, key in keys.items() if key is not None}).write(self.folder / SIMPLEX_KEYS)


def check_names(edges: Sequence[str]) -> None:
    """Refuse names that cannot be an edge's.

    Raises:
        FleetError: a name has another form, or is given twice.
    """
    seen = set[str]()
    for edge in edges:
        if not re.fullmatch(EDGE_NAME, edge):
            raise FleetError(
                f"edge {edge!r}: a name has 1 to 63 small letters, digits, '-' and '_', and begins with a letter or a "
                "digit; it becomes the name of a folder"
            )
        if edge in seen:
            raise FleetError(f"edge '{edge}': is given twice")
        seen.add(edge)


def _refuse_if_in_use(folder: Path) -> None:
    """Refuse a folder that holds something, unless it was left by an ``init`` that was stopped."""
    found = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if found - {_LOCK} and _BEING_MADE not in found:
        raise FleetError(f"{folder}: is not empty; choose a new folder for the fleet")


def _renew_cloud(folder: Path, days: int) -> datetime:
    signed = issue(folder, "cloud", days, server=True)
    write_guarded(folder / "cloud.key", signed.key)
    write_guarded(folder / "cloud.pem", signed.pem)
    return signed.until


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"{path}: cannot be read ({error})") from error
