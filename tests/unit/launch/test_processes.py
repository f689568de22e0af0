"""Both sides as processes: a shell stands for Python, so that starting one takes milliseconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kept_updates import Kept

from smartedge.config import Config, load_config
from smartedge.errors import DataError, LinkError, RunError
from smartedge.launch import processes
from smartedge.launch.processes import run_both
from smartedge.runs.progress import Update

# Keeps the arguments that Python would be given, of which the third is the side. Does not end when it is asked to.
SIDE = """#!/bin/sh
trap '' INT
echo "$@" > "{folder}/$3.arguments"
case "$3" in
edge) {edge} ;;
cloud) {cloud} ;;
esac
"""
LISTENS = """echo '{"side": "cloud", "phase": "listen", "port": 4711}'"""
TOLD = """echo 'no news'; echo '{"side": "cloud", "phase": "train", "done": 2, "total": 3}'"""
HEARS = 'read address; echo "$address" > "{folder}/heard"'
UNTIL_HEARD = 'while [ ! -e "{folder}/heard" ]; do sleep 0.01; done'


Both = Callable[..., bool]


@pytest.fixture
def told() -> Kept:
    return Kept()


@pytest.fixture
def both(tmp_path: Path, told: Kept, monkeypatch: pytest.MonkeyPatch) -> Both:
    """``both(edge, cloud)``: runs both sides, which do what these lines of shell say."""
    config = load_config({"run_dir": str(tmp_path)})

    def both(edge: str, cloud: str, *, finished: bool = True, config: Config = config, **how: bool) -> bool:
        script = tmp_path / "python"
        script.write_text(SIDE.replace("{edge}", edge).replace("{cloud}", cloud).replace("{folder}", str(tmp_path)))
        script.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(processes, "has_finished", lambda folder: finished)
        options = {"resume": False, "edge_has_finished": False, **how}
        return run_both(config, told, division=None, **options)

    return both


def arguments(folder: Path, side: str) -> str:
    return (folder / f"{side}.arguments").read_text().strip()


def test_the_edge_hears_where_the_cloud_listens_and_the_monitor_hears_both(
    both: Both, tmp_path: Path, told: Kept
) -> None:
    assert both(HEARS, f"{LISTENS}; {UNTIL_HEARD}; {TOLD}")
    assert (tmp_path / "heard").read_text() == "127.0.0.1:4711\n"
    assert told.updates == [Update("cloud", "train", 2, 3)]
    config, common = tmp_path / "config.yaml", "--progress json --until-input-ends"
    assert arguments(tmp_path, "edge") == f"-m smartedge edge {config} --connect - {common}"
    assert arguments(tmp_path, "cloud") == f"-m smartedge cloud {config} --listen 127.0.0.1:0 {common}"


def test_a_cloud_whose_edge_has_finished_runs_alone(both: Both, tmp_path: Path) -> None:
    assert both("exit 1", LISTENS, edge_has_finished=True, resume=True)
    assert not (tmp_path / "edge.arguments").exists()
    said = arguments(tmp_path, "cloud")
    assert "--set fleet.farewell=0" in said and said.endswith("--resume")


def test_an_edge_without_a_cloud_is_given_no_address(both: Both, tmp_path: Path) -> None:
    assert both("exit 0", "exit 1", config=load_config({"method": "local", "run_dir": str(tmp_path)}))
    assert "--connect" not in arguments(tmp_path, "edge") and not (tmp_path / "cloud.arguments").exists()


FAILS = "echo 'some warning' >&2; echo 'error [{code}]: {text}' >&2; exit 3"
LOST = FAILS.format(code=LinkError.code, text="lost")


@pytest.mark.parametrize(
    ("edge", "cloud", "error", "text"),
    [
        (FAILS.format(code=DataError.code, text="no images"), "exec sleep 60", DataError, r"^edge: no images$"),
        (
            f"read address; {FAILS.format(code=LinkError.code, text='lost')}",
            f"{LISTENS}; exit 5",
            RunError,
            r"the cloud process ended",
        ),
        (
            "exec sleep 60",
            "echo one >&2; echo two >&2; exit 5",
            RunError,
            r"(?s)cloud process ended with code 5:\none\ntwo$",
        ),
        (LOST, "exec sleep 60", LinkError, r"^edge: lost$"),
        (
            "exec sleep 60",
            "kill -9 $$",
            RunError,
            r"^the cloud process was ended by SIGKILL\. .* memory may have run out; go on with --resume$",
        ),
        (FAILS.format(code="SE-NEW", text="unknown"), "exec sleep 60", RunError, r"SE-NEW"),
    ],
    ids=["edge", "its peer failed", "no error of ours", "link", "killed", "unknown code"],
)
def test_the_failure_of_one_side_ends_the_other_and_is_told(
    both: Both, edge: str, cloud: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        both(edge, cloud)


def test_a_side_that_ends_before_the_run_is_complete_was_stopped(both: Both) -> None:
    assert both(HEARS, f"{LISTENS}; {UNTIL_HEARD}", finished=False) is False
    assert both("exit 130", "exec sleep 60", finished=False) is False, "it was asked to end before it had begun"


class Asked:
    """A side that ends with a code ``after`` so many seconds of being asked to end, by the module's clock."""

    def __init__(self, clock: list[float], after: float, code: int = 130, error: Exception | None = None) -> None:
        self.clock, self.after, self.code, self.of = clock, after, code, error
        self.asked_at = float("inf") if error is None else -after
        self.times = 0

    def running(self) -> bool:
        return self.clock[0] < self.asked_at + self.after

    def failed(self) -> bool:
        return not self.running() and self.code not in (0, 130)

    def stopped(self) -> bool:
        return not self.running() and self.code == 0

    def interrupt(self) -> None:
        self.times += 1
        self.asked_at = min(self.asked_at, self.clock[0])

    def error(self) -> Any:
        return self.of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 0.5
        assert now[0] < 100, "it waits for ever"

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


@pytest.mark.parametrize(("needs", "waited"), [(15.0, 15.0), (60.0, 20.5)])
def test_a_side_has_20_seconds_to_end_by_itself_when_the_other_has_failed(
    clock: list[float], needs: float, waited: float
) -> None:
    other, failed = Asked(clock, needs), Asked(clock, 0.0, 3, DataError("no images"))
    with pytest.raises(DataError, match=r"^no images$"):
        processes._wait([other, failed], threading.Event())  # type: ignore[list-item]
    assert (clock[0], other.times) == (waited, 1), "asked once"


def test_where_the_user_has_asked_to_stop_both_sides_are_asked_and_it_is_no_error(clock: list[float]) -> None:
    stop, sides = threading.Event(), [Asked(clock, 3.0), Asked(clock, 7.0, 3)]
    stop.set()
    assert processes._wait(sides, stop) is False  # type: ignore[arg-type]
    assert clock[0] == 7.0 and [side.times for side in sides] == [1, 1]


def test_of_two_errors_that_of_the_link_is_the_consequence(clock: list[float]) -> None:
    lost, cause = Asked(clock, 0.0, 5, LinkError("lost")), Asked(clock, 0.0, 3, DataError("no images"))
    for sides in ([lost, cause], [cause, lost]):
        with pytest.raises(DataError):
            processes._wait(sides, threading.Event())  # type: ignore[arg-type]
    with pytest.raises(LinkError, match="lost"):
        processes._wait([lost, lost], threading.Event())  # type: ignore[list-item]
