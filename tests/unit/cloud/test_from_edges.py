"""Several edges in one run: every frame is used once, in a journaled order from which the same weights follow."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from many_edges import SHAPE, SIZE, SimulatedEdge, edges_of, fleet_config, lines_of, run_fleet

from smartedge.artifacts.fleet_run import CloudStart, FleetFigures
from smartedge.artifacts.metrics import EpochFigures, read_metrics
from smartedge.artifacts.summary import CloudSummary, has_finished
from smartedge.cloud.files_for_edges import back_weights
from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest import completion
from smartedge.cloud.ingest.completion import Completion
from smartedge.cloud.intake import Intake
from smartedge.cloud.learning import Learning
from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.cloud.store.marks import ask_to_close
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.training import from_edges
from smartedge.errors import FrameError, LinkError, LogError, RunError
from smartedge.models.entrances import Entrances
from smartedge.models.network import divide
from smartedge.runs.checkpoint import load_weights
from smartedge.runs.progress import Quiet, Update
from smartedge.runs.seeds import derive_seed
from smartedge.types import Frame
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink


def same(one: CloudRunner, other: CloudRunner) -> bool:
    assert one.trainer is not None and other.trainer is not None
    mine, theirs = one.trainer.back.state_dict(), other.trainer.back.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def used(folder: Path) -> Counter[tuple[str, int]]:
    return Counter(key for line in lines_of(folder) for key in line.frames or ())


def repeated(config, folder: Path, target: Path, *, checkpoints: bool = False) -> CloudRunner:
    """The cloud again, from the store and the journal of a finished run."""
    target.mkdir()
    for name in ("store", "closed", *(["checkpoints"] if checkpoints else [])):
        shutil.copytree(folder / name, target / name)
    shutil.copy(folder / "order.jsonl", target / "order.jsonl")
    return run_fleet(config, target, [], resume=True)


@pytest.mark.parametrize("schedule", ["joint", "two-stage"])
def test_every_training_frame_is_used_once_and_shares_are_equal_all_the_way(tmp_path: Path, schedule: str) -> None:
    config = fleet_config(fleet={"expect": 4, "mix": 4}, schedule=schedule)
    runner = run_fleet(config, tmp_path, edges_of(config, 4))
    assert used(tmp_path) == {(f"edge{edge}", seq): 1 for edge in range(4) for seq in (0, 1, 2, 4, 5, 6)}, (
        "frames 3, 7 and 8 are for validation and test"
    )
    taken = Counter[str]()
    for line in lines_of(tmp_path):
        taken.update(edge for edge, _ in line.frames or ())
        if sum(taken.values()) >= 8:
            shares = np.array([taken[f"edge{edge}"] for edge in range(4)], float)
            assert shares.sum() ** 2 / (4 * (shares**2).sum()) >= 0.95
    trainer = runner.trainer
    assert trainer is not None and trainer.progress.step == 24 and trainer.test is not None
    rows = {(row.epoch, row.split) for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert rows == {(0, "train"), (0, "val"), (1, "train"), (1, "val"), (1, "test")}


def test_the_figures_of_each_edge_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = Mock(wraps=derive_seed)
    monkeypatch.setattr(from_edges, "derive_seed", seeds)
    config = fleet_config(fleet={"expect": 4})
    edges = edges_of(config, 4)
    edges[1].steps = 5
    run_fleet(config, tmp_path, edges)
    found = FleetFigures.read(tmp_path / "fleet.json")
    assert found.complete and sorted(found.edges) == [edge.name for edge in edges]
    figures = found.edges["edge1"]
    assert (figures.frames, figures.images, figures.lag, figures.closed) == (13, 13 * SIZE, 0, True)
    assert figures.bytes > 13 * SIZE * 512 * 4 and figures.refused == 0 and not figures.capped
    assert figures.test is not None and figures.loss is not None and figures.outlier is not None
    assert figures.drift is not None and figures.gaps == 0 and found.jain == pytest.approx(1.0)
    whole = next(row for row in read_metrics(tmp_path / "metrics.jsonl") if row.split == "test")
    each = [edge.test.accuracy for edge in found.edges.values() if edge.test is not None]
    assert np.mean(each) == pytest.approx(whole.accuracy)
    windows = [number for number, line in enumerate(lines_of(tmp_path)) if line.frames is not None]
    assert [call.args for call in seeds.call_args_list] == [(config.seed, "mix", number) for number in windows]


def test_the_same_journal_gives_the_same_weights_whatever_the_timing(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 3, "mix": 5})
    first = run_fleet(config, tmp_path / "first", edges_of(config, 3))
    again = repeated(config, tmp_path / "first", tmp_path / "again")
    assert same(first, again)
    assert (tmp_path / "first" / "order.jsonl").read_bytes() == (tmp_path / "again" / "order.jsonl").read_bytes()
    assert metrics(tmp_path / "first") == metrics(tmp_path / "again")


def metrics(folder: Path) -> list[EpochFigures]:
    return [row.model_copy(update={"seconds": None}) for row in read_metrics(folder / "metrics.jsonl")]


def test_a_journal_in_another_order_gives_other_weights(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 3})
    first = run_fleet(config, tmp_path / "first", edges_of(config, 3))
    other = fleet_config(fleet={"expect": 3, "mix": 1})
    assert not same(first, run_fleet(other, tmp_path / "other", edges_of(other, 3)))


def test_a_cloud_that_was_stopped_goes_on_by_the_journal(tmp_path: Path) -> None:
    """Stopped in the second epoch: the edges come again, what was done is done again, and the rest is done once."""
    config = fleet_config(fleet={"expect": 3, "mix": 2, "patience": 1.0}, epochs=3)
    edges, folder = edges_of(config, 3), tmp_path / "stopped"
    runner = CloudRunner(config, folder, Quiet(), resume=False, inline=False)
    stop = threading.Event()
    for edge in edges:
        for header in edge.streams()[:3]:
            link = MemoryLink(runner.ingest, edge.name)
            link.open(header)
            for seq in range(header.first_seq, header.end_seq):
                link.write(serialise(edge.frame(seq, header.split), header))
            link.close()
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    with runner._handover.changed:
        runner._handover.wait(lambda: sum(runner._handover.learned.values()) >= 3 * 7)
    stop.set()
    thread.join(timeout=30)
    assert runner.trainer is not None and runner.trainer.checkpoints.numbers() == [1]
    runner.ingest.close()  # killed: nothing else is written
    before = (folder / "order.jsonl").read_bytes()
    ended = run_fleet(config, folder, edges, resume=True)
    assert (folder / "order.jsonl").read_bytes().startswith(before)
    assert set(used(folder).values()) == {1} and len(used(folder)) == 3 * 9
    assert same(ended, repeated(config, folder, tmp_path / "again"))
    assert same(ended, repeated(config, folder, tmp_path / "from the checkpoint", checkpoints=True))


def test_a_journal_that_lost_lines_is_no_journal(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 2})
    run_fleet(config, tmp_path / "first", edges_of(config, 2))
    journal = tmp_path / "first" / "order.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(RunError, match=r"has 2 lines, and the checkpoint was written after \d+"):
        CloudRunner(config, tmp_path / "first", Quiet(), resume=True, inline=False)
    journal.write_bytes(b"nonsense\n")
    with pytest.raises(LogError, match="line 1 is damaged"):
        CloudRunner(config, tmp_path / "first", Quiet(), resume=True, inline=False)


def test_a_silent_edge_holds_nobody_up_and_comes_back(tmp_path: Path) -> None:
    """One edge waits after its first stream until the others have been learned from to their end."""
    config = fleet_config(fleet={"expect": 3, "patience": 0.05})
    edges = edges_of(config, 3)
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    shared = runner._handover

    def wait(header) -> None:
        if header.first_seq:
            with shared.changed:
                shared.wait(lambda: all(shared.learned.get(edge.name, 0) >= 7 for edge in edges[1:]))

    threads = [threading.Thread(target=edges[0].send, args=(runner,), kwargs={"before": wait})]
    threads += [threading.Thread(target=edge.send, args=(runner,)) for edge in edges[1:]]
    for thread in threads:
        thread.start()
    assert runner.run(threading.Event())
    for thread in threads:
        thread.join(timeout=30)
    runner.close()
    assert len(used(tmp_path)) == 18
    order = [key for line in lines_of(tmp_path) for key in line.frames or ()]
    assert {edge for edge, _ in order[-3:]} == {"edge0"}


def test_a_run_is_closed_by_hand_or_at_a_deadline_and_takes_nothing_more(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": None, "patience": 0.05})
    edges = edges_of(config, 3)
    runner = CloudRunner(config, tmp_path / "by hand", Quiet(), resume=False, inline=False)
    for edge in edges[:2]:
        edge.send(runner)
    assert not runner._completion.reached()
    ask_to_close(tmp_path / "by hand")
    assert runner.run(threading.Event())
    with pytest.raises(RunError, match="the run is complete"):
        edges[2].send(runner)
    runner.close()
    assert len(used(tmp_path / "by hand")) == 12
    late = fleet_config(fleet={"expect": 3, "patience": 0.05, "deadline": 1e-6})
    runner = CloudRunner(late, tmp_path / "deadline", Quiet(), resume=False, inline=False)
    edges[0].config = late
    edges[0].send(runner)
    assert runner.run(threading.Event())
    runner.close()
    assert {edge for edge, _ in used(tmp_path / "deadline")} == {"edge0"}


def test_a_deadline_is_a_point_in_time_that_a_resumed_run_keeps(tmp_path: Path, monkeypatch) -> None:
    """Three hours are left of ten, and of a clock that went back no more than there were."""
    config, at = fleet_config(fleet={"expect": 3, "deadline": 10.0}), 3_600.0

    def left(hour: float, *, resume: bool = True) -> float:
        monkeypatch.setattr(completion, "time", SimpleNamespace(time=lambda: hour * at, monotonic=lambda: 0.0))
        return Completion(config, tmp_path, Handover(), Quiet(), resume=resume)._deadline / at

    assert left(1_000_000, resume=False) == 10.0
    assert left(1_000_007) == 3.0
    assert left(1_000_011) == -1.0
    assert left(999_999) == 10.0
    assert left(1_000_020, resume=False) == 10.0
    start = tmp_path / "start.json"
    start.write_bytes(start.read_bytes().replace(b"36000", b"36001"))
    with pytest.raises(RunError, match=r"start\.json: is damaged.*remove it"):
        left(1_000_021)


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        (["door", "gate", "lab"], ["gate, lab"]),
        ([*"abcdefghijkl", "door"], ["a, b, c, d, e, f, g, h, i, j and 2 more"]),
        ([*"abcdefghij", "door"], ["a, b, c, d, e, f, g, h, i, j"]),
        (3, ["2 of 3 edges"]),
        (1, []),
        (None, []),
    ],
    ids=["names", "many names", "ten", "a number", "one", "any"],
)
def test_expected_edges_of_which_nothing_comes_are_named(
    expect: list[str] | int | None, said: list[str], tmp_path: Path
) -> None:
    """Not while another edge sends: then nobody waits for them yet."""
    handover, monitor = Handover(trains_here=True), Mock()
    found = Completion(fleet_config(fleet={"expect": expect}), tmp_path, handover, monitor, resume=False)
    door: Any = SimpleNamespace(sent_all=False)
    handover.intakes["door"] = door
    found.reached()
    door.sent_all = True
    assert [found.reached(), found.reached()] == [expect == 1] * 2
    told = [call.args[0].text for call in monitor.update.mock_calls]
    assert told == [
        f"waiting for {who}, of which nothing has come (fleet.expect); 'smartedge close' goes on without them"
        for who in said
    ]


def test_a_resumed_cloud_whose_deadline_has_passed_goes_on_with_what_came(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 3, "patience": 0.05, "deadline": 10.0})
    edges = edges_of(config, 2)
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    edges[0].send(runner)
    runner.close()
    CloudStart(started=time.time() - 11 * 3600).write(tmp_path / "start.json")
    runner = CloudRunner(config, tmp_path, Quiet(), resume=True, inline=False)
    assert runner.run(threading.Event())
    with pytest.raises(RunError, match="the run is complete"):
        edges[1].send(runner)
    runner.close()


def test_a_run_that_is_closed_without_a_frame_says_so(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 2, "deadline": 1e-9})
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    with pytest.raises(RunError, match="no edge has sent anything"):
        runner.run(threading.Event())
    runner.close()


@pytest.mark.parametrize(
    ("expect", "names", "refused", "told"),
    [
        (2, ["a", "b"], "c", r"takes 2 edges \(fleet\.expect\), and has a, b"),
        (1, ["a"], "b", r"takes 1 edge \(fleet\.expect\), and has a"),
        (["a", "b"], ["b"], "c", r"is not one of those that this run expects"),
    ],
)
def test_who_is_not_expected_is_refused(tmp_path: Path, expect, names, refused: str, told: str) -> None:
    config = fleet_config(fleet={"expect": expect})
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    for name in names:
        edge = SimulatedEdge(name, config)
        link = MemoryLink(runner.ingest, name)
        link.open(edge.streams()[0])
        link.write(serialise(edge.frame(0), edge.streams()[0]))
    with pytest.raises(RunError, match=told):
        MemoryLink(runner.ingest, refused).open(SimulatedEdge(refused, config).streams()[0])
    assert sorted(runner.learning.logs) == sorted(names) and not (tmp_path / "store" / refused).exists()
    runner.close()


def test_one_edge_that_learns_another_task_is_refused_and_its_log_is_its_own(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 3})
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    first, second = edges_of(config, 2)
    for edge in (first, second):
        link = MemoryLink(runner.ingest, edge.name)
        link.open(edge.streams()[0])
        link.write(serialise(edge.frame(0), edge.streams()[0]))
        if edge is first:
            link.write(serialise(edge.frame(1), edge.streams()[0]))
    header = SimulatedEdge("edge2", config).streams()[0]
    with pytest.raises(RunError, match="edge 'edge2' learns another task"):
        MemoryLink(runner.ingest, "edge2").open(dataclasses.replace(header, outputs=7))
    assert {name: log.next_seq for name, log in runner.learning.logs.items()} == {"edge0": 2, "edge1": 1}
    with pytest.raises(FrameError, match="is missing"):
        MemoryLink(runner.ingest, "edge1").open(second.streams()[1])
    runner.close()


def test_frames_sent_once_give_the_same_weights_in_whatever_order_edges_came(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 3}, schedule="freeze-and-log")
    edges = edges_of(config, 3)
    runners = []
    for name, order in (("up", edges), ("down", edges[::-1])):
        runner = CloudRunner(config, tmp_path / name, Quiet(), resume=False, inline=False)
        for edge in order:
            edge.send(runner)
        assert runner.run(threading.Event())
        runner.close()
        runners.append(runner)
    assert same(*runners)
    found = FleetFigures.read(tmp_path / "up" / "fleet.json")
    for figures in found.edges.values():
        assert figures.test is not None and figures.lag == 0
        assert figures.loss is not None and figures.outlier is not None and figures.drift is not None


def test_a_resumed_run_uses_the_frames_of_its_snapshot(tmp_path: Path) -> None:
    """Closed with two edges and stopped; a frame of a third that came after is not used."""
    config = fleet_config(fleet={"expect": None}, schedule="freeze-and-log", epochs=3)
    edges = edges_of(config, 2)
    whole = CloudRunner(config, tmp_path / "whole", Quiet(), resume=False, inline=False)
    stopped = CloudRunner(config, tmp_path / "stopped", Quiet(), resume=False, inline=False)
    for runner in (whole, stopped):
        for edge in edges:
            edge.send(runner)
        ask_to_close(runner.folder)
    assert whole.run(threading.Event())
    stop = threading.Event()
    original = stopped.learning.do

    def interrupted(task, event) -> None:
        stop.set()
        original(task, event)

    stopped.learning.do = interrupted  # type: ignore[method-assign]
    assert not stopped.run(stop)
    stopped.close()
    late = SimulatedEdge("edge9", config, seed=9)
    (tmp_path / "stopped" / "close").unlink()
    resumed = CloudRunner(config, tmp_path / "stopped", Quiet(), resume=True, inline=False)
    late.send(resumed)
    ask_to_close(resumed.folder)
    assert resumed.run(threading.Event())
    assert same(whole, resumed)
    for runner in (whole, resumed):
        runner.close()


def test_the_cap_keeps_an_edge_with_wrong_labels_from_harming_the_back(tmp_path: Path) -> None:
    """One edge of eight has all labels the wrong way round, and four times the data of the others."""
    found = {}
    for most in (None, 0.0):
        config = fleet_config(fleet={"expect": 8, "max_influence": most}, epochs=6)
        edges = edges_of(config, 8, steps=8)
        edges[3].steps, edges[3].wrong_labels = 32, True
        runner = CloudRunner(config, tmp_path / str(most), Quiet(), resume=False, inline=False)
        for edge in edges:
            edge.send(runner)  # before the cloud begins, so that the order of learning is always the same
        assert runner.run(threading.Event())
        runner.close()
        figures = FleetFigures.read(tmp_path / str(most) / "fleet.json")
        honest = [each.test.accuracy for name, each in figures.edges.items() if name != "edge3" and each.test]
        found[most] = float(np.mean(honest))
        assert [name for name, each in figures.edges.items() if each.capped] == ([] if most is None else ["edge3"])
    assert found[0.0] >= found[None]
    assert found[0.0] > 0.9


def test_an_ordinary_edge_among_edges_of_one_class_is_no_outlier(tmp_path: Path) -> None:
    """The features say nothing, so an honest edge's loss is log 2, whatever labels it sends."""

    class Empty(SimulatedEdge):
        def features(self, labels, rng):
            return 0.01 * rng.normal(size=(self.size, *self.shape)).astype(np.float32)

    config = fleet_config(fleet={"expect": 8, "max_influence": 0.0}, epochs=3, train={"lr": 0.001})
    edges = [Empty(f"edge{number}", config, steps=8, seed=number) for number in range(8)]
    for number, edge in enumerate(edges[:5]):
        edge.mostly, edge.share = number % 2, 1.0
    run_fleet(config, tmp_path / "cloud", edges)
    figures = FleetFigures.read(tmp_path / "cloud" / "fleet.json")
    assert [name for name, each in figures.edges.items() if each.capped] == []
    assert [each.loss for each in figures.edges.values()] == pytest.approx([math.log(2)] * 8, abs=0.15)


class Marked(Learning):
    """The network gives NaN for an image that holds the mark, as a defect in it would."""

    MARK = 777.0

    def make_trainer(self, edge, header) -> None:
        super().make_trainer(edge, header)
        assert self.trainer is not None
        self.trainer.back.layers[0].register_forward_pre_hook(
            lambda _, inputs: (torch.where((inputs[0] == self.MARK).any(), torch.nan, inputs[0]),)
        )


class DefectEdge(SimulatedEdge):
    """Its fourth training frame holds the mark."""

    def frame(self, seq: int, split: str = "train") -> Frame:
        made = super().frame(seq, split)
        if seq != 4:
            return made
        payload = np.frombuffer(made.batch.payload, np.float32).copy()
        payload[5] = Marked.MARK
        return dataclasses.replace(made, batch=dataclasses.replace(made.batch, payload=payload.tobytes()))


def test_an_edge_on_whose_frame_training_fails_is_put_in_quarantine_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartedge.cloud.runner.Learning", Marked)
    monkeypatch.setattr("smartedge.cloud.learning.what_stays_untrained", lambda *_, **__: "a part does not learn")
    config = fleet_config(fleet={"expect": 3, "patience": 0.05})
    edges = [*edges_of(config, 2), DefectEdge("edge2", config, seed=2)]
    told: list[str] = []

    class Told(Quiet):
        def update(self, update: Update) -> None:
            told.append(update.text)

    runners = []
    for name in ("first", "again"):
        folder = tmp_path / name
        if name == "again":
            folder.mkdir()
            for kept in ("store", "closed"):
                shutil.copytree(tmp_path / "first" / kept, folder / kept)
            shutil.copy(tmp_path / "first" / "order.jsonl", folder / "order.jsonl")
        runner = CloudRunner(config, folder, Told(), resume=name == "again", inline=False)
        if name == "first":
            for edge in edges:
                edge.send(runner)
        assert runner.run(threading.Event())
        with pytest.raises(RunError, match="edge 'edge2' is in quarantine: training failed on its frame 4"):
            MemoryLink(runner.ingest, "edge2").open(edges[2].streams()[0])
        runner.close()
        runners.append(runner)
    assert same(*runners)
    assert told.count("a part does not learn") == 2, "once for each run: the network is the same after a quarantine"
    assert [text for text in told if "quarantine" in text] == [
        "training failed on frame 4 of edge edge2 (the loss is not finite): it is in quarantine, the others go on"
    ]
    assert [line.quarantined for line in lines_of(tmp_path / "first") if line.quarantined] == [("edge2", 4)]
    found = FleetFigures.read(tmp_path / "first" / "fleet.json")
    assert found.complete and {name: each.quarantined for name, each in found.edges.items()} == {
        "edge0": None,
        "edge1": None,
        "edge2": 4,
    }
    learned = {name: (each.learned, each.frames) for name, each in found.edges.items()}
    assert learned == {"edge0": (9, 9), "edge1": (9, 9), "edge2": (4, 9)}
    assert found.jain == pytest.approx((2 + 4 / 9) ** 2 / (3 * (2 + (4 / 9) ** 2)))
    trainer = runners[0].trainer
    assert trainer is not None and all(bool(tensor.isfinite().all()) for tensor in trainer.back.state_dict().values())


def test_training_that_fails_on_no_frame_alone_blames_no_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = fleet_config(fleet={"expect": 2})
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    for edge in edges_of(config, 2):
        edge.send(runner)
    monkeypatch.setattr("smartedge.cloud.trainer.image_losses", lambda logits_BK, labels: np.full(len(labels), np.inf))
    with pytest.raises(RunError, match=r"the loss is not finite\), on no frame alone: start a new run with a lower"):
        runner.run(threading.Event())
    assert runner._handover.quarantined == {}
    runner.close()


@pytest.mark.parametrize("alone", [False, True], ids=["the step", "a frame alone"])
def test_no_edge_is_blamed_where_the_machine_has_no_memory(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put in quarantine for the rest of the run, or the advice was a lower rate."""
    config = fleet_config(fleet={"expect": 2})
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    for edge in edges_of(config, 2):
        edge.send(runner)
    full = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    step = Mock(side_effect=ValueError("a bad frame") if alone else full)
    monkeypatch.setattr("smartedge.cloud.training.mixed.take_step", step)
    if alone:  # then each frame is tried by itself
        monkeypatch.setattr(BackTrainer, "learn_whole", Mock(side_effect=full))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        runner.run(threading.Event())
    assert runner._handover.quarantined == {}
    runner.close()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_cloud_that_is_done_waits_a_while_for_an_edge_that_may_not_know(tmp_path, comes_back, monkeypatch) -> None:
    """All frames of an edge are in, and it did not hear so. Either it comes back and hears it, or it is given up.

    The results are written before. No edge can change what they say while they are written. Frames that are not to be
    kept are dropped before, too: the cloud may be killed while it waits.
    """
    hours = (60.0 if comes_back else 0.3) / 3600
    config = fleet_config(fleet={"expect": 2, "farewell": hours}, epochs=1, store={"keep": "unconsumed"})
    edges = edges_of(config, 2)
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=False)
    for edge in edges:
        edge.send(runner)
    closed = tmp_path / "cloud" / "closed" / "edge1"
    closed.unlink()
    locked: list[bool] = []
    write, lock = runner.learning.write, runner._handover.changed

    def look() -> None:
        free = lock.acquire(blocking=False)
        locked.append(not free)
        if free:
            lock.release()

    def watched(**more: int | None) -> CloudSummary:
        other = threading.Thread(target=look)
        other.start()
        other.join()
        return write(**more)

    monkeypatch.setattr(runner.learning, "write", watched)
    dropped: list[str] = []
    monkeypatch.setattr(FeatureLog, "forget_before", lambda log, seq: dropped.append(log.edge))
    ended: list[bool] = []
    running = threading.Thread(target=lambda: ended.append(runner.run(threading.Event())))
    running.start()
    running.join(timeout=0.3 if comes_back else 60)
    assert running.is_alive() == comes_back
    if comes_back:
        while not has_finished(tmp_path / "cloud"):
            running.join(timeout=0.05)
        assert (tmp_path / "cloud" / "fleet.json").exists()
        edges[1].send(runner)  # nothing is wanted, so it sends nothing
    running.join(timeout=60)
    assert ended == [True] and closed.exists() == comes_back
    assert locked == [True]
    assert dropped == ["edge0", "edge1"]
    runner.close()


def test_edges_wait_for_a_cloud_whose_machine_is_full(tmp_path: Path) -> None:
    """As for one that is away. They took it for training that failed, and ended for good."""
    for error, kind, words in (
        (OSError(errno.ENOSPC, "full"), LogError, "the disk is full"),
        (RuntimeError("CUDA out of memory"), LogError, "there is not enough memory"),
        (OSError(0, "other"), RunError, "training has failed"),
    ):
        handover = Handover()
        with pytest.raises(type(error)), handover.in_use():
            raise error
        with pytest.raises(kind, match=words):
            handover.raise_failure()
    (tmp_path / "closed").write_text("in the place of a folder")
    with pytest.raises(LogError, match="edge 'door': cannot be written"):
        Intake(tmp_path, "door").close()


def test_two_clouds_cannot_use_one_run(tmp_path: Path) -> None:
    """Each would take some edges, and both would write the journal, the checkpoints and the results."""
    config = fleet_config(epochs=1)
    first = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    for resume in (False, True):
        with pytest.raises(RunError, match=rf"another cloud uses this run; stop it first.*\(process {os.getpid()}\)"):
            CloudRunner(config, tmp_path, Quiet(), resume=resume, inline=False)
    with pytest.raises(RunError, match="another cloud uses this run"):
        Receiving(config, tmp_path, Quiet(), resume=False, start=None)
    first.close()
    CloudRunner(config, tmp_path, Quiet(), resume=True, inline=False).close()


def test_an_edge_that_is_held_back_hears_that_the_cloud_stops(tmp_path: Path) -> None:
    config = fleet_config(fleet={"expect": 2}, link={"max_lead_frames": 1})
    edge = edges_of(config, 1)[0]
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=False)
    stop, heard = threading.Event(), []

    def send() -> None:
        try:
            edge.send(runner)
        except LinkError as error:
            heard.append(str(error))

    sending = threading.Thread(target=send)
    running = threading.Thread(target=runner.run, args=(stop,))
    sending.start()
    running.start()
    while edge.name not in runner.learning.logs or runner.learning.logs[edge.name].next_seq < 2:
        sending.join(timeout=0.01)
    stop.set()
    sending.join(timeout=30)
    running.join(timeout=30)
    assert heard == ["the cloud was stopped; it may come back"]
    runner.close()


@pytest.mark.parametrize("schedule", ["joint", "freeze-and-log"])
def test_edges_with_different_cuts_train_one_back(tmp_path: Path, schedule: str) -> None:
    """The early edge's images pass layer4 and the head, those of the late edges the head alone."""
    cuts = {"edge0": ("layer3", (256, 2, 2)), "edge1": ("layer4", SHAPE), "edge2": ("layer4", SHAPE)}
    fleet = {"expect": 3, "cuts": ["layer3", "layer4"]}
    own = {name: fleet_config(model={"cut": cut}, fleet=fleet, schedule=schedule) for name, (cut, _) in cuts.items()}
    edges = [SimulatedEdge(name, own[name], seed=seed, shape=cuts[name][1]) for seed, name in enumerate(cuts)]
    runner = run_fleet(own["edge1"], tmp_path / "first", edges)
    trainer = runner.trainer
    assert trainer is not None and trainer.finished and isinstance(trainer.back, Entrances)
    found = FleetFigures.read(tmp_path / "first" / "fleet.json")
    assert {name: each.cut for name, each in found.edges.items()} == {name: cut for name, (cut, _) in cuts.items()}
    assert all(each.test is not None for each in found.edges.values())
    if schedule == "joint":
        assert same(runner, repeated(own["edge0"], tmp_path / "first", tmp_path / "again"))
    for name, (cut, shape) in cuts.items():
        back = divide(own[name].division(2)).back.eval()
        back.load_state_dict(load_weights(back_weights(tmp_path / "first", cut)), strict=True)
        assert back(torch.zeros(2, *shape)).shape == (2, 2)
    first = divide(own["edge0"].division(2)).back.state_dict()
    learned = load_weights(back_weights(tmp_path / "first", "layer3"))
    assert not torch.equal(learned["layer4.conv.weight"], first["layer4.conv.weight"])


def test_an_edge_may_have_a_codec_and_a_batch_size_of_its_own(tmp_path: Path) -> None:
    """Equally many images: the edge with half the batch size gives twice as many frames, at the same pace."""
    config = fleet_config(fleet={"expect": 2, "mix": 6})
    small = fleet_config(train={"batch_size": SIZE // 2}, codec={"name": "float16"})
    edges = [SimulatedEdge("usual", config, steps=4), SimulatedEdge("small", small, steps=8, seed=1)]
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    for edge in edges:
        edge.send(runner)
    assert runner.run(threading.Event())
    runner.close()
    assert runner.trainer is not None and runner.trainer.progress.step == 2 * 12
    for line in lines_of(tmp_path):
        if line.frames is not None and len(line.frames) == 6:
            assert Counter(edge for edge, _ in line.frames) == {"usual": 2, "small": 4}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"cut": "layer2"}, "fleet": {"cuts": ["layer2", "layer4"]}}, "'layer2' is not one of fleet.cuts"),
        ({"train": {"batch_size": 2 * SIZE}}, f"batch_size: {2 * SIZE} images are more than the cloud's {SIZE}"),
        ({"codec": {"name": "float33"}}, "there is no codec 'float33'"),
        ({"codec": {"name": "image"}}, "'image' encodes images"),
        ({"train": {"lr": 0.5}}, "train.lr: 0.5 at the edge, 0.01 here"),
        ({"seed": 4}, "seed: 4 at the edge, 0 here"),
    ],
)
def test_settings_that_cannot_be_an_edges_own_are_refused_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes, told: str
) -> None:
    config = fleet_config(fleet={"expect": 2, "cuts": ["layer3", "layer4"]})
    other = SimulatedEdge("other", fleet_config(fleet={"expect": 2}))
    runner = CloudRunner(config, tmp_path, Quiet(), resume=False, inline=False)
    header = other.streams()[0]
    said = json.loads(header.agreement)
    for section, value in changes.items():
        if section != "fleet":
            said[section] = {**said[section], **value} if isinstance(value, dict) else value
    with pytest.raises(RunError, match=re.escape(told)):
        MemoryLink(runner.ingest, "other").open(dataclasses.replace(header, agreement=json.dumps(said)))
    assert runner.learning.trainer is None and not (tmp_path / "store").exists()
    said = json.loads(header.agreement)
    early = dataclasses.replace(header, agreement=json.dumps({**said, "model": {**said["model"], "cut": "layer3"}}))
    with pytest.raises(FrameError, match=r"tensors of shape \(512, 1, 1\), but this cut gives \(256, 2, 2\)"):
        MemoryLink(runner.ingest, "other").open(early)
    MemoryLink(runner.ingest, "other").open(header)
    runner.close()


@pytest.mark.parametrize("schedule", ["joint", "freeze-and-log"])
def test_the_back_does_not_answer_by_the_edge(tmp_path: Path, schedule: str) -> None:
    """Two edges with skewed labels, and features that show which edge sent them and a little of the class."""

    class Marked(SimulatedEdge):
        def features(self, labels, rng):
            made = 0.1 * rng.normal(size=(self.size, *self.shape)).astype(np.float32)
            made[:, :8] = 10 * made[:, :8] + 0.35 * (2.0 * labels - 1)[:, None, None, None]
            made[:, 8:12] += 3.0 if self.mostly else -3.0
            return made

    found = {}
    for adjusted in (True, False):
        config = fleet_config(
            fleet={"expect": 2, "logit_adjustment": adjusted}, epochs=4, schedule=schedule, train={"lr": 0.003}
        )
        edges = [Marked(f"edge{mostly}", config, steps=24, seed=mostly, mostly=mostly, tests=50) for mostly in (0, 1)]
        runner = run_fleet(config, tmp_path / str(adjusted), edges)
        assert runner.trainer is not None and runner.trainer.test is not None
        found[adjusted] = runner.trainer.test.accuracy
    assert found[True] > found[False] + 0.1, found


def test_unconsumed_frames_are_dropped_while_several_edges_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When an epoch begins, what came before the epoch before it is no longer needed."""
    dropped: list[tuple[str, int]] = []
    forget = FeatureLog.forget_before

    def watch(log: FeatureLog, seq: int) -> None:
        dropped.append((log.edge, seq))
        forget(log, seq)

    monkeypatch.setattr(FeatureLog, "forget_before", watch)
    found = {}
    for keep in ("all", "unconsumed"):
        config = fleet_config(fleet={"expect": 2, "patience": 0.05}, epochs=6, store={"keep": keep})
        runner = CloudRunner(config, tmp_path / keep, Quiet(), resume=False, inline=False)
        for edge in edges_of(config, 2):
            edge.send(runner)
        assert runner.run(threading.Event())
        runner.close()
        found[keep] = list(dropped)
    assert found["all"] == []
    assert found["unconsumed"][-2:] == [("edge0", 25), ("edge1", 25)], "everything, when the run has ended"
    assert [seq for edge, seq in found["unconsumed"][:-2] if edge == "edge0"] == [4, 8, 12, 16]


class StopInFourthEpoch(threading.Event):
    """Set when two of the six steps of the fourth epoch are done."""

    def __init__(self, runner: CloudRunner) -> None:
        super().__init__()
        self.runner = runner

    def is_set(self) -> bool:
        trainer = self.runner.trainer
        return trainer is not None and trainer.progress.epoch == 3 and trainer.progress.step >= 20


def test_a_run_that_dropped_frames_can_be_resumed(tmp_path: Path) -> None:
    """Killed in the fourth epoch: what the checkpoint needs is there, and the run ends as one that was not killed."""
    ended = []
    for killed in (False, True):
        config = fleet_config(fleet={"expect": 2, "mix": 2, "patience": 0.05}, epochs=6, store={"keep": "unconsumed"})
        folder = tmp_path / str(killed)
        runner = CloudRunner(config, folder, Quiet(), resume=False, inline=False)
        for edge in edges_of(config, 2):
            edge.send(runner)
        if killed:
            assert not runner.run(StopInFourthEpoch(runner))
            runner.ingest.close()
            runner = CloudRunner(config, folder, Quiet(), resume=True, inline=False)
        assert runner.run(threading.Event())
        runner.close()
        ended.append(runner)
    assert same(*ended)


def test_published_fronts_differ_by_cut(tmp_path: Path) -> None:
    """An edge is refused unless it holds the front that the cloud has for its cut."""
    for cut in ("layer3", "layer4"):
        (tmp_path / cut).mkdir()
        (tmp_path / cut / "front.safetensors").write_text(f"front of {cut}")
    front = {"front": str(tmp_path / "{cut}" / "front.safetensors")}
    own = {
        cut: fleet_config(
            model={"cut": cut, **front}, schedule="freeze-and-log", fleet={"expect": 2, "cuts": ["layer3", "layer4"]}
        )
        for cut in ("layer3", "layer4")
    }
    runner = CloudRunner(own["layer3"], tmp_path / "cloud", Quiet(), resume=False, inline=False)
    late = SimulatedEdge("late", own["layer4"])
    MemoryLink(runner.ingest, "late").open(late.streams()[0])
    (tmp_path / "layer4" / "front.safetensors").write_text("another front")
    other = SimulatedEdge("other", own["layer4"]).streams()[0]
    (tmp_path / "layer4" / "front.safetensors").write_text("front of layer4")
    with pytest.raises(RunError, match="front: "):
        MemoryLink(runner.ingest, "other").open(other)
    runner.close()
