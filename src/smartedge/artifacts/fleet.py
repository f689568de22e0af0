"""Files of a fleet. ``docs/fleet-schema.md`` explains them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import CheckedArtifact, Part
from smartedge.errors import FleetError, SmartEdgeError
from smartedge.types import EDGE_NAME

__all__ = ["Bundle", "EdgeEntry", "EdgeRegister", "Issued", "SimplexKeys"]


class Issued(Part):
    """One certificate that was issued to an edge."""

    serial: str = Field(pattern=r"^[0-9a-f]{1,40}$", description="serial number of the certificate, in hexadecimal")
    until: datetime = Field(description="ISO 8601, UTC; the certificate is not valid after it")
    revoked: bool = Field(description="whether it was revoked before its time")


class EdgeEntry(Part):
    """One edge of the fleet."""

    shows: Literal["certificate", "token"] = Field(description="how the edge proves its name")
    certificates: tuple[Issued, ...] = Field((), description="those that were issued to it and have not expired")
    token_sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of its token, in hexadecimal; null: it has none"
    )
    token_until: datetime | None = Field(None, description="ISO 8601, UTC; the token is not valid after it")
    added: datetime = Field(description="ISO 8601, UTC")

    @property
    def until(self) -> datetime | None:
        """The end of its last certificate or token that was not revoked; None: all were revoked."""
        if self.shows == "token":
            return self.token_until
        return max((issued.until for issued in self.certificates if not issued.revoked), default=None)


class EdgeRegister(CheckedArtifact):
    """``edges.json``: the edges of a fleet."""

    error: ClassVar[type[SmartEdgeError]] = FleetError
    missing: ClassVar[str] = "make a fleet with 'smartedge fleet init DIR'"
    remedy: ClassVar[str] = "restore it from a copy; make a fleet of an earlier version of smartedge anew"
    page: ClassVar[str] = "docs/fleet-schema.md"

    schema_version: Literal[2] = 2
    edges: dict[str, EdgeEntry] = Field(description="name of the edge → its certificates and token")


class SimplexKeys(CheckedArtifact):
    """``simplex.json``: the keys of the one-way link."""

    error: ClassVar[type[SmartEdgeError]] = FleetError
    missing: ClassVar[str] = "'smartedge fleet add DIR EDGE' writes it"
    remedy: ClassVar[str] = (
        "restore it from a copy; or remove it, and renew the bundle of each edge with 'smartedge fleet renew DIR EDGE'"
    )
    page: ClassVar[str] = "docs/fleet-schema.md"

    schema_version: Literal[2] = 2
    keys: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        description="name of the edge → 256 bits in hexadecimal, the `simplex_key` of its newest bundle"
    )


class Bundle(CheckedArtifact):
    """``bundles/EDGE.bundle``: what one edge needs to send to the cloud of its fleet."""

    error: ClassVar[type[SmartEdgeError]] = FleetError
    missing: ClassVar[str] = "'smartedge fleet add DIR EDGE' writes it; copy it to the edge"
    remedy: ClassVar[str] = "make a new one with 'smartedge fleet renew DIR EDGE'"
    page: ClassVar[str] = "docs/fleet-schema.md"

    schema_version: Literal[3] = 3
    edge: str = Field(pattern=f"^{EDGE_NAME}$", description="name of the edge")
    cloud: str = Field(description="address of the cloud, `host:port`; or `nats://host:port/stream/count`, of a broker")
    server_name: str | None = Field(
        description="the name that the cloud's certificate must have; null: that of the address"
    )
    authority: str | None = Field(
        description="certificate of the authority, PEM; it checks the cloud's certificate. null: the machine's own list"
    )
    certificate: str | None = Field(description="certificate of the edge, PEM; null: it shows a token instead")
    key: str | None = Field(description="its private key, PEM")
    token: str | None = Field(description="its token; null: it shows a certificate instead")
    until: datetime = Field(description="ISO 8601, UTC; the certificate or token is not valid after it")
    simplex_key: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="256 bits in hexadecimal: encrypts on the link without a way back"
    )
    front_key: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Ed25519 public key of the fleet: checks the fronts that it publishes"
    )
