"""The end of a run: the link breaks between the last frame and its confirmation, or a side is killed there."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch
from commands import settings_file
from runs import assert_same_run, weights
from tcp_proxy import TcpProxy

from smartedge.artifacts.summary import EdgeSummary, has_finished
from smartedge.cloud.runner import CloudRunner
from smartedge.edge import outage
from smartedge.edge.outage import run_again_after_outages
from smartedge.edge.runner import EdgeRunner
from smartedge.errors import LinkError
from smartedge.launch.datasets import dataset_of
from smartedge.runs.progress import Quiet, Update
from smartedge.training import collect, train
from smartedge.types import StreamHeader
from smartedge.wire.link import FrameSender
from smartedge.wire.memory import MemoryLink


@pytest.mark.parametrize("killed", [False, True])
def test_a_cloud_does_not_end_before_its_edge_knows_that_everything_arrived(killed, tiny_config, start) -> None:
    """Nothing comes back any more once the frames of the last stream are on their way. When the cloud has learned from
    everything the connection breaks; and, in the second case, the cloud is killed then, and started again."""
    last = False

    def mute_at(data: bytes) -> bool:
        nonlocal last
        frames_of_the_last_stream = last and len(data) > 4000  # they follow when its header was answered
        last = last or b'"split":"test"' in data.replace(b" ", b"")
        return frames_of_the_last_stream

    whole, broken = tiny_config("whole", epochs=1), tiny_config("broken", epochs=1)
    train(whole, single_process=True, monitor=Quiet())
    file = settings_file(broken, "broken")
    cloud = start("cloud", file, "--listen", "127.0.0.1:0")
    proxy = TcpProxy(cloud.port(), mute_at)
    try:
        edge = start("edge", file, "--connect", f"127.0.0.1:{proxy.port}")
        cloud.says("waiting up to 60 min (fleet.farewell) until the edge knows that everything arrived")
        assert not has_finished(broken.run_dir / "edge") and edge.process.poll() is None
        assert has_finished(broken.run_dir / "cloud"), "the results do not wait for the edge"
        if killed:
            cloud.kill()
            cloud = start("cloud", file, "--listen", "127.0.0.1:0", "--resume")
            proxy.target = cloud.port()
        proxy.cut()
        assert edge.end() == 0, edge.output
        assert cloud.end() == 0, cloud.output
    finally:
        proxy.close()
    collect(broken.run_dir)
    assert_same_run(whole.run_dir, broken.run_dir)


class Told(Quiet):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, update: Update) -> None:
        if (update.side, update.phase) == ("edge", "link"):
            self.texts.append(update.text)


@pytest.mark.parametrize("gone", [True, False])
def test_an_edge_of_split_learning_killed_after_its_last_stream_ends_by_itself(gone, tiny_config, monkeypatch) -> None:
    """The cloud has heard of the end, and may be gone. What the edge writes after that does not come to its disk."""
    for name in ("_TELL_S", "_FIRST_WAIT_S"):
        monkeypatch.setattr(outage, name, 0.0)
    whole, broken = (tiny_config(name, method="split", epochs=2) for name in ("whole", "broken"))
    train(whole, single_process=True, monitor=Quiet())

    class Killed(EdgeRunner):
        def _close(self, *, finished: bool) -> None:
            self.recorder.close()
            self.gate.ledger.close()

    class Killing(MemoryLink):
        def close(self) -> None:
            super().close()
            if self._header.split == "test":
                raise EOFError("here")

    opened = []

    class Again(MemoryLink):
        def open(self, header: StreamHeader) -> int:
            opened.append(header)
            if len(opened) > 3:
                stop.set()  # it would try for ever
            if gone:
                raise LinkError("nobody listens there")
            return super().open(header)

    def begin(link: FrameSender, kind: type[EdgeRunner] = EdgeRunner, *, resume: bool) -> EdgeRunner:
        return kind(broken, dataset_of(broken), link, broken.run_dir / "edge", told, resume=resume, threaded=True)

    told, stop = Told(), threading.Event()
    cloud = CloudRunner(broken, broken.run_dir / "cloud", Quiet(), resume=False, inline=True)
    with pytest.raises(EOFError):
        begin(Killing(cloud.ingest), Killed, resume=False).run(stop)
    link = Again(cloud.ingest)
    assert run_again_after_outages(lambda resume: begin(link, resume=True), stop, told.texts.append, resume=True)
    assert cloud.close().finished
    assert [(header.split, header.frames) for header in opened] == [("test", 3)]
    assert told.texts == ["the cloud has confirmed everything, and is not there any more"] * gone
    summaries = [EdgeSummary.read(run.run_dir / "edge" / "summary.json") for run in (whole, broken)]
    assert summaries[1].finished and summaries[0].test == summaries[1].test
    assert summaries[0].releases_per_image == summaries[1].releases_per_image
    assert_same_weights(whole, broken)


def test_a_cloud_of_split_learning_killed_after_the_edge_has_ended_learns_the_rest_by_itself(tiny_config) -> None:
    whole, broken = (tiny_config(name, method="split", epochs=2) for name in ("whole", "broken"))
    for config in (whole, broken):
        train(config, single_process=True, monitor=Quiet())
    folder = broken.run_dir / "cloud"
    shutil.rmtree(folder / "checkpoints" / "00000002")
    (folder / "summary.json").unlink()

    class Stop(threading.Event):
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 100  # it would wait for ever

    cloud = CloudRunner(broken, folder, Quiet(), resume=True, inline=False)
    assert cloud.run(Stop())
    assert cloud.close().finished
    assert_same_weights(whole, broken)


def assert_same_weights(whole, broken) -> None:
    left, right = (weights(config.run_dir) for config in (whole, broken))
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[part][name]) for part, named in left.items() for name, value in named.items())
