"""Answers ``/metrics`` (Prometheus), ``/healthz`` and ``/livez`` over HTTP with the telemetry of a process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from smartedge.errors import ConfigError
from smartedge.extras import how_to_install
from smartedge.runs.http import Listening, RequestHandler
from smartedge.runs.telemetry import Figure, Telemetry

__all__ = ["MetricsServer"]


class MetricsServer(Listening):
    """Answers until :meth:`close`.

    Args:
        address: host and port; port 0: any free one.
        telemetry: is asked at each request.

    Raises:
        ConfigError: prometheus_client is not installed.
        LinkError: it cannot listen there.
    """

    def __init__(self, address: tuple[str, int], telemetry: Telemetry) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"--metrics: needs the package 'prometheus_client'; run: {how_to_install('metrics')}"
            ) from error

        class Handler(_Handler):
            what = telemetry

        super().__init__(address, Handler, "--metrics")


class _Handler(RequestHandler):
    what: Telemetry

    def do_GET(self) -> None:
        """``/metrics``, ``/healthz`` or ``/livez``; everything else is not there."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.answer(200, "text/plain; version=0.0.4; charset=utf-8", _exposition(self.what.figures()))
        elif path == "/healthz":
            trouble = self.what.trouble()
            said = {"status": "degraded", "reasons": trouble} if trouble else {"status": "ok"}
            self.answer(503 if trouble else 200, "application/json", json.dumps(said).encode() + b"\n")
        elif path == "/livez":
            self.answer(200, "text/plain", b"ok\n")
        else:
            self.answer(404, "text/plain", b"/metrics, /healthz and /livez are here\n")


def _exposition(figures: Iterable[Figure]) -> bytes:
    """The figures in the text format of Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Now(Collector):
        def collect(self) -> Iterator[Metric]:
            for figure in figures:
                if figure.value is None:
                    continue
                make = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
                if isinstance(figure.value, Mapping):
                    family = make(f"smartedge_{figure.name}", figure.help, labels=[figure.label])
                    for name, value in figure.value.items():
                        family.add_metric([name], value)
                else:
                    family = make(f"smartedge_{figure.name}", figure.help, value=figure.value)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Now())
    return generate_latest(registry)
