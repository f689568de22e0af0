"""/metrics and /healthz of running processes, asked over HTTP; and what is logged there."""

from __future__ import annotations

import contextlib
import json
import signal
import urllib.error
import urllib.request
from pathlib import Path

from commands import Command, settings_file
from headers import stream_header
from prometheus_client.parser import text_string_to_metric_families

from smartedge.errors import SmartEdgeError
from smartedge.wire.credentials import Credentials
from smartedge.wire.grpc_link import GrpcLink

SECRET = "the-secret-of-this-run"


def ask(command: Command, path: str) -> tuple[int, str]:
    command.says("/metrics")
    base = command.output.partition("metrics at ")[2].partition("/metrics")[0]
    try:
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def figures(command: Command) -> dict[str, dict[str, float]]:
    """Name -> label -> value."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(ask(command, "/metrics")[1]):
        for sample in family.samples:
            found.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
    return found


def test_both_sides_tell_how_they_are(tiny_config, tmp_path: Path, start) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    config = tiny_config("run", epochs=10_000, link={"token_file": str(token)})
    file = settings_file(config, "run")
    cloud = start("cloud", file, "--listen", "127.0.0.1:0", "--metrics", "0", "--log-format", "json")
    cloud.says("/metrics")
    port = json.loads(cloud.output.splitlines()[0])["message"].rpartition(":")[2]
    edge = start("edge", file, "--connect", f"127.0.0.1:{port}", "--metrics", "127.0.0.1:0", "--log-format", "text")
    edge.until(lambda: figures(cloud).get("smartedge_cloud_step", {}).get("", 0) > 12)
    told = figures(cloud)
    assert told["smartedge_cloud_frames_total"]["edge"] >= told["smartedge_cloud_watermark_frames"]["edge"] > 0
    assert told["smartedge_cloud_loss"][""] > 0 and told["smartedge_cloud_store_bytes"]["edge"] > 1000
    assert told["smartedge_cloud_received_bytes_total"]["edge"] > 1000
    mine = figures(edge)
    assert mine["smartedge_edge_frames_total"][""] >= mine["smartedge_edge_frames_confirmed_total"][""]
    assert mine["smartedge_edge_releases_total"]["train"] >= 12 * 16 and mine["smartedge_edge_spool_bytes"][""] > 0
    content = ("loss", "accuracy", "label", "masculine", "smile")
    assert not [name for name in mine if any(word in name for word in content)], "nothing of what images show"
    assert ask(cloud, "/healthz") == (200, '{"status": "ok"}\n') == ask(edge, "/healthz")

    for number in range(7):  # each with another run, shape and token; more would wait longer and longer
        stranger = GrpcLink(f"127.0.0.1:{port}", Credentials(token=f"wrong {number}"), patient=False)
        with contextlib.suppress(SmartEdgeError):
            stranger.open(stream_header(run=f"stranger {number}", feature_shape=(number + 1,)))
        stranger.disconnect()
    after = figures(cloud)
    assert after["smartedge_cloud_refused_calls_total"][""] >= 7
    assert {name: set(values) for name, values in after.items()} == {name: set(v) for name, v in told.items()}

    assert cloud.stop(signal.SIGTERM)[0] == 0
    edge.until(lambda: ask(edge, "/healthz")[0] == 503)
    assert "the cloud has been unreachable for" in ask(edge, "/healthz")[1]
    assert figures(edge)["smartedge_edge_outages_total"][""] == 1
    assert edge.stop(signal.SIGTERM)[0] == 0
    lines = cloud.output.splitlines()
    assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in lines)
    assert sum("stream from" in line for line in lines) <= 5, "of one host, no more than a few a minute"
    for said in (cloud.output, edge.output):
        assert SECRET not in said and all(each.isprintable() or each == "\n" for each in said)
