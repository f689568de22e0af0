"""A run that has ended, or whose edge was lost at the very end, is not waited for when it is resumed."""

from __future__ import annotations

import shutil

import pytest
from runs import assert_same_run
from safetensors.torch import load_file

from smartedge.runs.progress import Quiet
from smartedge.training import train


class Phases:
    """A monitor that keeps what was being done."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def update(self, update) -> None:
        self.seen.add(update.phase)

    def close(self) -> None: ...


@pytest.mark.parametrize("method", ["hierarchical", "local"])
def test_a_complete_run_is_not_run_again(method, tiny_config):
    config = tiny_config("run", method=method)
    first = train(config, single_process=True, monitor=Quiet())
    monitor = Phases()
    again = train(config, resume=True, single_process=True, monitor=monitor)
    assert again.test == first.test
    assert monitor.seen == set()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("forked_sides")
def test_a_cloud_whose_edge_has_ended_does_not_wait_for_it(tiny_config):
    """The cloud was killed before it noted that the edge knows."""
    config = tiny_config("run")
    first = train(config, single_process=True, monitor=Quiet())
    (config.run_dir / "cloud" / "summary.json").unlink()
    shutil.rmtree(config.run_dir / "cloud" / "closed")
    assert train(config, resume=True, monitor=Quiet()).test == first.test


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("forked_sides")
@pytest.mark.parametrize("method", ["hierarchical", pytest.param("split", marks=pytest.mark.slow)])
def test_an_edge_that_was_lost_before_its_summary_has_something_to_send(method, tiny_config):
    """With all epochs in its newest checkpoint it would send nothing, and the cloud would wait for it for ever."""
    whole, lost = tiny_config("whole", method=method), tiny_config("lost", method=method)
    train(whole, single_process=True, monitor=Quiet())
    train(lost, single_process=True, monitor=Quiet())
    (lost.run_dir / "edge" / "summary.json").unlink()
    (lost.run_dir / "cloud" / "summary.json").unlink()
    train(lost, resume=True, monitor=Quiet())
    assert_same_run(whole.run_dir, lost.run_dir)
    assert (
        load_file(lost.run_dir / "predictions.safetensors").keys()
        == load_file(whole.run_dir / "predictions.safetensors").keys()
    )
