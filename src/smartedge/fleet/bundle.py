"""The bundle of an edge: one file with all that it needs to send to the cloud of its fleet."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from smartedge.artifacts.fleet import Bundle
from smartedge.errors import FleetError
from smartedge.files import refuse_if_others_can_read
from smartedge.fleet.guarded import read_guarded
from smartedge.wire.credentials import Credentials

__all__ = ["cloud_credentials", "credentials_of", "open_bundle"]

_COPY = "copy it from the fleet's folder again; 'smartedge fleet renew DIR' makes a new cloud.pem and cloud.key"


def open_bundle(path: Path, *, now: datetime | None = None) -> Bundle:
    """Read and check a bundle.

    Args:
        path: the file.
        now: the time at which it must be valid; default: the present.

    Raises:
        FleetError: it is missing or damaged, others may read it, or its time has ended.
    """
    if path.exists():
        refuse_if_others_can_read(path, FleetError, "an edge's bundle")
    bundle = Bundle.read(path)
    if (bundle.certificate is None) != (bundle.key is None) or (bundle.certificate is None) == (bundle.token is None):
        raise FleetError(f"{path}: must hold either a certificate with its key, or a token; {Bundle.remedy}")
    if bundle.until <= (now or datetime.now(timezone.utc)):
        raise FleetError(
            f"{path}: the bundle of edge '{bundle.edge}' expired on {bundle.until:%Y-%m-%d %H:%M} UTC; "
            "the fleet's owner makes a new one with 'smartedge fleet renew'. Is this machine's clock right?"
        )
    return bundle


def credentials_of(bundle: Bundle) -> Credentials:
    """What the edge of a bundle shows, and how it checks the cloud."""
    return Credentials(
        ca=_pem(bundle.authority),
        certificate=_pem(bundle.certificate),
        key=_pem(bundle.key),
        token=bundle.token,
        server_name=bundle.server_name,
        encrypted=True,
    )


def cloud_credentials(folder: Path) -> Credentials:
    """What the cloud of a fleet shows: its own certificate. Edges must show one of the fleet's authority.

    Raises:
        FleetError: a file is missing, damaged, cannot be read, or others may read the cloud's key.
    """
    key = folder / "cloud.key"
    try:
        refuse_if_others_can_read(key, FleetError, "the cloud's key")
        files = [folder / "authority.pem", folder / "cloud.pem", key]
        ca, certificate, secret = (read_guarded(path, _COPY).encode() for path in files)
        return Credentials(ca=ca, certificate=certificate, key=secret)
    except OSError as error:
        raise FleetError(
            f"{error.filename}: cannot be read ({error.strerror}); the cloud needs authority.pem, cloud.pem, cloud.key "
            "and edges.json of the fleet's folder"
        ) from error


def _pem(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
