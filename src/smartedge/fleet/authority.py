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

Keys are of the curve P-256 and certificates of X.509 version 3, signed with SHA-256. A certificate of an edge is for
TLS clients only and that of the cloud for TLS servers only, so that none can pass for the other. The edge's name is the
common name of its certificate.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from smartedge.artifacts.fleet import Bundle, EdgeEntry, EdgeRegister, Issued, SimplexKeys
from smartedge.errors import FleetError
from smartedge.files import disk_error, private_folder, refuse_if_others_can_read
from smartedge.fleet.certificates import (
    SERVER_NAME,
    Signed,
    builder_of,
    require_cryptography,
    self_signed,
    signed,
    valid_until,
)
from smartedge.fleet.guarded import read_guarded, write_guarded
from smartedge.fleet.register import REGISTER, SIMPLEX_KEYS
from smartedge.fleet.signing import make_signing_key
from smartedge.locks import lock, open_lock
from smartedge.types import EDGE_NAME
from smartedge.wire.simplex.seal import KEY_BYTES

__all__ = ["Authority", "check_names"]

_AUTHORITY_DAYS = 3650


class Authority:
    """The authority in a fleet's folder.

    Args:
        folder: of the fleet; :meth:`create` makes one.

    Raises:
        FleetError: the folder holds no fleet, its register is damaged, or others may read its keys.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key_file = folder / "authority.key"
        EdgeRegister.read(folder / REGISTER)
        for name in ("authority.key", "cloud.key"):
            if (folder / name).exists():
                refuse_if_others_can_read(folder / name, FleetError, "a fleet's key")

    @classmethod
    def create(cls, folder: Path, *, days: int) -> Authority:
        """Make a fleet without edges.

        Args:
            folder: made, with its parents; it must be empty or not there.
            days: how long the cloud's certificate is valid.

        Raises:
            FleetError: the folder is not empty, or ``cryptography`` is not installed.
        """
        require_cryptography()
        try:
            if folder.exists() and any(folder.iterdir()):
                raise FleetError(f"{folder}: is not empty; choose a new folder for the fleet")
            private_folder(folder)
        except OSError as error:
            raise FleetError(f"{folder}: the fleet's folder cannot be made ({error.strerror})") from error
        own = self_signed("smartedge fleet", _AUTHORITY_DAYS)
        write_guarded(folder / "authority.key", own.key)
        write_guarded(folder / "authority.pem", own.pem)
        make_signing_key(folder)
        EdgeRegister(edges={}).write(folder / REGISTER)
        made = cls(folder)
        made.renew_cloud(days=days)
        return made

    def renew_cloud(self, *, days: int) -> datetime:
        """Make the cloud a new key and certificate. Returns until when it is valid."""
        with self._alone():
            signed = self._sign("cloud", days, server=True)
            write_guarded(self.folder / "cloud.key", signed.key)
            write_guarded(self.folder / "cloud.pem", signed.pem)
        return signed.until

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
        signed = self._sign(name, days, server=server)
        return signed.pem, signed.key

    def certificate(self) -> str:
        """The authority's certificate, PEM.

        Raises:
            FleetError: it cannot be read, or is damaged.
        """
        return _read(self.folder / "authority.pem", "restore it from a copy; each bundle of an edge holds one, too")

    def cloud_until(self) -> datetime | None:
        """Until when the cloud's certificate is valid; None: it is not here, or ``cryptography`` is not installed.

        Raises:
            FleetError: it is damaged.
        """
        path = self.folder / "cloud.pem"
        if not path.exists():
            return None
        return valid_until(_read(path, "make a new one with 'smartedge fleet renew DIR'").encode())

    def check(self) -> None:
        """Read every file of the folder that is there.

        Raises:
            FleetError: one is damaged.
        """
        for path in sorted([*self.folder.glob("*.pem"), *self.folder.glob("*.key"), *self.folder.glob("*.pub")]):
            _read(path, "restore it from a copy")
        SimplexKeys.read_if_there(self.folder / SIMPLEX_KEYS)
        for path in sorted((self.folder / "bundles").glob("*.bundle")):
            Bundle.read(path)

    def edges(self) -> dict[str, EdgeEntry]:
        """All edges, by name."""
        return EdgeRegister.read(self.folder / REGISTER).edges

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the fleet in the block: whoever began with an older register would undo a revocation."""
        try:
            file = open_lock(self.folder / "changing.lock")
        except OSError as error:
            raise FleetError(f"{self.folder}: the fleet cannot be changed: {disk_error(error)}") from error
        try:
            lock(file)
            yield
        finally:
            os.close(file)

    # -- one edge

    def _last_bundle(self, edge: str, *, needed: bool) -> Bundle | None:
        """The bundle in this folder; None where there is none, or it is damaged and not needed."""
        try:
            return Bundle.read_if_there(self._bundle_file(edge))
        except FleetError as error:
            if needed:
                raise FleetError(f"{error}, and give --cloud HOST:PORT, since its address cannot be read") from error
            return None

    def _check_secrets(self) -> None:
        """Raise where a bundle could not be written: before the register says that the edge has one."""
        make_signing_key(self.folder)
        SimplexKeys.read_if_there(self.folder / SIMPLEX_KEYS)

    def _issue(self, edges: Sequence[str], cloud: str, days: int) -> list[Path]:
        """Make certificates and write them into the register, all at once; then write the bundles."""
        self._check_secrets()
        now, known, authority = datetime.now(timezone.utc), self.edges(), self.certificate()
        entries, bundles = {}, []
        for edge in edges:
            signed = self._sign(edge, days, server=False)
            entry = known.get(edge) or EdgeEntry(shows="certificate", added=now)
            kept = tuple(issued for issued in entry.certificates if issued.until > now)
            issued = Issued(serial=f"{signed.certificate.serial_number:x}", until=signed.until, revoked=False)
            entries[edge] = entry.model_copy(update={"certificates": (*kept, issued)})
            shown = {"server_name": SERVER_NAME, "certificate": signed.pem, "key": signed.key}
            bundles.append(self._bundle(edge, cloud, signed.until, authority, **shown))
        self._put(entries)
        return self._write_bundles(bundles)

    def _issue_tokens(self, edges: Sequence[str], cloud: str, days: int, ca: str | None) -> list[Path]:
        """As :meth:`_issue`, with tokens."""
        self._check_secrets()
        now, known = datetime.now(timezone.utc), self.edges()
        until = now + timedelta(days=days)
        entries, bundles = {}, []
        for edge in edges:
            token = f"{edge}.{secrets.token_urlsafe(32)}"
            entry = known.get(edge) or EdgeEntry(shows="token", added=now)
            digest = hashlib.sha256(token.encode()).hexdigest()
            entries[edge] = entry.model_copy(update={"token_sha256": digest, "token_until": until})
            bundles.append(self._bundle(edge, cloud, until, ca, token=token))
        self._put(entries)
        return self._write_bundles(bundles)

    def _bundle(self, edge: str, cloud: str, until: datetime, authority: str | None, **shown: str) -> Bundle:
        """A bundle with a new key of the one-way link. ``shown`` is what the edge shows: a certificate or a token."""
        nothing = dict.fromkeys(("server_name", "certificate", "key", "token"))
        return Bundle(
            edge=edge,
            cloud=cloud,
            authority=authority,
            until=until,
            simplex_key=secrets.token_hex(KEY_BYTES),
            front_key=make_signing_key(self.folder),
            **(nothing | shown),
        )

    def _write_bundles(self, bundles: Sequence[Bundle]) -> list[Path]:
        private_folder(self.folder / "bundles")
        self._put_simplex_keys({bundle.edge: bundle.simplex_key for bundle in bundles})
        for bundle in bundles:
            bundle.write(self._bundle_file(bundle.edge))
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
            names = ", ".join(sorted(known)) or "none yet"
            raise FleetError(f"{self.folder}: there is no edge '{edge}'; its edges: {names}")
        return known[edge]

    def _put(self, entries: Mapping[str, EdgeEntry]) -> None:
        edges = {**self.edges(), **entries}
        EdgeRegister(edges=dict(sorted(edges.items()))).write(self.folder / REGISTER)

    def _put_simplex_keys(self, changed: Mapping[str, str | None]) -> None:
        known = SimplexKeys.read_if_there(self.folder / SIMPLEX_KEYS)
        keys = {**(known.keys if known else {}), **changed}
        SimplexKeys(keys={edge: key for edge, key in keys.items() if key is not None}).write(self.folder / SIMPLEX_KEYS)

    # -- certificates

    def _sign(self, name: str, days: int, *, server: bool) -> Signed:
        require_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        try:
            key_pem = read_guarded(self._key_file, "restore it from a copy")
            signer = serialization.load_pem_private_key(key_pem.encode(), password=None)
            authority = x509.load_pem_x509_certificate(self.certificate().encode())
        except (OSError, ValueError) as error:
            raise FleetError(
                f"{self._key_file}: cannot be used ({error}); run this where the fleet was made, or restore the key"
            ) from error
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            builder_of(name, authority.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if server:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        return signed(builder.sign(signer, hashes.SHA256()), key)


def check_names(edges: Sequence[str]) -> None:
    """Refuse names that cannot be an edge's.

    Raises:
        FleetError: a name has another form, or is given twice.
    """
    for edge in edges:
        if not re.fullmatch(EDGE_NAME, edge):
            raise FleetError(
                f"edge {edge!r}: a name has 1 to 63 small letters, digits, '-' and '_', and begins with a letter or a "
                "digit; it becomes the name of a folder"
            )
        if list(edges).count(edge) > 1:
            raise FleetError(f"edge '{edge}': is given twice")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"{path}: cannot be read ({error})") from error


def _read(path: Path, remedy: str) -> str:
    """A guarded file of the fleet's folder. Raises FleetError where it cannot be read, or is damaged."""
    try:
        return read_guarded(path, remedy)
    except OSError as error:
        raise FleetError(f"{path}: cannot be read: {disk_error(error)}") from error
