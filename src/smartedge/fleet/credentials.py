"""What the edges, the cloud and ingest of a fleet show to each other, read from a bundle or from the fleet's folder."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from smartedge.artifacts.fleet import Bundle
from smartedge.errors import FleetError
from smartedge.files import refuse_if_others_can_read
from smartedge.fleet.certificates import SERVER_NAME, valid_until
from smartedge.fleet.guarded import read_guarded
from smartedge.wire.credentials import Credentials

__all__ = ["cloud_credentials", "credentials_of", "ingest_credentials"]


def credentials_of(bundle: Bundle) -> Credentials:
    """What the edge of a bundle shows, and how it checks the cloud."""
    return Credentials(
        ca=_encoded(bundle.authority),
        certificate=_encoded(bundle.certificate),
        key=_encoded(bundle.key),
        token=bundle.token,
        server_name=bundle.server_name,
        encrypted=True,
    )


def cloud_credentials(folder: Path) -> Credentials:
    """What the cloud of a fleet shows: its own certificate. Edges must show one of the fleet's authority.

    Raises:
        FleetError: a file is missing, damaged, cannot be read, or others may read the cloud's key. Or the certificate
            is valid no longer.
    """
    remedy = "copy it from the fleet's folder again; 'smartedge fleet renew DIR' makes a new cloud.pem and cloud.key"
    needs = "the cloud needs authority.pem, cloud.pem, cloud.key and edges.json of the fleet's folder"
    ca, certificate, key = _read(folder, "cloud", "the cloud's key", remedy, needs)
    _refuse_expired(folder / "cloud.pem", certificate, "'smartedge fleet renew DIR' makes a new one")
    return Credentials(ca=ca, certificate=certificate, key=key)


def ingest_credentials(folder: Path) -> Credentials:
    """What ingest shows to the broker of a fleet, and how it checks the broker.

    Raises:
        FleetError: a file is missing, damaged, cannot be read, or others may read the key. Or the certificate is
            valid no longer.
    """
    remedy = "copy it again; 'smartedge fleet broker DIR' makes new ones of ingest, and of the broker with them"
    needs = (
        "ingest needs authority.pem, ingest.pem, ingest.key and edges.json of the fleet's folder; 'smartedge fleet "
        "broker' makes those of ingest"
    )
    ca, certificate, key = _read(folder, "ingest", "ingest's key", remedy, needs)
    new = "'smartedge fleet broker DIR' makes new ones of ingest and of the broker"
    _refuse_expired(folder / "ingest.pem", certificate, new)
    return Credentials(ca=ca, certificate=certificate, key=key, server_name=SERVER_NAME)


def _read(folder: Path, name: str, secret: str, remedy: str, needs: str) -> list[bytes]:
    """The authority's certificate, and a member's certificate and key, as PEM.

    Args:
        folder: of the fleet.
        name: of the member's files.
        secret: the key, for the message.
        remedy: what to do where a file is damaged.
        needs: what the member needs, for the message where a file cannot be read.
    """
    key = folder / f"{name}.key"
    try:
        refuse_if_others_can_read(key, FleetError, secret)
        files = [folder / "authority.pem", folder / f"{name}.pem", key]
        return [read_guarded(path, remedy).encode() for path in files]
    except OSError as error:
        raise FleetError(f"{error.filename}: cannot be read ({error.strerror}); {needs}") from error


def _refuse_expired(file: Path, certificate: bytes, remedy: str) -> None:
    """Refuse what every peer would refuse, before anything waits for peers."""
    until = valid_until(certificate)
    if until is not None and until < datetime.now(timezone.utc):
        raise FleetError(
            f"{file}: was valid until {until:%Y-%m-%d %H:%M} UTC; {remedy}. Is this machine's clock right?"
        )


def _encoded(pem: str | None) -> bytes | None:
    return None if pem is None else pem.encode()
