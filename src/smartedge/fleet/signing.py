"""Signatures of published fronts: Ed25519 (RFC 8032). The fleet's owner signs, its edges check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.errors import FleetError
from smartedge.files import refuse_if_others_can_read
from smartedge.fleet.certificates import require_cryptography
from smartedge.fleet.guarded import read_guarded, write_guarded

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["SIGNING_KEY", "TRUST_KEY", "is_signed_by", "make_signing_key", "read_trust_key", "sign"]

SIGNING_KEY = "front.key"  # in the fleet's folder: the private key, PEM; secret
TRUST_KEY = "front.pub"  # beside it: the public key, 64 hexadecimal digits

_NEEDS = ("signatures of fronts need", "front")
_COPY = "copy front.pub of the fleet"


def make_signing_key(folder: Path) -> str:
    """The fleet's public key for fronts, 64 hexadecimal digits. Where the fleet has no key yet, one is made.

    Raises:
        FleetError: ``cryptography`` is not installed, or the key cannot be read.
    """
    path = folder / SIGNING_KEY
    if not path.exists():
        require_cryptography(*_NEEDS)
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_guarded(path, pem.decode())
    public = _private_key(path).public_key().public_bytes_raw().hex()
    write_guarded(folder / TRUST_KEY, public + "\n")
    return public


def sign(message: bytes, key: Path) -> bytes:
    """The signature of a message, 64 bytes.

    Args:
        message: what is signed.
        key: the file of the private key, :data:`SIGNING_KEY` of the fleet.

    Raises:
        FleetError: the key is not there, is damaged, or others may read it.
    """
    return _private_key(key).sign(message)


def is_signed_by(public: str, signature: bytes, message: bytes) -> bool:
    """Whether this is a signature of the message by the owner of the public key.

    Raises:
        FleetError: ``cryptography`` is not installed, or the public key is damaged.
    """
    require_cryptography(*_NEEDS)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except ValueError as error:
        raise FleetError(f"the key that fronts are checked with is damaged ({error}); copy front.pub again") from error
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def read_trust_key(path: Path) -> str:
    """The public key in a file, 64 hexadecimal digits.

    Raises:
        FleetError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        public = read_guarded(path, _COPY).strip()
        if len(bytes.fromhex(public)) == 32:
            return public
    except OSError as error:
        raise FleetError(f"{path}: cannot be read ({error.strerror}); {_COPY}") from error
    except ValueError:
        pass
    raise FleetError(f"{path}: is no public key of 64 hexadecimal digits; {_COPY}")


def _private_key(path: Path) -> Ed25519PrivateKey:
    require_cryptography(*_NEEDS)
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        refuse_if_others_can_read(path, FleetError, "the key that signs fronts")
        pem = read_guarded(path, "restore the key from a copy")
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (OSError, ValueError) as error:
        raise FleetError(
            f"{path}: cannot be used ({error}); sign where the fleet was made, or restore the key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FleetError(f"{path}: is not an Ed25519 key; restore the one that 'smartedge fleet init' made")
    return key
