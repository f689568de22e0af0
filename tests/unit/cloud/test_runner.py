"""What the cloud accepts: streams of this run, in their order, and nothing else; a refusal costs it nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_cloud import CONFIG, HEADER, VAL

from smartedge.cloud.handover import Decoded
from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.codec import get_codec, pack
from smartedge.config import load_config
from smartedge.errors import ConfigError, CutError, FrameError, LogError, RunError, SmartEdgeError
from smartedge.privacy.release import release
from smartedge.runs.progress import Quiet
from smartedge.types import FeatureBatch, Frame, StreamHeader
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink


@pytest.fixture
def runner(tmp_path):
    opened = CloudRunner(CONFIG, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    yield opened
    opened.close()


def send(runner: CloudRunner, header: StreamHeader) -> None:
    link = MemoryLink(runner.ingest)
    for seq in range(link.open(header), header.end_seq):
        features = np.full((4, *header.feature_shape), seq, np.float32)
        batch = pack(release(np.arange(4), features, np.array([0, 1, 0, 1])), get_codec("uint8"))
        link.write(serialise(Frame(seq, batch), header))
    link.close()


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        ({"agreement": "{"}, FrameError, "not JSON"),
        ({"agreement": "[" * 30_000}, FrameError, "not JSON"),
        ({"agreement": "[]"}, FrameError, "not an object"),
        ({"agreement": json.dumps({**CONFIG.agreement(), "seed": 7})}, RunError, "seed: 7 at the edge, 0 here"),
        ({"codec": "float32"}, FrameError, "contradict"),
        ({"batch_size": 8}, FrameError, "contradict"),
        ({"feature_shape": (256, 4, 4)}, FrameError, "this cut gives"),
        ({"first_seq": 1}, FrameError, "frame 0 is missing"),
        ({"split": "val"}, FrameError, r"must be .*\(0, 'train', 0\)"),
        ({"epoch": 1}, FrameError, r"must be .*\(0, 'train', 0\)"),
        ({"frames": 1}, FrameError, "1 frames, which cannot be"),
    ],
)
def test_what_does_not_belong_is_refused_and_the_right_one_taken_afterwards(runner, changes, error, problem):
    with pytest.raises(error, match=problem):
        MemoryLink(runner.ingest).open(dataclasses.replace(HEADER, **changes))
    assert runner.learning.logs == {}
    send(runner, HEADER)
    assert runner.learning.logs["edge"].next_seq == 2


def test_streams_follow_each_other_to_the_end_of_the_run(runner):
    send(runner, HEADER)
    for wrong in (
        dataclasses.replace(VAL, split="test"),
        dataclasses.replace(VAL, run="another"),
        dataclasses.replace(VAL, outputs=3),
    ):
        with pytest.raises((FrameError, RunError)):
            MemoryLink(runner.ingest).open(wrong)
    send(runner, VAL)
    send(runner, dataclasses.replace(HEADER, epoch=1, first_seq=3))
    send(runner, dataclasses.replace(VAL, epoch=1, first_seq=5))
    assert not runner.trainer.finished
    send(runner, dataclasses.replace(VAL, epoch=1, split="test", first_seq=6))
    assert runner.trainer.finished
    with pytest.raises(FrameError, match="the run is complete"):
        send(runner, dataclasses.replace(HEADER, epoch=2, first_seq=7))


def test_two_stage_streams_are_numbered_after_the_epochs_of_the_front(tmp_path):
    config = load_config(CONFIG, {"schedule": "two-stage", "epochs": 1, "train": {"front_epochs": 3}})
    runner = CloudRunner(config, tmp_path / "cloud", Quiet(), resume=False, inline=True)
    first = dataclasses.replace(HEADER, agreement=json.dumps(config.agreement()), epoch=3)
    with pytest.raises(FrameError, match=r"must be .*\(3, 'train', 0\)"):
        MemoryLink(runner.ingest).open(dataclasses.replace(first, epoch=0))
    with pytest.raises(FrameError, match="1 frames, which cannot be"):
        MemoryLink(runner.ingest).open(dataclasses.replace(first, frames=1))
    send(runner, first)
    assert runner.trainer.progress.step == 2, "frames are learned from as they come"
    send(runner, dataclasses.replace(first, split="val", first_seq=2, frames=1))
    send(runner, dataclasses.replace(first, split="test", first_seq=3, frames=1))
    assert runner.trainer.finished
    runner.close()


def test_a_stream_that_is_here_already_changes_nothing(runner):
    send(runner, HEADER)
    before = {name: tensor.clone() for name, tensor in runner.trainer.back.state_dict().items()}
    send(runner, HEADER)
    assert runner.learning.logs["edge"].next_seq == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in runner.trainer.back.state_dict().items())


def test_a_network_that_cannot_be_had_is_an_error_at_the_start(tmp_path):
    for changes, error in (({"cut": "layer9"}, CutError), ({"bottleneck": [4, 9, 9]}, ConfigError)):
        config = load_config(CONFIG, {"model": changes})
        with pytest.raises(error):
            CloudRunner(config, tmp_path / str(changes), Quiet(), resume=False, inline=True)


def test_a_folder_with_a_run_is_not_overwritten(runner, tmp_path):
    send(runner, HEADER)
    with pytest.raises(RunError, match="--resume"):
        CloudRunner(CONFIG, tmp_path / "cloud", Quiet(), resume=False, inline=True)


def test_a_run_whose_store_is_gone_is_not_gone_on_with(tmp_path):
    """Its disk was not mounted: the cloud began an empty store, and asked edges for frames that they had dropped."""
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    for start in (CloudRunner, Receiving):
        how = {"inline": True} if start is CloudRunner else {"start": None}
        with pytest.raises(LogError, match="holds no log, although the run has learned from frames"):
            start(CONFIG, tmp_path, Quiet(), resume=True, **how)


def test_what_the_log_holds_and_the_trainer_did_not_learn_is_learned_after_a_stop(tmp_path):
    """Stopped within an epoch, in one process: the frames come again, and the back ends as if nothing had been."""
    ends = []
    for stopped in (False, True):
        folder = tmp_path / f"cloud{stopped}"
        runner = CloudRunner(CONFIG, folder, Quiet(), resume=False, inline=True)
        if stopped:
            link = MemoryLink(runner.ingest)
            link.open(HEADER)
            link.write(serialise(first_frame(), HEADER))
            runner.ingest.close()  # killed: nothing else is written
            runner = CloudRunner(CONFIG, folder, Quiet(), resume=True, inline=True)
        send(runner, HEADER)
        assert runner.trainer.next_seq == 2
        ends.append(runner.trainer.back.state_dict())
        runner.close()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_a_payload_that_cannot_be_decoded_is_told_to_its_sender_and_not_logged(runner):
    good = first_frame()
    bad = dataclasses.replace(good, batch=dataclasses.replace(good.batch, payload=good.batch.payload[:-1]))
    link = MemoryLink(runner.ingest)
    link.open(HEADER)
    with pytest.raises(SmartEdgeError):
        link.write(serialise(bad, HEADER))
    assert runner.learning.logs == {}
    send(runner, HEADER)
    assert runner.learning.logs["edge"].next_seq == 2


def first_frame() -> Frame:
    features = np.zeros((4, *HEADER.feature_shape), np.float32)
    batch = pack(release(np.arange(4), features, np.array([0, 1, 0, 1])), get_codec("uint8"))
    return Frame(0, batch)


@pytest.mark.parametrize(("schedule", "mib"), [("joint", 4), ("two-stage", 4), ("freeze-and-log", 64)])
def test_what_is_used_once_may_take_less_memory_than_what_every_epoch_uses(tmp_path, schedule, mib):
    """Two hundred edges had 64 MiB of decoded frames waiting, each of which is used once."""
    runner = CloudRunner(load_config(CONFIG, {"schedule": schedule}), tmp_path, Quiet(), resume=False, inline=False)
    half = np.broadcast_to(np.float32(0), (mib * 2**20 // 8,))  # of the room; takes no memory
    for seq in range(3):
        runner.ingest.handover.keep(("edge", seq), Decoded(FeatureBatch(np.arange(1), half, np.zeros(1)), 0.0))
    assert [runner.ingest.handover.kept(("edge", seq)) is not None for seq in range(3)] == [True, True, False]
    runner.close()
