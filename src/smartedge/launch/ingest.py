"""Runs one of the processes that move frames from a broker into the store of a run. It needs no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from smartedge.config import Config
from smartedge.errors import ConfigError, LinkError
from smartedge.framelog.log import check_disk
from smartedge.launch.links import named_credentials
from smartedge.launch.run_folder import note_facts
from smartedge.methods.base import get_method
from smartedge.runs.progress import Monitor, Update, teller
from smartedge.runs.telemetry import serving_telemetry
from smartedge.stopping import Stop

if TYPE_CHECKING:
    from smartedge.fleet.register import Register

__all__ = ["run_ingest"]


def run_ingest(
    config: Config,
    location: str,
    monitor: Monitor,
    *,
    fleet: Path | None = None,
    metrics: tuple[str, int] | None = None,
    stop: Stop | None = None,
) -> bool:
    """One of the processes that move frames from a broker into the store of a run. True when the run is complete.

    Args:
        config: the run's settings; all processes must have the same ``run_dir``.
        location: of the broker, ``nats://host:port/stream``.
        monitor: takes progress updates.
        fleet: a fleet's folder: its edges may send, and this process shows the certificate of 'smartedge fleet broker'.
            None: credentials are those of the settings, and the broker decides who may send.
        metrics: where to answer ``/metrics`` and ``/healthz``; None: nowhere.
        stop: set it to stop cleanly.

    Raises:
        ConfigError: the method sends nothing or needs answers.
        LinkError: the location has another form, or TLS is missing.
    """
    from smartedge.cloud.ingest.figures import ingest_telemetry
    from smartedge.cloud.ingest.process import IngestProcess
    from smartedge.fleet.credentials import ingest_credentials
    from smartedge.fleet.register import Register
    from smartedge.wire.jetstream.messages import Address
    from smartedge.wire.jetstream.receiver import JetStreamReceiver

    method, address = get_method(config.method), Address.parse(location)
    if method.answered or not method.has_cloud:
        raise ConfigError(f"method: '{config.method}' cannot send over a broker; use 'hierarchical' or 'upload'")
    credentials, register = named_credentials(config), None
    if fleet is not None:
        credentials, register = ingest_credentials(fleet), Register(fleet)
    note_facts(config, edge=False)
    check_disk(config.run_dir / "cloud")
    process, stop = IngestProcess(config, config.run_dir / "cloud", monitor), stop or Stop()
    receiver = JetStreamReceiver(
        process.ingest,
        address,
        process,
        credentials=credentials,
        refusal=partial(_refusal, register),
        insecure=config.link.insecure,
    )
    try:
        receiver.start()
        text = f"takes frames from {location} into {config.run_dir}"
        monitor.update(Update("cloud", "ingest", text=text))
        with (
            serving_telemetry(metrics, ingest_telemetry(process, receiver), teller(monitor, "cloud", "metrics")),
            stop.polled(),
        ):
            return process.run(stop, receiver.raise_failure)
    finally:
        receiver.close()
        process.close()


def _refusal(register: Register | None, edge: str) -> str | None:
    """Why an edge's frames stay with the broker for now; None: they are taken."""
    try:
        refusal = None if register is None else register.refusal(edge)
    except LinkError as error:
        refusal = error
    return None if refusal is None else str(refusal)
