"""Two ingest processes (here: two objects) move frames of three edges from a real broker into one store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from many_edges import SimulatedEdge, edges_of, fleet_config
from nats_broker import Broker

from smartedge.cloud.back import build_back
from smartedge.cloud.ingest import process
from smartedge.cloud.ingest.figures import ingest_telemetry
from smartedge.cloud.ingest.process import IngestProcess
from smartedge.cloud.store.feature_log import FeatureReader, log_folder
from smartedge.cloud.store.marks import is_complete
from smartedge.config import Config
from smartedge.errors import ConfigError, LinkError
from smartedge.launch.ingest import run_ingest
from smartedge.launch.links import broker_link
from smartedge.runs.progress import Quiet
from smartedge.wire.frame import serialise
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.jetstream.receiver import JetStreamReceiver, Timing
from smartedge.wire.jetstream.sender import JetStreamLink

TIMING = Timing(look_s=0.05, again_s=0.05, first_retry_s=0.05)


@pytest.fixture(autouse=True)
def _shapes_found_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network says in this process what edges send; test_shapes.py has the process that imports torch for it."""
    monkeypatch.setattr(process, "shapes_of", lambda config: build_back(config, 2)[1])


@contextlib.contextmanager
def ingest(config: Config, folder: Path, address: Address) -> Iterator[tuple[IngestProcess, JetStreamReceiver]]:
    process = IngestProcess(config, folder, Quiet())
    receiver = JetStreamReceiver(process.ingest, address, process, timing=TIMING)
    receiver.start()
    try:
        assert receiver.ready.wait(60)
        yield process, receiver
    finally:
        receiver.close()
        process.close()


def send(edge: SimulatedEdge, address: Address, outage: Callable[[], None] = lambda: None) -> None:
    """All of an edge's streams. What is lost with a broker that goes away is sent again from what was confirmed."""
    link = JetStreamLink(address, edge.name, timeout_s=10)
    streams = edge.streams()
    number = 0
    while number < len(streams):
        header = streams[number]
        try:
            for seq in range(link.open(header), header.end_seq):
                link.write(serialise(edge.frame(seq, header.split), header))
            link.close()
            number += 1
        except LinkError:
            time.sleep(0.05)
        if number == 1:
            outage()
    link.disconnect()


def run(
    process: IngestProcess, receiver: JetStreamReceiver, stop: threading.Event, found: list[bool]
) -> threading.Thread:
    thread = threading.Thread(target=lambda: found.append(process.run(stop, receiver.raise_failure)))
    thread.start()
    return thread


def assert_whole(edge: SimulatedEdge, folder: Path) -> None:
    log, streams = FeatureReader(log_folder(folder, edge.name), edge.name), edge.streams()
    assert log.streams == streams and log.durable == streams[-1].end_seq
    for header in streams:
        for seq in range(header.first_seq, header.end_seq):
            assert bytes(log.frame(seq).batch.payload) == bytes(edge.frame(seq, header.split).batch.payload)


def test_two_processes_and_a_broker_that_is_killed(tmp_path: Path, own_broker: Broker) -> None:
    """More frames than training may lag behind: nobody trains here. One process ends in between."""
    config = fleet_config(fleet={"expect": 3}, link={"max_lead_frames": 2})
    edges, address, folder = edges_of(config, 3, steps=8), own_broker.address(n_streams=2), tmp_path / "cloud"
    stop, found = threading.Event(), list[bool]()
    with contextlib.ExitStack() as stack, ingest(config, folder, address) as one:
        other = stack.enter_context(ingest(config, folder, address))
        threads = [run(*one, stop, found), run(*other, threading.Event(), [])]

        def outage() -> None:
            own_broker.kill()
            own_broker.start()

        sending = [threading.Thread(target=send, args=(edge, address)) for edge in edges[1:]]
        for thread in sending:
            thread.start()
        send(edges[0], address, outage)
        for thread in sending:
            thread.join(timeout=60)
        threads[0].join(timeout=60)
        threads[1].join(timeout=60)
        give_up = time.monotonic() + 30
        while ingest_telemetry(*one).trouble() and time.monotonic() < give_up:
            time.sleep(0.02)  # the other one may have done all that was left, before this one was connected again
        told = {figure.name: figure.value for figure in ingest_telemetry(*one).figures()}
        assert ingest_telemetry(*one).trouble() == []
        stored = {edge.name: float(one[0].stored(edge.name).frames) for edge in edges}
    assert stored == told["cloud_frames"] == {edge.name: float(edge.streams()[-1].end_seq) for edge in edges}
    assert (told["cloud_edges_done"], told["cloud_complete"], told["ingest_connected"]) == (3, 1, 1)
    assert told["ingest_bad_messages"] == {} and found == [True] and is_complete(folder)
    for edge in edges:
        assert_whole(edge, folder)


@pytest.mark.slow
def test_the_edges_of_a_process_that_is_gone_go_to_the_other_one(tmp_path: Path, own_broker: Broker) -> None:
    config = fleet_config(fleet={"expect": 4})
    edges, address, folder = edges_of(config, 4), own_broker.address(), tmp_path / "cloud"
    with ingest(config, folder, address), ingest(config, folder, address):
        for edge in edges[:2]:
            send(edge, address)
    stop, found = threading.Event(), list[bool]()
    for edge in edges[2:]:
        send(edge, address)
    with ingest(config, folder, address) as last:
        run(*last, stop, found).join(timeout=60)
    assert found == [True]
    for edge in edges:
        assert_whole(edge, folder)


@pytest.mark.slow
def test_a_run_takes_no_more_edges_than_it_expects_also_from_another_process(
    tmp_path: Path, own_broker: Broker
) -> None:
    config = fleet_config(fleet={"expect": 2})
    edges, address, folder = edges_of(config, 3), own_broker.address(), tmp_path / "cloud"
    with ingest(config, folder, address) as one, ingest(config, folder, address) as other:
        for edge in edges:
            send(edge, address)
        stop, found = threading.Event(), list[bool]()
        run(*one, stop, found).join(timeout=60)
        deadline = time.monotonic() + 20
        while not (one[1].refused or other[1].refused) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(one[1].refused | other[1].refused) == 1
    assert found == [True] and len(list((folder / "store").glob("*/streams"))) == 2


def test_what_cannot_go_over_a_broker_is_refused_and_told(tmp_path: Path) -> None:
    split = fleet_config(method="split", run_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="nothing goes back over a broker"):
        broker_link(split, "nats://127.0.0.1", None)
    with pytest.raises(ConfigError, match="cannot send over a broker"):
        run_ingest(split, "nats://127.0.0.1", Quiet())
    with pytest.raises(ConfigError, match="remove it; the address says"):
        fleet_config(link={"kind": "jetstream"})
