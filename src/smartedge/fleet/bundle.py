"""The bundle of an edge: one file with all that it needs to send to the cloud of its fleet."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from smartedge.artifacts.fleet import Bundle
from smartedge.errors import FleetError
from smartedge.files import refuse_if_others_can_read

__all__ = ["open_bundle"]


def open_bundle(path: Path, *, now: datetime | None = None) -> Bundle:
    """Read and check a bundle.

    Args:
        path: the file.
        now: the time at which it must be valid; default: the present.

    Raises:
        FleetError: it is missing or damaged, others may read it, or its time has ended.
    """
    bundle = Bundle.read(path)  # first: of a file that is no bundle nobody need change the rights
    refuse_if_others_can_read(path, FleetError, "an edge's bundle")
    if (bundle.certificate is None) != (bundle.key is None) or (bundle.certificate is None) == (bundle.token is None):
        raise FleetError(f"{path}: must hold either a certificate with its key, or a token; {Bundle.remedy}")
    if bundle.until <= (now or datetime.now(timezone.utc)):
        raise FleetError(
            f"{path}: the bundle of edge '{bundle.edge}' expired on {bundle.until:%Y-%m-%d %H:%M} UTC; "
            "the fleet's owner makes a new one with 'smartedge fleet renew'. Is this machine's clock right?"
        )
    return bundle
