"""The profile of a machine that may use only a share of one core."""

from __future__ import annotations

from pathlib import Path

import pytest
from share_of_core import at_share

from smartedge.artifacts.profile import Profile, Timing

KEPT = Path(__file__).parents[3] / "benchmarks" / "results" / "device-ratio" / "profiles" / "resnet18-32.json"


@pytest.fixture
def profile() -> Profile:
    return Profile.read(KEPT)


def timing(wall: float, cpu: float) -> Timing:
    return Timing(seconds=wall, cpu_seconds=cpu, spread=0.0, first_seconds=cpu)


def test_work_takes_as_many_times_longer(profile: Profile) -> None:
    cut = profile.cuts[-1].model_copy(update={"front_step": timing(2e-3, 2e-3)})
    part = at_share(profile.model_copy(update={"cuts": (cut,)}), 0.05)
    assert part.kind == "scaled" and part.cores == 1
    assert part.cuts[0].front_step.seconds == pytest.approx(40e-3, rel=1e-12)
    assert part.cuts[0].build_seconds == pytest.approx(20 * cut.build_seconds, rel=1e-12)
    name = next(iter(profile.whole.codecs))
    before, after = (each.whole.codecs[name] for each in (profile, part))
    assert after.encode.cpu_seconds == pytest.approx(20 * before.encode.cpu_seconds, rel=1e-12)
    assert after.bytes_per_image == before.bytes_per_image
    assert part.transport.cpu_seconds_per_frame == pytest.approx(
        20 * profile.transport.cpu_seconds_per_frame, rel=1e-12
    )


def test_what_waits_for_the_disk_waits_as_long(profile: Profile) -> None:
    part = at_share(profile.model_copy(update={"data": timing(5e-3, 1e-3)}), 0.1)
    assert part.data.seconds == pytest.approx(4e-3 + 10e-3, rel=1e-12)
    assert part.data.cpu_seconds == pytest.approx(10e-3, rel=1e-12)
    assert part.checkpoint.seconds == profile.checkpoint.seconds
    assert part.checkpoint.seconds_per_byte == pytest.approx(10 * profile.checkpoint.seconds_per_byte, rel=1e-12)
