"""What the page of a run shows is what its files say."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from results_example import example_results

from smartedge.artifacts.progress import News, SideProgress, Work
from smartedge.artifacts.results import Results
from smartedge.artifacts.summary import EdgeSummary
from smartedge.lab.watch.state import RunReader
from smartedge.metrics import rounded_up
from smartedge.privacy.mechanisms import make_mechanism
from smartedge.runs.progress import Quiet, Update
from smartedge.runs.progress_file import ProgressFile
from smartedge.types import ReleaseEvent


def write(run: Path, side: str, **changes: object) -> None:
    fields = {"side": side, "updated": time.time(), "ended": False, "works": (), "news": (), **changes}
    SideProgress.model_validate(fields).write(run / side / "progress.json")


def test_a_run_that_goes_on(running):
    state = RunReader(running).state()
    assert (state.title, state.state) == ("faces", "running")
    assert "smile learned" in state.about and "3 epochs" in state.about
    assert [(side.name, side.state, side.works[0].done) for side in state.sides] == [
        ("edge", "running", 30),
        ("cloud", "running", 30),
    ]
    curve = [(point.side, point.epoch, point.balanced_accuracy) for point in state.points]
    assert curve == [("cloud", 1, 0.65), ("cloud", 2, 0.8), ("edge", 1, 0.6), ("edge", 2, 0.7)]
    assert (state.sent.up, state.sent.down, state.sent.images) == (10_000, 10, 100)
    assert [line.at for line in state.log] == [200.0, 100.0] and state.log[0].warning


def test_a_change_of_a_file_is_seen_and_a_damaged_one_is_no_end(running):
    reader = RunReader(running)
    assert reader.state().sides[0].works[0].done == 30
    write(running, "edge", works=(Work(phase="train", done=60, total=90, text=""),))
    assert reader.state().sides[0].works[0].done == 60
    (running / "edge" / "progress.json").write_text("{")
    assert reader.state().sides[0].state == "not begun"


@pytest.mark.parametrize(
    ("changes", "state", "advice"),
    [
        ({}, "running", None),
        ({"updated": time.time() - 3600}, "silent", "--resume"),
        ({"ended": True}, "stopped", "--resume"),
    ],
)
def test_a_side_that_says_nothing_more(running, changes, state, advice):
    write(running, "edge", **changes)
    write(running, "cloud", **changes)
    found = RunReader(running).state()
    assert [side.state for side in found.sides] == [state, state] and found.state == state
    assert found.result is None if advice is None else advice in str(found.result)


def test_a_run_that_is_removed(running):
    reader = RunReader(running)
    assert reader.state().state == "running"
    shutil.rmtree(running)
    found = reader.state()
    assert (found.state, found.sides, found.about) == ("gone", (), "")
    assert "not there any more" in str(found.result)


def test_a_side_alone_has_finished(running, monkeypatch):
    summary = EdgeSummary.model_construct(finished=True, traffic=None)
    monkeypatch.setattr(EdgeSummary, "read", classmethod(lambda cls, path: summary))
    (running / "edge" / "summary.json").write_text("{}")
    (running / "edge" / "confirmed.json").unlink()
    found = RunReader(running).state()
    assert found.sides[0].state == "finished" and found.state == "running"  # the cloud goes on


def test_the_edges_of_a_fleet(fleet):
    state = RunReader(fleet(20)).state()
    assert len(state.edges) == 20 and state.refused == 3 and (state.budget, state.delta) == (4.0, 1e-5)
    assert [edge.state for edge in state.edges[:4]] == ["everything sent", "sending", "in quarantine", "sending"]
    assert [side.name for side in state.sides] == ["cloud"]


def test_a_folder_of_runs_shows_the_newest(running):
    assert RunReader(running.parent).state().title == "faces"
    assert RunReader(running.parent / "nothing").state().state == "not begun"


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_privacy_spent_is_what_the_ledger_says(running, name):
    from smartedge.privacy.balance import Budget
    from smartedge.privacy.ledger import Ledger

    numbers, given = (4, {"granularity": "element"}) if name == "laplace" else (1, {})
    mechanism = make_mechanism(name, feature_shape=(4,), clip=1.0, sigma=4.0, **given)
    policy = {**mechanism.policy(), "apply_to": "training"}
    path = running / "edge" / "ledger.sqlite"
    with Ledger(path, run="r", policy=policy, budget=Budget(8.0, 1e-5), existing=False) as ledger:
        ledger.debit("train", np.array([1, 2]), mechanism.event, seq=0, nonce=b"n")
        if name == "gaussian":
            ledger.debit("val", np.array([1]), ReleaseEvent("none", math.inf), seq=1, nonce=b"m", exempt=True)
    spent = RunReader(running).state().spent
    assert (spent.mechanism, spent.budget, spent.releases) == (name, 8.0, 1)
    assert spent.epsilon == rounded_up(mechanism.epsilon, 3) > mechanism.epsilon
    assert spent.of_each_number == numbers


def test_progress_is_kept_in_the_folder_of_the_side(tmp_path):
    (tmp_path / "edge").mkdir()
    noted = ProgressFile(Quiet(), tmp_path)
    noted.update(Update("edge", "train", 5, 10, "loss 1"))
    noted.update(Update("edge", "link", text="the cloud is gone"))
    noted.update(Update("cloud", "train", 1, 10))  # this side runs elsewhere: it has no folder here
    noted.close()
    kept = SideProgress.read(tmp_path / "edge" / "progress.json")
    assert kept.ended and kept.works == (Work(phase="train", done=5, total=10, text="loss 1"),)
    (line,) = kept.news
    assert (line.text, line.warning) == ("the cloud is gone", True)
    assert (tmp_path / "edge" / "progress.json").stat().st_mode & 0o077 == 0 and not (tmp_path / "cloud").exists()

    again = ProgressFile(Quiet(), tmp_path)  # a resumed run keeps the lines of its log
    again.update(Update("edge", "data", text="more"))
    again.close()
    kept = SideProgress.read(tmp_path / "edge" / "progress.json")
    assert [each.text for each in kept.news] == [line.text, "more"]


def test_the_log_is_bounded_and_a_full_disk_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "edge").mkdir()
    noted = ProgressFile(Quiet(), tmp_path)
    for number in range(300):
        noted.update(Update("edge", "data", text=str(number)))
    noted.close()
    news = SideProgress.read(tmp_path / "edge" / "progress.json").news
    assert len(news) == 200 and isinstance(news[-1], News) and news[-1].text == "299"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    noted.update(Update("edge", "train", 10, 10))
    noted.close()


def test_a_side_that_fails_says_why_on_the_page(running, monkeypatch):
    """As 'smartedge edge' and 'cloud' end: the error is kept, and printed by the command alone."""
    from smartedge.cli import common
    from smartedge.cli.app import parse
    from smartedge.errors import PrivacyError

    monkeypatch.setattr(common, "Bars", Quiet)
    monkeypatch.setattr(common, "LogLines", Quiet)
    args = parse(["edge", str(running / "config.yaml"), "--set", f"run_dir={running}", "--resume"])
    with pytest.raises(PrivacyError), common.side(args, "edge"):
        raise PrivacyError("the front has diverged; lower train.lr")
    newest = RunReader(running).state().log[0]
    said = "error [SE-PRIVACY]: the front has diverged; lower train.lr"
    assert (newest.side, newest.text, newest.warning) == ("edge", said, True)


@pytest.mark.parametrize(("method", "says"), [("hierarchical", "exit 90.0 %, back 90"), ("local", "whole network 90")])
def test_the_result_has_the_names_that_the_method_gives(running, method, says):
    results = example_results()
    figures = results["test"]["back"]
    results |= {"method": method, "test": {"exit": figures if method == "hierarchical" else None, "back": figures}}
    Results.model_validate(results).write(running / "results.json")
    assert RunReader(running).state().result.startswith(says)
