"""What the benchmark of the papers' devices says about its worlds, without making one."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_ratio import WORLDS
from shaped_link import who_waits
from shaping import LONG_QUOTA_US, SHORT_QUOTA_US, _set_cap

from smartedge.artifacts.plan import Choice


@pytest.mark.parametrize(("world", "ratio"), [("4", 4), ("4-slow", 4), ("19", 19), ("19-slow", 19)])
def test_shares_have_the_ratio_of_the_world(world: str, ratio: int) -> None:
    found = WORLDS[world]
    assert found.cloud / found.edge == pytest.approx(ratio, rel=1e-9)
    assert found.edge + found.cloud <= 1.0 + 1e-9  # what the other processes of the machine do, they can still do
    # In slow motion the edge is half a core, and the link is slower by the same factor.
    assert found.edge * found.dilation == pytest.approx(0.5 if world.endswith("slow") else found.edge, rel=1e-9)
    up = found.link("3g").up_mbits
    assert up is not None and up * found.dilation == pytest.approx(1.1, rel=1e-9)


def test_who_waits_is_told_by_the_longest_stage() -> None:
    ours = Choice(method="hierarchical", schedule="joint", cut="layer1", codec="uint4")
    stages = {"edge": 3.0, "encode": 0.1, "link": 1.0, "cloud": 2.0}
    assert who_waits(ours, stages) == "cloud for edge"
    assert who_waits(ours, stages | {"cloud": 4.0}) == "edge for cloud"
    assert who_waits(ours, stages | {"link": 4.0}) == "both for the link"
    assert (
        who_waits(Choice(method="upload", schedule="freeze-and-log", cut=None, codec="jpeg"), stages)
        == "each for the other, in turn"
    )
    assert (
        who_waits(Choice(method="split", schedule="joint", cut="layer1", codec="uint4"), stages)
        == "each for the other, in turn"
    )


@pytest.mark.parametrize(
    ("share", "least", "written"),
    [
        (0.05, SHORT_QUOTA_US, "5000 100000"),
        (0.05, LONG_QUOTA_US, "50000 1000000"),
        (0.95, LONG_QUOTA_US, "50000 52632"),
        (0.5, SHORT_QUOTA_US, "10000 20000"),  # a period is never shorter than 20 ms
    ],
)
def test_a_side_computes_at_once_for_as_long_as_was_asked(
    share: float, least: int, written: str, tmp_path: Path
) -> None:
    for name in ("cpu.max", "cpu.weight"):  # those of cgroup v2
        (tmp_path / name).touch()
    _set_cap(tmp_path, share, least)
    assert (tmp_path / "cpu.max").read_text() == written
