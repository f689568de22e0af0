"""The cloud where workers of their own train: it takes frames in, starts the workers in time, and waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from many_edges import SimulatedEdge, edges_of, fleet_config

from smartedge.artifacts.fleet_run import FleetFigures
from smartedge.cloud.ingest.ingest import Ingest
from smartedge.cloud.receiving import Receiving
from smartedge.cloud.store.marks import ask_to_close, is_complete
from smartedge.cloud.worker import Worker
from smartedge.cloud.workers.group import ALONE
from smartedge.config import Config
from smartedge.errors import RunError, SmartEdgeError
from smartedge.runs.progress import Quiet
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink


class Started:
    """A worker in a thread, as the cloud sees it."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.complete_at_the_start = is_complete(folder)
        self.failure: SmartEdgeError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(config, folder))
        self._thread.start()

    def _work(self, config: Config, folder: Path) -> None:
        worker = Worker(config, folder, ALONE, Quiet())
        worker.run(self._stop)
        worker.close()

    def ended(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def run_all(
    config: Config, folder: Path, edges: list[SimulatedEdge], *, before: Callable[..., Any] = lambda header: None
) -> Started:
    """Edges send while a worker trains, to the end."""
    started: list[Started] = []

    def start() -> Started:
        started.append(Started(config, folder))
        return started[0]

    receiving = Receiving(config, folder, Quiet(), resume=False, start=start)
    threads = [threading.Thread(target=edge.send, args=(receiving,), kwargs={"before": before}) for edge in edges]
    for thread in threads:
        thread.start()
    try:
        assert receiving.run(threading.Event())
    finally:
        for thread in threads:
            thread.join()
        receiving.close()
    return started[0]


def test_a_worker_learns_while_the_edges_still_send(tmp_path: Path) -> None:
    """The second epoch is sent only when the worker has written the checkpoint of the first one."""
    config = fleet_config(fleet={"expect": 1, "patience": 0.05}, cloud={"shards": 2})

    def wait_for_the_checkpoint(header) -> None:
        while header.epoch == 1 and not (tmp_path / "checkpoints" / "00000001").exists():
            threading.Event().wait(0.02)

    started = run_all(config, tmp_path, edges_of(config, 1), before=wait_for_the_checkpoint)
    assert not started.complete_at_the_start


def test_where_images_are_sent_once_the_worker_starts_when_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Ingest] = []
    monkeypatch.setattr(Ingest, "forget_everything", lambda ingest: forgotten.append(ingest))
    config = fleet_config(fleet={"expect": 2}, schedule="freeze-and-log", store={"keep": "unconsumed"})
    assert run_all(config, tmp_path, edges_of(config, 2)).complete_at_the_start
    found = FleetFigures.read(tmp_path / "fleet.json")
    assert {name: each.images for name, each in found.edges.items()} == {"edge0": 20, "edge1": 20}
    assert len(forgotten) == 1, "frames that no resumed run needs are dropped at the end"


def test_what_fails_in_a_worker_ends_the_run_and_the_edges_hear_of_it(tmp_path: Path) -> None:
    config = fleet_config()
    edge = edges_of(config, 1)[0]

    class Failing:
        def ended(self) -> bool:
            raise RunError("the back cannot learn")

        def stop(self) -> None: ...

    receiving = Receiving(config, tmp_path, Quiet(), resume=False, start=Failing)
    link, header = MemoryLink(receiving.ingest, edge.name), edge.streams()[0]
    link.open(header)
    link.write(serialise(edge.frame(0), header))
    with pytest.raises(RunError, match="the back cannot learn"):
        receiving.run(threading.Event())
    with pytest.raises(RunError, match="the cloud's training has failed: the back cannot learn"):
        link.write(serialise(edge.frame(1), header))
    receiving.close()


def test_workers_that_end_too_early_are_an_error(tmp_path: Path) -> None:
    config = fleet_config()

    class Gone:
        def ended(self) -> bool:
            return True

        def stop(self) -> None: ...

    receiving = Receiving(config, tmp_path, Quiet(), resume=False, start=Gone)
    edges_of(config, 1)[0].send(receiving)
    with pytest.raises(RunError, match="the workers have ended, but the run is not complete"):
        receiving.run(threading.Event())
    receiving.close()
    with pytest.raises(RunError, match="holds a run already"):
        Receiving(config, tmp_path, Quiet(), resume=False, start=None)


def test_a_run_that_was_closed_takes_nothing_more_and_a_resumed_one_does(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": None})
    edge, late = edges_of(config, 2)
    stop = threading.Event()
    receiving = Receiving(config, tmp_path, Quiet(), resume=False, start=None)
    edge.send(receiving)
    ask_to_close(tmp_path)
    waiting = threading.Thread(target=receiving.run, args=(stop,))
    waiting.start()
    while not is_complete(tmp_path):
        threading.Event().wait(0.02)
    with pytest.raises(RunError, match="the run is complete"):
        late.send(receiving)
    stop.set()
    waiting.join()
    receiving.close()
    (tmp_path / "close").unlink()
    resumed = Receiving(config, tmp_path, Quiet(), resume=True, start=None)
    assert not is_complete(tmp_path)
    late.send(resumed)
    resumed.close()
