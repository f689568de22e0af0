"""Real processes: edges send over a broker, ingest fills the store, a worker trains; any of them may be killed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import pytest
from commands import Command, settings_file
from nats_broker import Broker
from runs import assert_same_run

from smartedge.cloud.worker import main as work
from smartedge.config import Config
from smartedge.framelog.mark import read_mark
from smartedge.runs.progress import Quiet
from smartedge.training import collect, train

Start = Callable[..., Command]


def stored(config: Config) -> int:
    """Frames of the edge that are durable in the store."""
    folder = config.run_dir / "cloud" / "store" / "edge"
    mark = read_mark(folder) if (folder / "mark").exists() else None
    return 0 if mark is None else mark.frames


def reached(config: Config, place: int, edge: Command) -> bool:
    """Whether so many frames are stored, or the edge has published all that it has."""
    return stored(config) >= place or edge.process.poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "streams"), [("joint", "frames"), ("freeze-and-log", "frames/3")])
def test_broker_ingest_and_edge_are_killed_and_the_weights_are_the_same(
    tiny_config, start: Start, own_broker: Broker, schedule: str, streams: str
) -> None:
    """Each of the three is killed at a place that a seed draws, while frames come."""
    facts = {"epochs": 6, "schedule": schedule}
    plain, killed = tiny_config("plain", **facts), tiny_config("killed", **facts)
    train(plain, single_process=True, monitor=Quiet())
    file, rng = settings_file(killed, "killed"), random.Random(7)

    def ingest() -> Command:
        process = start("ingest", file, "--from", own_broker.url(streams))
        process.says("takes frames from")  # on a busy machine its start takes longer than all that the edge sends
        return process

    def edge(*more: str) -> Command:
        return start("edge", file, "--connect", own_broker.url(streams), *more)

    taking, sending = [ingest(), ingest()], edge()
    for victim in rng.sample(["broker", "ingest", "edge"], 3):
        place = stored(killed) + rng.randint(1, 3)
        sending.until(functools.partial(reached, killed, place, sending))
        if victim == "broker":
            own_broker.kill()
            own_broker.start()
        elif victim == "ingest":
            taking[0].kill()
            taking[0] = ingest()
        else:
            sending.kill()
            sending = edge("--resume")
    assert sending.end() == 0, sending.output
    assert [each.end() for each in taking] == [0, 0], taking[0].output + taking[1].output
    assert work([str(killed.run_dir)]) == 0
    collect(killed.run_dir)
    assert_same_run(plain.run_dir, killed.run_dir)
