"""/metrics and /healthz, by real HTTP requests."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from smartedge.errors import LinkError
from smartedge.runs.exposition import MetricsServer
from smartedge.runs.http import RequestHandler
from smartedge.runs.telemetry import Figure, Telemetry, serving_telemetry

FIGURES = [
    Figure("cloud_frames", "Frames", "counter", {"door": 3.0, 'na"sty\n': 1.0}),
    Figure("edge_epoch", "Epochs", "gauge", 2.0),
    Figure("cloud_loss", "Not known yet", "gauge", None),
]


@pytest.fixture
def trouble() -> list[str]:
    return []


@pytest.fixture
def server(trouble: list[str]) -> Iterator[MetricsServer]:
    with contextlib.closing(MetricsServer(("127.0.0.1", 0), Telemetry(lambda: FIGURES, lambda: trouble))) as server:
        yield server


def ask(server: MetricsServer, path: str, *, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_are_read_by_a_parser_of_prometheus(server: MetricsServer) -> None:
    status, text = ask(server, "/metrics")
    found = {
        (sample.name, sample.labels.get("edge")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert status == 200
    assert found == {
        ("smartedge_cloud_frames_total", "door"): 3,
        ("smartedge_cloud_frames_total", 'na"sty\n'): 1,
        ("smartedge_edge_epoch", None): 2,
    }


def test_health_says_ok_or_why_not(server: MetricsServer, trouble: list[str]) -> None:
    status, text = ask(server, "/healthz")
    assert (status, json.loads(text)) == (200, {"status": "ok"})
    trouble.append("the spool is full, and training waits")
    status, text = ask(server, "/healthz")
    assert (status, json.loads(text)) == (503, {"status": "degraded", "reasons": trouble})
    assert ask(server, "/livez") == (200, "ok\n")  # a restart would not mend it


def test_nothing_else_is_there(server: MetricsServer) -> None:
    for path in ("/", "/metrics/../secret", "/healthz/"):
        assert ask(server, path)[0] == 404
    assert ask(server, "/metrics", method="POST")[0] == 501


def test_silent_clients_do_not_keep_others_out(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestHandler, "timeout", 0.3)
    with contextlib.ExitStack() as held:
        for _ in range(12):  # more than are answered at a time
            held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert ask(server, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_an_error(server: MetricsServer) -> None:
    with pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        MetricsServer(("127.0.0.1", server.port), Telemetry(list, list))


def test_where_nobody_asked_for_it_nothing_listens() -> None:
    told: list[str] = []
    with serving_telemetry(None, Telemetry(list, list), told.append):
        assert told == []
    with serving_telemetry(("127.0.0.1", 0), Telemetry(list, list), told.append):
        assert told[0].startswith("metrics at http://127.0.0.1:")
