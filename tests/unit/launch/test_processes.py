"""Both sides as processes: a shell stands for Python, so that starting one takes milliseconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

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
        (FAILS.format(code="SE-NEW", text="unknown"), "exec sleep 60", RunError, r"SE-NEW"),
    ],
    ids=["edge", "its peer failed", "no error of ours", "link", "unknown code"],
)
def test_the_failure_of_one_side_ends_the_other_and_is_told(
    both: Both, edge: str, cloud: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        both(edge, cloud)


def test_a_side_that_ends_before_the_run_is_complete_was_stopped(both: Both) -> None:
    assert both(HEARS, f"{LISTENS}; {UNTIL_HEARD}", finished=False) is False
