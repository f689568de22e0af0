"""Several runs as one picture."""

from __future__ import annotations

import pytest
from PIL import Image

from smartedge.lab.report import write_picture
from smartedge.lab.report.picture import seconds_with_slower_edge
from smartedge.lab.report.read import read_run


def test_it_is_written_for_every_method(write_run, tmp_path) -> None:
    runs = [write_run(method, method=method) for method in ("hierarchical", "upload", "split", "local")]
    with Image.open(write_picture(runs, tmp_path / "new.png")) as picture:
        assert picture.format == "PNG" and picture.width > 1000


@pytest.mark.parametrize(
    ("method", "schedule", "seconds"),
    [
        ("hierarchical", "joint", 10 * (2.0 + 0.5)),  # the edge is the slower one now
        ("hierarchical", "freeze-and-log", 9.0 + 9 * (2.0 + 0.5)),  # the cloud begins when the front has learned
        ("split", "joint", 9.0 + 9 * (2.0 + 0.5)),  # one after the other
        ("local", "joint", 9.0 + 9 * 2.0),
    ],
)
def test_an_epoch_with_a_slower_edge_is_computed(write_run, method: str, schedule: str, seconds: float) -> None:
    def change(results) -> None:
        encode = 0.0 if method == "local" else 0.5
        stages = {"edge": 2.0, "encode": encode, "link": 0.0, "cloud": 8.0}
        results.update(schedule=schedule, seconds_per_epoch=9.0, stage_seconds=stages)

    run = read_run(write_run(method=method, change=change))
    assert seconds_with_slower_edge(run, 10) == pytest.approx(seconds)
    assert seconds_with_slower_edge(run, 1) == 9.0, "as measured"
