"""Both ends of a link: over a network, without a way back, or over a broker, as settings and fleet say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge import errors
from smartedge.artifacts.run import EdgeRun
from smartedge.config import Config
from smartedge.files import private_folder, refuse_if_others_can_read
from smartedge.methods.base import get_method
from smartedge.wire.jetstream.messages import NATS

if TYPE_CHECKING:
    from smartedge.artifacts.fleet import Bundle
    from smartedge.cloud.ingest.ingest import Ingest
    from smartedge.wire.credentials import Credentials, Guard
    from smartedge.wire.grpc_link import GrpcLink
    from smartedge.wire.grpc_receiver import GrpcReceiver
    from smartedge.wire.jetstream.sender import JetStreamLink
    from smartedge.wire.link import FrameHandler, FrameSender
    from smartedge.wire.simplex.receiver import SimplexReceiver
    from smartedge.wire.simplex.sender import SimplexLink

__all__ = [
    "broker_link",
    "check_receiver",
    "link_to",
    "named_credentials",
    "one_way_link",
    "one_way_receiver",
    "receiver_for",
    "sender_to",
]

UDP = "udp://"  # before the address of a cloud that is reached without a way back


def sender_to(config: Config, location: str | None, bundle: Bundle | None, tell: Callable[[str], None]) -> FrameSender:
    """The edge's end of a link of either kind. What :func:`link_to` says of the cloud, ``tell`` hears."""
    if bundle is not None and location is None:
        location = bundle.cloud
    assert location is not None
    if location.startswith(UDP):
        return one_way_link(config, location, bundle)
    if location.startswith(NATS):
        return broker_link(config, location, bundle)
    waits = (
        "The edge waits for it" if get_method(config.method).answered else "The edge goes on, and its frames wait here"
    )
    # the edge itself tries again, and says so
    return link_to(config, location, bundle, lambda text: tell(f"{text} {waits}"), patient=False)


def link_to(
    config: Config, location: str, bundle: Bundle | None, tell: Callable[[str], None], *, patient: bool = True
) -> GrpcLink:
    """The edge's end of the link, with the credentials of the bundle, or else with those that the settings name.

    Args:
        config: the run's settings.
        location: where the cloud listens, ``host:port``.
        bundle: of an edge of the cloud's fleet.
        tell: hears at once, in words for the user, where nobody answers there. That is no error: the cloud may come.
        patient: that of :class:`~smartedge.wire.grpc_link.GrpcLink`.

    Raises:
        LinkError: somebody answers, and the link does not fit (:func:`~smartedge.wire.handshake.greet`).
        FleetError: the cloud does not let this edge in. One that is patient hears it with its first call.
        RunError: the cloud's run has other settings, or holds another run of this edge; likewise.
    """
    from smartedge.fleet.credentials import credentials_of
    from smartedge.wire.grpc_link import GrpcLink
    from smartedge.wire.handshake import greet

    credentials, link = named_credentials(config) if bundle is None else credentials_of(bundle), config.link
    made = GrpcLink(
        location, credentials, connect_timeout_s=link.connect_timeout, patient=patient, insecure=link.insecure
    )
    if reason := greet(location, credentials):
        tell(f"the cloud at {location} cannot be reached yet ({reason}); is it started, and is this its address?")
    elif not patient:  # hours may pass until it sends something
        kept = EdgeRun.read_if_there(config.run_dir / "edge" / "run.json")
        made.check_admitted(json.dumps(config.agreement(), sort_keys=True), "" if kept is None else kept.run)
    return made


def one_way_link(config: Config, location: str, bundle: Bundle | None) -> SimplexLink:
    """The edge's end of a link without a way back.

    Raises:
        ConfigError: without a bundle there is no key; or the method needs answers.
        LinkError: the libraries of the link are not installed, or its counter cannot be read.
    """
    from smartedge.wire.simplex.seal import Sealer
    from smartedge.wire.simplex.sender import SimplexLink

    if bundle is None:
        raise errors.ConfigError(f"{location}: a link without a way back needs --bundle FILE, which holds its key")
    if get_method(config.method).answered:
        raise errors.ConfigError(f"{location}: method {config.method!r} needs a link with a way back")
    folder, key = config.run_dir / "edge", bytes.fromhex(bundle.simplex_key)
    private_folder(folder)
    counter = folder / f"simplex-{hashlib.sha256(key).hexdigest()[:8]}.counter"
    return SimplexLink(
        location.removeprefix(UDP),
        Sealer(bundle.edge, key, counter),
        rate_bits_s=config.link.simplex_rate,
        loss=config.link.simplex_loss,
    )


def broker_link(config: Config, location: str, bundle: Bundle | None) -> JetStreamLink:
    """The edge's end of a link over a broker.

    Raises:
        ConfigError: the method needs answers, or the bundle holds a token and no certificate.
        LinkError: the location has another form, or the broker is not on this machine and there is no TLS.
    """
    from smartedge.fleet.credentials import credentials_of
    from smartedge.wire.jetstream.messages import Address
    from smartedge.wire.jetstream.sender import JetStreamLink
    from smartedge.wire.link import UNNAMED_EDGE

    if get_method(config.method).answered:
        raise errors.ConfigError(
            f"{location}: method {config.method!r} needs an answer to each frame before it goes on, and nothing goes "
            "back over a broker; connect to 'smartedge cloud' itself (HOST:PORT)"
        )
    if bundle is not None and bundle.certificate is None:
        raise errors.ConfigError(
            f"{location}: the bundle holds a token, and a broker needs a certificate; add the edge without --token"
        )
    return JetStreamLink(
        Address.parse(location),
        UNNAMED_EDGE if bundle is None else bundle.edge,
        named_credentials(config) if bundle is None else credentials_of(bundle),
        timeout_s=config.link.connect_timeout,
        insecure=config.link.insecure,
    )


def receiver_for(
    config: Config,
    handler: FrameHandler,
    host: str,
    port: int,
    *,
    fleet: Path | None = None,
    behind_proxy: bool = False,
    streams_per_edge: int = 1,
    answer: Callable[[str, bytes], bytes] | None = None,
) -> GrpcReceiver:
    """The cloud's end of the link.

    Args:
        config: the run's settings.
        handler: takes the frames.
        host: where to listen.
        port: 0 for any free one.
        fleet: a fleet's folder: its edges may send, each by its certificate. None: token and certificates are those of
            the settings, and every sender that shows them may send.
        behind_proxy: a proxy of this machine ends TLS, so the fleet's edges show tokens.
        streams_per_edge: how many an edge may have open at the same time.
        answer: that of :class:`~smartedge.wire.grpc_receiver.GrpcReceiver`.

    Raises:
        FleetError: the fleet's files cannot be used.
        ConfigError: the settings name credentials beside those of the fleet.
        LinkError: a certificate and its key do not belong together.
    """
    from smartedge.wire.grpc_receiver import GrpcReceiver, Limits

    credentials, guard = _who_may_send(config, fleet, behind_proxy=behind_proxy)
    limits, insecure = Limits(streams_per_edge=streams_per_edge), config.link.insecure
    return GrpcReceiver(
        handler, host, port, credentials=credentials, guard=guard, limits=limits, insecure=insecure, answer=answer
    )


def check_receiver(
    config: Config, host: str, port: int, *, fleet: Path | None = None, behind_proxy: bool = False
) -> None:
    """Find what is wrong with the arguments of :func:`receiver_for` before there is a handler, which needs torch.

    Raises:
        FleetError, ConfigError: as there.
        LinkError: another program listens there, or the link would need TLS.
    """
    from smartedge.wire.addresses import refuse_if_taken
    from smartedge.wire.credentials import listens_in_clear

    credentials, _ = _who_may_send(config, fleet, behind_proxy=behind_proxy)
    listens_in_clear(host, credentials, insecure=config.link.insecure)
    refuse_if_taken(host, port)


def _who_may_send(config: Config, fleet: Path | None, *, behind_proxy: bool) -> tuple[Credentials, Guard | None]:
    """What a receiver shows and checks, and who says which edges of a fleet may send."""
    from smartedge.fleet.credentials import cloud_credentials
    from smartedge.fleet.register import Register
    from smartedge.wire.credentials import Credentials
    from smartedge.wire.handshake import tls_context

    credentials, register = named_credentials(config), None
    if fleet is not None:
        if credentials != Credentials():
            raise errors.ConfigError("link.token_file, link.tls_*: remove them, since --fleet says who may send")
        register = Register(fleet)
        credentials = Credentials() if behind_proxy else cloud_credentials(fleet)
    tls_context(credentials)  # gRPC takes a key that does not fit for a port that is taken
    return credentials, register


def one_way_receiver(ingest: Ingest, host: str, port: int, *, fleet: Path | None) -> SimplexReceiver:
    """The cloud's end of links without a way back.

    Raises:
        ConfigError: without a fleet there are no keys.
        FleetError: the fleet's files cannot be used.
    """
    from smartedge.fleet.register import SimplexRegister
    from smartedge.wire.simplex.receiver import SimplexReceiver

    if fleet is None:
        raise errors.ConfigError("--listen-udp: only with --fleet DIR, which holds the edges' keys")
    return SimplexReceiver(ingest, SimplexRegister(fleet).keys, host, port)


def named_credentials(config: Config) -> Credentials:
    """The credentials that the settings name."""
    from smartedge.wire.credentials import Credentials

    link = config.link
    return Credentials.from_files(ca=link.tls_ca, certificate=link.tls_cert, key=link.tls_key, token=_token(config))


def _token(config: Config) -> str | None:
    path = config.link.token_file
    if path is None:
        return None
    try:
        refuse_if_others_can_read(path, errors.ConfigError, "the token (link.token_file)")
        token = path.read_text(encoding="utf-8").split("\n")[0].strip()
    except OSError as error:
        raise errors.ConfigError(f"link.token_file: {path} cannot be read ({error.strerror or error})") from error
    if not token:
        raise errors.ConfigError(f"link.token_file: the first line of {path} is empty; write a secret there")
    return token
