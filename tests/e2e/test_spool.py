"""Real processes: the cloud comes and goes while the edge trains, and nothing shows it in the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from forked import Popen
from ports import held_port
from runs import assert_same_run

from smartedge.artifacts.summary import has_finished
from smartedge.config import Config
from smartedge.framelog.reader import LogReader
from smartedge.runs.progress import Quiet
from smartedge.training import collect, train


class Side:
    """One side as a process of its own; its news a line at a time."""

    def __init__(self, config: Config, side: str, *arguments: str) -> None:
        file = config.run_dir.parent / f"{config.run_dir.name}.yaml"
        file.write_text(config.to_yaml())
        command = [sys.executable, "-m", "smartedge", side, str(file), *arguments, "--progress", "json"]
        pipe = subprocess.PIPE
        self.process = Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self.news: list[dict[str, object]] = []

    def until(self, word: str) -> dict[str, object]:
        """The next piece of news whose phase or text contains a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.news.append(json.loads(line))
            if word in f"{self.news[-1]['phase']} {self.news[-1]['text']}":
                return self.news[-1]
        raise AssertionError(f"{word!r} was not heard: {self.process.communicate()[1]}")

    def goes_on(self) -> None:
        """Wait a moment. Not for its news: a cloud that is away is tried less and less often, up to every 90 s."""
        assert self.process.poll() is None, self.process.communicate()[1]
        time.sleep(0.02)

    def end(self) -> int:
        """Read on until the process has ended; returns its exit code."""
        assert self.process.stdout is not None
        self.news += [json.loads(line) for line in self.process.stdout]
        code = self.process.wait(timeout=60)
        self.errors = self.process.communicate()[1]  # closes the pipes; a side that runs would stop at that
        return code

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)


@pytest.fixture
def port() -> Iterator[int]:
    """The cloud's, also while it is away."""
    with held_port() as held:
        yield held


def listening(config: Config, port: int, *arguments: str) -> Side:
    cloud = Side(config, "cloud", "--listen", f"127.0.0.1:{port}", *arguments)
    cloud.until("listen")
    return cloud


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hierarchical", "split"])
def test_the_cloud_is_killed_and_started_again_and_the_edge_goes_on(tiny_config, port, method):
    """In split learning the edge waits for answers, so it goes back to its checkpoint; by itself, too."""
    whole, broken = (
        tiny_config("whole", method=method),
        tiny_config("broken", method=method, link={"connect_timeout": 2}),
    )
    train(whole, single_process=True, monitor=Quiet())
    cloud = listening(broken, port)
    edge = Side(broken, "edge", "--connect", f"127.0.0.1:{port}")
    edge.until("train")
    cloud.kill()
    edge.until("cloud unreachable for")
    cloud = listening(broken, port, "--resume")
    assert edge.end() == 0, edge.errors
    assert cloud.end() == 0, cloud.errors
    if method == "hierarchical":
        assert any("the cloud is there again, after" in str(each["text"]) for each in edge.news)
    collect(broken.run_dir)
    assert_same_run(whole.run_dir, broken.run_dir)


def test_an_edge_trains_to_its_end_without_a_cloud_and_is_killed_and_sends_later(tiny_config, port):
    whole, alone = tiny_config("whole", epochs=2), tiny_config("alone", epochs=2, link={"connect_timeout": 2})
    train(whole, single_process=True, monitor=Quiet())
    edge = Side(alone, "edge", "--connect", f"127.0.0.1:{port}")
    news = edge.until("cloud unreachable for")
    assert "frames are on disk" in str(news["text"])
    confirmed = alone.run_dir / "edge" / "confirmed.json"
    while not (confirmed.exists() and json.loads(confirmed.read_text())["checkpoint"] == 2):
        edge.goes_on()
    assert edge.process.poll() is None, "it waits for the cloud"
    edge.kill()
    frames = LogReader(alone.run_dir / "edge" / "spool", "edge").next_seq
    assert frames == 2 * (96 // 16) + 2 * 2 + 3
    assert not has_finished(alone.run_dir / "edge")
    cloud = listening(alone, port)
    edge = Side(alone, "edge", "--connect", f"127.0.0.1:{port}", "--resume")
    assert edge.end() == 0, edge.errors
    assert cloud.end() == 0, cloud.errors
    assert not any(each["phase"] == "train" for each in edge.news), "it had trained all epochs"
    collect(alone.run_dir)
    assert_same_run(whole.run_dir, alone.run_dir)


@pytest.mark.slow
def test_a_spool_of_two_processes_is_shipped_first_where_one_process_goes_on(tiny_config, port):
    whole, mixed = tiny_config("whole"), tiny_config("mixed", link={"connect_timeout": 2})
    train(whole, single_process=True, monitor=Quiet())
    edge = Side(mixed, "edge", "--connect", f"127.0.0.1:{port}")
    confirmed = mixed.run_dir / "edge" / "confirmed.json"
    while not confirmed.exists():
        edge.goes_on()
    edge.kill()
    train(mixed, resume=True, single_process=True, monitor=Quiet())
    assert_same_run(whole.run_dir, mixed.run_dir)
