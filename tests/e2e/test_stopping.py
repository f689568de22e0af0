"""SIGTERM and SIGINT end every long verb within seconds, whatever it is doing, with exit code 0 and the next command.

Real processes, without a terminal and without input.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Command, settings_file
from ports import held_port
from runs import assert_same_run

from smartedge.artifacts.summary import has_finished
from smartedge.framelog.reader import LogReader
from smartedge.runs.progress import Quiet
from smartedge.training import collect, train

Start = Callable[..., Command]
FOREVER = {"epochs": 10_000}  # nothing here ends by itself


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a machine that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def nobody() -> Iterator[str]:
    """Address at which nobody listens."""
    with held_port() as port:
        yield f"127.0.0.1:{port}"


def assert_stops(command: Command, number: signal.Signals = signal.SIGTERM) -> None:
    code, seconds = command.stop(number)
    assert code == 0, command.output
    assert seconds < 18, "within seconds, and before it would notice by itself that a peer is gone (20 s)"
    assert "Traceback" not in command.output
    last = command.output.splitlines()[-1]
    runs = command.argv[0] in ("edge", "cloud") and "--resume" not in command.argv
    again = [*command.argv, "--resume"] if runs else command.argv
    assert last == f"stopped; go on with: smartedge {' '.join(again)}"


@pytest.mark.parametrize(
    ("where", "method"),
    [
        ("nobody", "hierarchical"),
        ("silent", "split"),
        pytest.param("nobody", "split", marks=pytest.mark.slow),
        pytest.param("silent", "hierarchical", marks=pytest.mark.slow),
    ],
)
def test_an_edge_whose_cloud_cannot_be_reached(where, method, request, tiny_config, start: Start) -> None:
    """Opening the link, on the shipper's thread or, in split learning, where it learns."""
    config = tiny_config("run", method=method, **FOREVER)
    edge = start("edge", settings_file(config, "edge"), "--connect", request.getfixturevalue(where))
    edge.until((config.run_dir / "edge" / "run.json").exists)
    if (where, method) == ("nobody", "hierarchical"):
        edge.says("cloud unreachable for 0 s")  # at once, not after link.connect_timeout (30 s)
    assert_stops(edge, signal.SIGINT if where == "silent" else signal.SIGTERM)


@pytest.mark.parametrize("schedule", ["joint", pytest.param("freeze-and-log", marks=pytest.mark.slow)])
def test_an_edge_with_a_full_spool_and_it_goes_on_where_it_was(schedule, nobody, tiny_config, start: Start) -> None:
    changes = {"epochs": 2, "schedule": schedule, "data": {"limit": {"train": 480, "val": 20, "test": 40}}}
    whole, full = tiny_config("whole", **changes), tiny_config("full", spool={"max_bytes": 2**16}, **changes)
    train(whole, single_process=True, monitor=Quiet())
    file = settings_file(full, "full")
    edge = start("edge", file, "--connect", nobody)
    edge.says("the spool is full")
    assert_stops(edge)
    cloud = start("cloud", file, "--listen", "127.0.0.1:0")
    edge = start("edge", file, "--connect", f"127.0.0.1:{cloud.port()}", "--resume")
    assert [edge.end(), cloud.end()] == [0, 0], edge.output + cloud.output
    collect(full.run_dir)
    assert_same_run(whole.run_dir, full.run_dir)


def test_an_edge_that_has_trained_and_waits_for_the_cloud(nobody, tiny_config, start: Start) -> None:
    config = tiny_config("run", epochs=1)
    edge = start("edge", settings_file(config, "edge"), "--connect", nobody, "--progress", "json")
    edge.until(lambda: (config.run_dir / "edge" / "confirmed.json").exists())
    assert_stops(edge)
    assert not has_finished(config.run_dir / "edge")
    assert LogReader(config.run_dir / "edge" / "spool", "edge").next_seq == 96 // 16 + 2 + 3


@pytest.mark.slow
def test_both_sides_while_they_train_and_send(tiny_config, start: Start) -> None:
    config = tiny_config("run", **FOREVER)
    file = settings_file(config, "run")
    cloud = start("cloud", file, "--listen", "127.0.0.1:0")
    edge = start("edge", file, "--connect", f"127.0.0.1:{cloud.port()}")
    checkpoints = [config.run_dir / side / "checkpoints" / "00000003" for side in ("edge", "cloud")]
    edge.until(lambda: all((each.parent.exists() and list(each.parent.glob("0*"))) for each in checkpoints))
    assert_stops(edge)
    assert_stops(cloud, signal.SIGINT)


@pytest.mark.slow
def test_a_split_edge_that_waits_for_an_answer(tiny_config, start: Start) -> None:
    config = tiny_config("run", method="split", **FOREVER)
    file = settings_file(config, "run")
    cloud = start("cloud", file, "--listen", "127.0.0.1:0")
    edge = start("edge", file, "--connect", f"127.0.0.1:{cloud.port()}")
    cloud.until(lambda: (config.run_dir / "cloud" / "checkpoints").exists())
    assert cloud.process.pid is not None
    os.kill(cloud.process.pid, signal.SIGSTOP)  # it answers no more, and its machine still does
    try:
        assert_stops(edge)
    finally:
        os.kill(cloud.process.pid, signal.SIGCONT)
    assert_stops(cloud)


def test_a_cloud_that_waits_for_edges(tiny_config, start: Start) -> None:
    cloud = start("cloud", settings_file(tiny_config("run"), "run"), "--listen", "127.0.0.1:0")
    cloud.port()
    assert_stops(cloud)


def test_a_cloud_that_holds_an_edge_back(tiny_config, start: Start) -> None:
    """It waits for a second edge, and the first one is as far ahead as it may be."""
    config = tiny_config("run", fleet={"expect": 2, "patience": 1000}, link={"max_lead_frames": 1}, **FOREVER)
    file = settings_file(config, "run")
    cloud = start("cloud", file, "--listen", "127.0.0.1:0")
    edge = start("edge", file, "--connect", f"127.0.0.1:{cloud.port()}")
    frames = config.run_dir / "cloud" / "store" / "edge"
    edge.until(lambda: frames.exists() and sum(each.stat().st_size for each in frames.iterdir()) > 9000)
    edge.until(lambda: LogReader(config.run_dir / "edge" / "spool", "edge").next_seq > 20)
    assert_stops(cloud)
    assert "cannot" not in cloud.output
    assert_stops(edge)


def test_a_cloud_that_trains_from_its_log(tiny_config, start: Start) -> None:
    config = tiny_config("run", schedule="freeze-and-log", epochs=2)
    train(config, single_process=True, monitor=Quiet())
    longer = config.model_copy(update={"epochs": 100_000})
    cloud_only = config.run_dir / "cloud"
    for old in ("summary.json", "closed/edge"):
        (cloud_only / old).unlink()
    shutil.rmtree(cloud_only / "checkpoints")  # they say how many epochs they are for
    (config.run_dir / "config.yaml").write_text(longer.to_yaml())
    cloud = start("cloud", settings_file(longer, "run"), "--listen", "127.0.0.1:0", "--resume")
    cloud.until((cloud_only / "checkpoints" / "00000009").exists)
    assert_stops(cloud)


@pytest.mark.slow
def test_train(tiny_config, start: Start) -> None:
    config = tiny_config("run", **FOREVER)
    both = start("train", settings_file(config, "run"))
    both.until((config.run_dir / "cloud" / "checkpoints").exists)
    code, seconds = both.stop()
    assert code == 0 and seconds < 18
    assert both.output.splitlines()[-1].startswith("stopped; continue with: smartedge train")


@pytest.mark.slow
def test_serve_and_infer(silent, tiny_config, tmp_path: Path, start: Start) -> None:
    from PIL import Image

    config = tiny_config("run", epochs=1)
    train(config, single_process=True, monitor=Quiet())
    server = start("serve", config.run_dir, "--listen", "127.0.0.1:0")
    server.port()
    picture = tmp_path / "picture.png"
    Image.new("RGB", (16, 16)).save(picture)
    edge = start("infer", config.run_dir, picture, "--connect", silent, "--threshold", "1.01")
    edge.until((config.run_dir / "edge" / "ledger.sqlite-wal").exists)
    assert_stops(edge)
    assert_stops(server, signal.SIGINT)


@pytest.mark.slow
def test_audit(tiny_config, start: Start) -> None:
    config = tiny_config("run", epochs=1, data={"audit_share": 0.3, "limit": {"train": 400, "val": 100, "test": 100}})
    train(config, single_process=True, monitor=Quiet())
    audit = start("audit", config.run_dir)
    audit.says("audit defended linear 0.01")
    assert_stops(audit)
