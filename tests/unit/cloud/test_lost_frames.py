"""Frames that the disk did not take in the end: they are learned from when they have come again, and not left out."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from many_edges import SimulatedEdge, edges_of, fleet_config, lines_of, run_fleet

from smartedge import files
from smartedge.cloud import runner as runner_module
from smartedge.cloud.handover import Handover
from smartedge.cloud.learning import Learning
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.store.feature_log import FeatureLog, log_folder
from smartedge.cloud.store.marks import ask_to_close
from smartedge.errors import LogError
from smartedge.framelog import log as log_module
from smartedge.framelog.reader import LogReader
from smartedge.runs.progress import Quiet
from smartedge.types import StreamHeader
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink


def begin(edge: SimulatedEdge, runner: CloudRunner) -> StreamHeader:
    """Send the first stream of an edge. Nothing of it is durable."""
    link = MemoryLink(runner.ingest, edge.name)
    header = edge.streams()[0]
    link.open(header)
    for seq in range(header.end_seq):
        link.write(serialise(edge.frame(seq), header))
    return header


def fails(*arguments: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("edges", [1, 2])
def test_what_a_failed_sync_cut_off_is_learned_from_when_it_comes_again(
    edges: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails while the cloud learns: it ended with an error that told to restore the log from a copy."""
    monkeypatch.setattr(runner_module, "_WAITING_BYTES", 0)  # so frames are read from the log
    config = fleet_config(fleet={"expect": edges, "patience": 0.05})
    senders = edges_of(config, edges)
    runner = CloudRunner(config, tmp_path / "failed", Quiet(), resume=False, inline=False)
    headers = [begin(edge, runner) for edge in senders]
    failed, kept = threading.Event(), Learning._kept

    def fail_once(learning: Learning, key: tuple[str, int]) -> object:
        if key == ("edge0", 1) and not failed.is_set():
            with monkeypatch.context() as broken:
                broken.setattr(log_module, "sync_file", fails)
                with pytest.raises(LogError, match="frames before 0 are safe"):
                    runner.ingest.sync("edge0", headers[0])
            failed.set()
        return kept(learning, key)

    monkeypatch.setattr(Learning, "_kept", fail_once)
    ended: list[bool] = []
    running = threading.Thread(target=lambda: ended.append(runner.run(threading.Event())))
    running.start()
    assert failed.wait(timeout=60)
    for edge in senders:
        edge.send(runner)
    running.join(timeout=60)
    runner.close()
    assert ended == [True]
    if edges == 1:
        whole = run_fleet(config, tmp_path / "whole", senders)
        assert whole.trainer is not None and runner.trainer is not None
        mine, theirs = runner.trainer.back.state_dict(), whole.trainer.back.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    else:
        used = Counter(key for line in lines_of(tmp_path / "failed") for key in line.frames or ())
        assert used == {(edge.name, seq): 1 for edge in senders for seq in (0, 1, 2, 4, 5, 6)}
        assert runner.trainer is not None and runner.trainer.progress.step == 12, "no frame was left out in silence"


def test_readers_do_not_see_what_a_failed_sync_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = fleet_config()
    edge = SimulatedEdge("door", config)
    header = edge.streams()[0]
    log = FeatureLog(tmp_path, "door")
    log.begin(header)
    for seq in range(3):
        log.append(seq, *serialise(edge.frame(seq), header))
        if seq == 1:
            log.sync()
    log.begin(edge.streams()[1])
    with monkeypatch.context() as broken:
        broken.setattr(log_module, "sync_file", fails)
        with pytest.raises(LogError, match="frames before 2 are safe"):
            log.sync()
    assert (log.next_seq, log.streams, len(log.stream_headers)) == (2, [header], 1)
    with pytest.raises(LogError, match="there is no frame 2; the log holds 2"):
        log.frame(2)
    log.close()


def test_what_came_is_durable_before_a_run_is_complete(tmp_path: Path) -> None:
    """An edge that is not let in any more cannot send it again."""
    config = fleet_config(fleet={"expect": None, "patience": 0.05})
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    (edge,) = edges_of(config, 1)
    end = begin(edge, runner).end_seq
    assert LogReader(log_folder(tmp_path, edge.name), edge.name).next_seq == 0
    ask_to_close(tmp_path)
    assert runner.run(threading.Event())
    runner.close()
    assert LogReader(log_folder(tmp_path, edge.name), edge.name).next_seq == end


def test_edges_wait_for_a_cloud_whose_log_or_journal_fails() -> None:
    """They took it for training that failed, and ended for good."""
    handover = Handover()
    with pytest.raises(LogError), handover.in_use():
        raise LogError("order.jsonl: the journal cannot be written: the disk is full: free space on it")
    with pytest.raises(LogError, match=r"the cloud's training cannot go on: order\.jsonl: .* free space on it"):
        handover.raise_failure()


def test_edges_wait_for_a_cloud_that_cannot_write_any_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first frame the trainer is made, and its metrics are begun. The edge took that for a fault for good."""
    config = fleet_config(fleet={"expect": 1})
    (edge,) = edges_of(config, 1)
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    with monkeypatch.context() as broken:
        broken.setattr(files.os, "fsync", fails)
        with pytest.raises(LogError, match=r"metrics\.jsonl: the disk reports a fault"):
            begin(edge, runner)
    running = threading.Thread(target=runner.run, args=(threading.Event(),))
    running.start()
    edge.send(runner)
    running.join(timeout=60)
    runner.close()
    assert runner.learning.done
