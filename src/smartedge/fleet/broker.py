"""The broker of a fleet: its certificate, its settings, and which of the fleet's edges may publish what."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smartedge.files import private_folder, write_atomically
from smartedge.fleet.guarded import write_guarded

if TYPE_CHECKING:
    from smartedge.fleet.authority import Authority

__all__ = ["INGEST_NAME", "SUMS", "BrokerFiles", "settings_of", "write_broker"]

SUMS = "SHA256SUMS"  # of the broker's files, which smartedge does not read: for ``sha256sum -c SHA256SUMS``
INGEST_NAME = "ingest.smartedge.internal"  # of ingest's certificate; no edge's name has a dot

_SETTINGS = """\
# Written by 'smartedge fleet broker'; run it again when edges were added or revoked, then: nats-server --signal reload
listen: "0.0.0.0:4222"
max_payload: 8MB           # a longer frame comes in parts, each with an fsync of its own
jetstream {
  store_dir: "store"
  # A message is on the disk before it is confirmed. Write any duration in full: the server reads a bare 2m as a number.
  sync_interval: always
}
tls {
  cert_file: "server.pem"
  key_file: "server.key"
  ca_file: "authority.pem"
  verify_and_map: true     # the name in a client's certificate is its user
  handshake_first: true    # nothing is said in clear
}
authorization {
  users: [
"""


class BrokerFiles(NamedTuple):
    """What was written, and for whom."""

    folder: Path  # for the broker's machine
    edges: list[str]  # that may publish
    left_out: list[str]  # that have a revoked certificate, which the broker could not tell from a new one


def write_broker(authority: Authority, *, days: int) -> BrokerFiles:
    """Write ``broker/`` for the broker's machine, and ``ingest.pem`` and ``ingest.key`` for ingest.

    The certificates are new. Older ones are valid until their end.

    Args:
        authority: of the fleet.
        days: how long the certificates are valid.

    Raises:
        FleetError: the authority's key is not there.
    """
    edges: list[str] = []
    left_out: list[str] = []
    for name, entry in authority.edges().items():
        if entry.shows != "certificate" or entry.until is None:
            continue
        # The broker knows a name, and not which certificate shows it.
        (left_out if any(issued.revoked for issued in entry.certificates) else edges).append(name)
    folder = authority.folder / "broker"
    private_folder(folder)
    for name, place, server in (("broker", folder / "server", True), (INGEST_NAME, authority.folder / "ingest", False)):
        certificate, key = authority.issue_for(name, days=days, server=server)
        write_guarded(place.with_suffix(".key"), key)
        write_guarded(place.with_suffix(".pem"), certificate)
    write_guarded(folder / "authority.pem", authority.certificate())
    write_atomically(folder / "nats.conf", settings_of(edges))
    names = ["authority.pem", "nats.conf", "server.key", "server.pem"]
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    write_atomically(folder / SUMS, "".join(sums))
    return BrokerFiles(folder, edges, left_out)


def settings_of(edges: Iterable[str]) -> str:
    """The broker's settings. An edge may publish to its own subjects, and read the answers to itself, and no more."""
    users = [_user(INGEST_NAME, ["$JS.API.>"], "INGEST")]
    users += [_user(edge, [f"smartedge.*.{edge}"], edge) for edge in edges]
    return _SETTINGS + "".join(users) + "  ]\n}\n"


def _user(name: str, publish: list[str], inbox: str) -> str:
    allowed = ", ".join(f'"{subject}"' for subject in publish)
    return f'    {{ user: "CN={name}", permissions: {{ publish: [{allowed}], subscribe: ["_INBOX_{inbox}.>"] }} }}\n'
