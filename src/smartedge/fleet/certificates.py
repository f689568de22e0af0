"""Certificates of a fleet's authority, its edges and its cloud: X.509 version 3, keys of the curve P-256."""

from __future__ import annotations

import importlib.util
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smartedge.errors import FleetError
from smartedge.extras import how_to_install
from smartedge.files import disk_error
from smartedge.fleet.guarded import read_guarded

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

__all__ = [
    "AUTHORITY",
    "AUTHORITY_KEY",
    "SERVER_NAME",
    "Signed",
    "authority_certificate",
    "issue",
    "read_member",
    "require_cryptography",
    "self_signed",
    "valid_until",
]

AUTHORITY, AUTHORITY_KEY = "authority.pem", "authority.key"  # in a fleet's folder
SERVER_NAME = "cloud.smartedge.internal"  # in the cloud's and the broker's certificates, wherever they are reached
_EARLIER = timedelta(hours=1)  # certificates are valid since then: devices' clocks differ


class Signed(NamedTuple):
    """A certificate, and as PEM with its key."""

    certificate: Certificate
    pem: str
    key: str

    @property
    def until(self) -> datetime:
        """The end of its time."""
        return self.certificate.not_valid_after_utc


def valid_until(pem: bytes) -> datetime | None:
    """The end of a certificate's time; None: ``cryptography``, which reads it, is not installed."""
    if importlib.util.find_spec("cryptography") is None:
        return None
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def require_cryptography(
    needs: str = "making certificates, other than with openssl (docs/fleet.md), needs", extra: str = "fleet"
) -> None:
    """Raise where the package that makes keys, certificates and signatures is missing.

    Args:
        needs: the begin of the message.
        extra: the extra of smartedge that installs it.

    Raises:
        FleetError: it is not installed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise FleetError(f"{needs} the package 'cryptography'; run: {how_to_install(extra)}")


def _builder_of(
    name: str, issuer: x509.Name | None, key: EllipticCurvePrivateKey, days: int, latest: datetime | None = None
) -> x509.CertificateBuilder:
    """A certificate without its extensions; without an issuer it is its own."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(min(now + timedelta(days=days), latest or datetime.max.replace(tzinfo=timezone.utc)))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def self_signed(name: str, days: int) -> Signed:
    """The certificate of a new authority, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    usage |= {"key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False}
    builder = (
        _builder_of(name, None, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
    )
    return _signed(builder.sign(key, hashes.SHA256()), key)


def _signed(certificate: Certificate, key: EllipticCurvePrivateKey) -> Signed:
    """A certificate and its key as texts."""
    from cryptography.hazmat.primitives import serialization

    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signed(certificate, certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode())


def issue(folder: Path, name: str, days: int, *, server: bool) -> Signed:
    """A certificate of the authority in a fleet's folder, for a TLS server or a client.

    It ends when the authority does at the latest.

    Raises:
        FleetError: the authority's key or certificate is not there or damaged, its time has ended, or ``cryptography``
            is not installed.
    """
    require_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        key_pem = read_guarded(folder / AUTHORITY_KEY, "restore it from a copy")
        signer = serialization.load_pem_private_key(key_pem.encode(), password=None)
        authority = x509.load_pem_x509_certificate(authority_certificate(folder).encode())
    except (OSError, ValueError) as error:
        raise FleetError(
            f"{folder / AUTHORITY_KEY}: cannot be used ({error}); run this where the fleet was made, or restore the key"
        ) from error
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    if (end := authority.not_valid_after_utc) <= datetime.now(timezone.utc):
        raise FleetError(
            f"{folder / AUTHORITY}: was valid until {end:%Y-%m-%d %H:%M} UTC, so nobody accepts what it signs; make "
            "a new fleet with 'smartedge fleet init'. Is this machine's clock right?"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder_of(name, authority.subject, key, days, latest=end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if server:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    return _signed(builder.sign(signer, hashes.SHA256()), key)


def authority_certificate(folder: Path) -> str:
    """The authority's certificate, PEM.

    Raises:
        FleetError: it cannot be read, or is damaged.
    """
    return read_member(folder / AUTHORITY, "restore it from a copy; each bundle of an edge holds one, too")


def read_member(path: Path, remedy: str) -> str:
    """A certificate or key of the fleet's folder.

    Raises:
        FleetError: it cannot be read, or is damaged.
    """
    try:
        return read_guarded(path, remedy)
    except OSError as error:
        raise FleetError(f"{path}: cannot be read: {disk_error(error)}") from error
