"""A frame is handled once: serialised, checked and decoded once on its way from the edge into the back."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
from headers import stream_header

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.ingest import Ingest
from smartedge.cloud.runner import CloudRunner
from smartedge.codec import get_codec, pack, unpack
from smartedge.config import Config, load_config
from smartedge.edge.sender import Sender, Traffic
from smartedge.edge.shipper import Shipper
from smartedge.edge.spool import Spool
from smartedge.errors import CodecError, FrameError, LogError, RunError
from smartedge.framelog import log as log_module
from smartedge.methods.schedules import get_schedule
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Unprotected
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate, release
from smartedge.runs.progress import Quiet
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import ReceivedFrame, receive, serialise
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.memory import MemoryLink

SETTINGS = {
    "epochs": 1,
    "data": {"image_size": 32},
    "model": {"name": "narrow:build", "cut": "layer3", "bottleneck": None},
    "train": {"batch_size": 4},
    "hardware": {"cloud_device": "cpu"},
}


def streams(config: Config) -> list[StreamHeader]:
    """Three streams of two, one and one frames: a whole run."""
    header = stream_header(
        agreement=json.dumps(config.agreement()),
        codec="uint8" if config.method == "hierarchical" else "float32",
        feature_shape=(256, 2, 2),
        train_steps=2,
    )
    made = [
        dataclasses.replace(header, epoch=epoch, split=split, first_seq=first_seq, frames=frames)
        for (epoch, split), first_seq, frames in zip(
            get_schedule(config.schedule).streams(config), (0, 2, 3), (2, 1, 1), strict=True
        )
    ]
    if config.method == "split":
        made[0] = dataclasses.replace(made[0], answer_shape=header.feature_shape)
    return made


def frames_of(header: StreamHeader) -> Iterator[Frame]:
    for seq in range(header.first_seq, header.end_seq):
        features_BF = np.random.default_rng(seq).normal(size=(4, *header.feature_shape)).astype(np.float32)
        yield Frame(seq, pack(release(np.arange(4), features_BF, np.array([0, 1, 0, 1])), get_codec(header.codec)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Counter[str]]:
    """``calls(f, g)`` counts calls of functions from now on, whichever module of ours calls them."""

    def watch(*functions: Callable[..., object]) -> Counter[str]:
        found: Counter[str] = Counter()
        lock = threading.Lock()

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def count(*arguments: object, **named: object) -> object:
                with lock:
                    found[function.__name__] += 1
                return function(*arguments, **named)

            return count

        for function in functions:
            counting = counted(function)
            for name, module in list(sys.modules.items()):
                if name.startswith("smartedge") and getattr(module, function.__name__, None) is function:
                    monkeypatch.setattr(module, function.__name__, counting)
        return found

    return watch


def send_all(sender: MemoryLink, config: Config) -> None:
    for header in streams(config):
        sender.open(header)
        for frame in frames_of(header):
            if header.answered:
                assert sender.exchange(serialise(frame, header)).batch.payload
            else:
                sender.write(serialise(frame, header))
        sender.close()


def send_as_an_edge(link: GrpcLink, config: Config, folder: Path) -> None:
    """By way of gate, codec and spool, as an edge of its own process does; answered frames have no spool."""
    traffic, first = Traffic(), streams(config)[0]
    shipper = None
    if not first.answered:
        spool = Spool(folder / "spool", waiting=lambda why: None)
        shipper = Shipper(spool, link, folder / "shipped.json", traffic, tell=lambda text: None)
        shipper.start()
    ledger: Ledger = create_autospec(Ledger, instance=True)  # type: ignore[assignment]
    how = {"label_epsilon": None, "training_only": False, "front_is_final": True}
    gate = Gate(Unprotected(first.feature_shape), ledger, Noise(bytes(32)), task=None, **how)  # type: ignore[arg-type]
    sender = Sender(
        link,
        get_codec(first.codec),
        gate,
        next_seq=0,
        queue_frames=2,
        threaded=False,
        traffic=traffic,
        shipper=shipper,
    )
    for header in streams(config):
        sender.open(header)
        for seq in range(header.first_seq, header.end_seq):
            features_BF = np.random.default_rng(seq).normal(size=(4, *header.feature_shape)).astype(np.float32)
            (sender.exchange if header.answered else sender.send)(np.arange(4), features_BF, np.array([0, 1, 0, 1]))
        sender.close_stream()
    assert sender.finish(threading.Event())


def run_over_a_socket(runner: CloudRunner, folder: Path) -> None:
    receiver = GrpcReceiver(runner.ingest, "127.0.0.1")
    receiver.start()
    sender = GrpcLink(f"127.0.0.1:{receiver.port}", connect_timeout_s=5)
    failures: list[BaseException] = []

    def edge() -> None:
        try:
            send_as_an_edge(sender, runner.config, folder)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=edge)
    thread.start()
    try:
        assert runner.run(threading.Event())
    finally:
        thread.join(timeout=60)
        sender.disconnect()
        receiver.close()
        runner.close()
    assert not failures


@pytest.mark.parametrize("schedule", ["joint", "freeze-and-log"])
def test_over_a_socket_a_frame_is_serialised_checked_and_decoded_once(
    tmp_path: Path, calls: Callable[..., Counter[str]], schedule: str
) -> None:
    config = load_config(SETTINGS, {"schedule": schedule, "epochs": 1 if schedule == "joint" else 3})
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=False)
    found = calls(serialise, receive, unpack)
    run_over_a_socket(runner, tmp_path / "edge")
    assert found == {"serialise": 4, "receive": 4, "unpack": 4}, "of four frames"
    assert runner.trainer is not None and runner.trainer.finished


def test_an_answered_frame_is_handled_once_too_and_its_answer_as_well(
    tmp_path: Path, calls: Callable[..., Counter[str]]
) -> None:
    config = load_config(SETTINGS, {"method": "split"})
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=False)
    found = calls(serialise, receive, unpack)
    run_over_a_socket(runner, tmp_path / "edge")
    assert found == {"serialise": 4 + 2, "receive": 4 + 2, "unpack": 4 + 2}


def test_what_there_is_no_room_for_is_read_from_the_log(
    tmp_path: Path, calls: Callable[..., Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for room in (2**26, 0):
        monkeypatch.setattr("smartedge.cloud.runner.Handover", lambda _, room=room: Handover(room))
        runner = CloudRunner(load_config(SETTINGS), tmp_path / str(room), Quiet(), resume=False, inline=True)
        found = calls(unpack)
        send_all(MemoryLink(runner.ingest), runner.config)
        assert found["unpack"] == (4 if room else 8)
        assert runner.trainer is not None and runner.trainer.finished
        weights.append(runner.trainer.back.state_dict())
        runner.close()
        monkeypatch.undo()
    assert all(np.array_equal(weights[0][name].numpy(), weights[1][name].numpy()) for name in weights[0])


@pytest.mark.parametrize(
    "changes",
    [{"outputs": 7, "epoch": 1}, {"outputs": 7, "first_seq": 1}, {"outputs": 7, "frames": 1}, {"labels": False}],
    ids=str,
)
def test_a_refused_stream_changes_nothing(tmp_path: Path, changes: dict[str, object]) -> None:
    runner = CloudRunner(load_config(SETTINGS), tmp_path / "cloud", Quiet(), resume=False, inline=True)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(FrameError):
        MemoryLink(runner.ingest).open(dataclasses.replace(streams(runner.config)[0], **changes))
    assert runner.trainer is None and runner.learning.logs == {}
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    runner.close()


def test_a_stream_of_which_no_frame_came_leaves_nothing_and_locks_nobody_out(tmp_path: Path) -> None:
    """Whatever an empty stream says about outputs or run: the rightful one trains the network that it would have."""
    backs = []
    for name in ("alone", "after"):
        runner = CloudRunner(load_config(SETTINGS), tmp_path / name, Quiet(), resume=False, inline=True)
        if name == "after":
            before = sorted(tmp_path.rglob("*"))
            for changes in ({"outputs": 7}, {"run": "another"}, {"train_steps": 2, "task_kind": "multi"}):
                link = MemoryLink(runner.ingest)
                link.open(dataclasses.replace(streams(runner.config)[0], **changes))
                link.disconnect()
            assert runner.trainer is None and runner.learning.logs == {} and sorted(tmp_path.rglob("*")) == before
        send_all(MemoryLink(runner.ingest), runner.config)
        assert runner.trainer is not None and runner.trainer.finished
        backs.append(runner.trainer.back.state_dict())
        runner.close()
    assert all(np.array_equal(backs[0][name].numpy(), backs[1][name].numpy()) for name in backs[0])


# -- the rules of ingest alone, where nothing trains


@contextlib.contextmanager
def taking_in(folder: Path, settings: dict[str, object] | None = None) -> Iterator[tuple[Ingest, Handover]]:
    config, handover = load_config(SETTINGS, settings or {}), Handover()
    begin: Callable[[str, StreamHeader], None] = lambda edge, header: None  # noqa: E731
    ingest = Ingest(config, folder, {"layer3": (256, 2, 2)}, handover, Quiet(), begin=begin, learn=None)
    try:
        yield ingest, handover
    finally:
        ingest.close()


def arrived(header: StreamHeader) -> list[ReceivedFrame]:
    return [receive(serialise(frame, header), header) for frame in frames_of(header)]


def test_of_two_senders_with_one_name_the_first_goes_on(tmp_path: Path) -> None:
    """Both were accepted before either had sent a frame, for example over two links."""
    with taking_in(tmp_path) as (ingest, handover):
        first, *later = streams(load_config(SETTINGS))
        second = dataclasses.replace(first, run="another")
        ingest.accept("edge", first)
        ingest.accept("edge", second)
        ingest.ingest("edge", first, arrived(first)[0])
        with pytest.raises(RunError, match="the log belongs to another run"):
            ingest.ingest("edge", second, arrived(second)[0])
        intake = handover.intakes["edge"]
        assert intake.streams == [first] and intake.refused == 1
        for header in (first, *later):
            ingest.accept("edge", header)
            for frame in arrived(header):
                ingest.ingest("edge", header, frame)
            ingest.finish("edge", header)
        assert intake.sent_all


def test_an_edge_waits_when_it_is_further_ahead_of_training_than_it_may_be(tmp_path: Path) -> None:
    with taking_in(tmp_path, {"link": {"max_lead_frames": 1}}) as (ingest, handover):
        header = streams(load_config(SETTINGS))[0]
        ingest.accept("edge", header)
        first, second = (
            threading.Thread(target=ingest.ingest, args=("edge", header, frame), daemon=True)
            for frame in arrived(header)
        )
        first.start()
        first.join(timeout=20)
        assert not first.is_alive(), "one frame may wait"
        second.start()
        second.join(timeout=0.2)
        assert second.is_alive() and handover.intakes["edge"].next_seq == 2
        with handover.changed:
            handover.learned["edge"] = 1
            handover.changed.notify_all()
        second.join(timeout=20)
        assert not second.is_alive()


def test_a_complete_run_takes_nothing_new_and_what_came_before_may_come_again(tmp_path: Path) -> None:
    with taking_in(tmp_path) as (ingest, handover):
        header = streams(load_config(SETTINGS))[0]
        ingest.accept("edge", header)
        first, second = arrived(header)
        ingest.ingest("edge", header, first)
        handover.complete = True
        ingest.ingest("edge", header, first)
        with pytest.raises(RunError, match="nothing more is taken in"):
            ingest.ingest("edge", header, second)
        assert handover.intakes["edge"].next_seq == 1 and handover.intakes["edge"].images == 4


def test_an_edge_goes_on_after_a_group_of_frames_did_not_become_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be started again, once the disk takes what comes."""
    full = True

    def sync_file(file: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    with taking_in(tmp_path) as (ingest, handover):
        header = streams(load_config(SETTINGS))[0]
        frames = arrived(header)
        assert ingest.accept("edge", header) == 0
        ingest.ingest("edge", header, frames[0])
        monkeypatch.setattr(log_module, "sync_file", sync_file)
        for frame in frames[1:]:
            ingest.ingest("edge", header, frame)
        with pytest.raises(LogError, match="the disk is full"):
            ingest.sync("edge", header)
        ingest.abort("edge", header)
        assert ingest.accept("edge", header) == 0
        full = False
        for frame in frames:
            assert ingest.ingest("edge", header, frame) is None
        assert ingest.sync("edge", header) == 2
        assert handover.intakes["edge"].next_seq == 2


def test_no_more_edges_take_part_than_the_run_expects(tmp_path: Path) -> None:
    with taking_in(tmp_path, {"fleet": {"expect": 2}}) as (ingest, handover):
        header = streams(load_config(SETTINGS, {"fleet": {"expect": 2}}))[0]
        for edge in ("a", "b"):
            ingest.accept(edge, header)
            ingest.ingest(edge, header, arrived(header)[0])
        with pytest.raises(RunError, match="this run takes 2 edges"):
            ingest.accept("c", header)
        assert ingest.accept("a", header) == 0, "it is one of the two"
        assert [handover.intakes[edge].refused for edge in ("a", "b")] == [0, 0]


def test_an_edge_is_done_when_its_test_frames_are_in(tmp_path: Path) -> None:
    with taking_in(tmp_path) as (ingest, handover):
        done = []
        for header in streams(load_config(SETTINGS)):
            ingest.accept("edge", header)
            for frame in arrived(header):
                ingest.ingest("edge", header, frame)
            handover.learned["edge"] = header.end_seq
            done.append((ingest.unaware(), handover.intakes["edge"].closed))
            ingest.finish("edge", header)
        assert done == [([], False)] * 3
        assert handover.intakes["edge"].sent_all and handover.intakes["edge"].closed and ingest.unaware() == []


@pytest.mark.parametrize("value", [3e38, np.inf, np.nan])
def test_values_out_of_range_never_reach_the_optimizer(tmp_path: Path, value: float) -> None:
    config = load_config(SETTINGS, {"codec": {"name": "float32"}})
    header = dataclasses.replace(streams(config)[0], codec="float32")
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    for seq in range(6):
        features_BF = np.zeros((4, *header.feature_shape), np.float32)
        features_BF[seq % 4, seq] = value
        batch = pack(release(np.arange(4), np.zeros_like(features_BF), np.array([0, 1, 0, 1])), get_codec("float32"))
        hostile = dataclasses.replace(batch, payload=features_BF.tobytes())
        link = MemoryLink(runner.ingest)
        link.open(header)
        with pytest.raises((FrameError, CodecError)):
            link.write(serialise(Frame(0, hostile), header))
    assert runner.trainer is None and runner.learning.logs == {}
    link = MemoryLink(runner.ingest)
    link.open(header)
    link.write(serialise(Frame(0, batch), header))
    link.disconnect()
    assert runner.trainer is not None and runner.trainer.next_seq == 1
    assert all(bool(tensor.isfinite().all()) for tensor in runner.trainer.back.state_dict().values())
    runner.close()


def test_the_largest_value_that_is_taken_does_no_harm(tmp_path: Path) -> None:
    config = load_config(SETTINGS, {"codec": {"name": "float32"}})
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    header = dataclasses.replace(streams(config)[0], codec="float32", frames=6, train_steps=6)
    link = MemoryLink(runner.ingest)
    link.open(header)
    for seq in range(6):
        features_BF = np.full((4, *header.feature_shape), 1e6 * (-1) ** seq, np.float32)
        batch = pack(release(np.arange(4), features_BF, np.array([0, 1, 0, 1])), get_codec("float32"))
        link.write(serialise(Frame(seq, batch), header))
    assert runner.trainer is not None
    assert all(bool(tensor.isfinite().all()) for tensor in runner.trainer.back.state_dict().values())
    runner.close()


def test_a_complete_log_is_learned_from_while_other_threads_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, in one process: the edge's last frame starts the training, and readers need the cloud's lock."""
    monkeypatch.setattr("smartedge.cloud.learning.reading_threads", lambda device: 2)
    config = load_config(SETTINGS, {"schedule": "freeze-and-log"})
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    sending = threading.Thread(target=send_all, args=(MemoryLink(runner.ingest), config), daemon=True)
    sending.start()
    sending.join(60)
    assert not sending.is_alive() and runner.trainer is not None and runner.trainer.finished
    runner.close()
