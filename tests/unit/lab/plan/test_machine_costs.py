"""The two costs of a frame and of a checkpoint: a line through a small and a large one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smartedge.cloud.store.feature_log import FeatureLog
from smartedge.lab.plan import machine_costs
from smartedge.lab.plan.machine_costs import checkpoint_cost, transport_cost


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """``clock(wall, cpu)``: what the clocks of the module show, one after the other. Returns the times slept."""

    def set_to(wall: list[float], cpu: list[float]) -> list[float]:
        slept, shown, used = list[float](), iter(wall), iter(cpu)
        times = {"perf_counter": lambda: next(shown), "process_time": lambda: next(used), "sleep": slept.append}
        monkeypatch.setattr(machine_costs, "time", SimpleNamespace(**times))
        return slept

    return set_to


def test_a_checkpoint_costs_its_bytes_and_something_more(
    clock: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved: list[tuple[Path, int, int]] = []

    class Kept:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def save(self, number: int, state: dict[str, Any]) -> None:
            saved.append((self.folder, number, state["weights"].nbytes))

    monkeypatch.setattr(machine_costs, "Checkpoints", Kept)
    clock([0, 1, 10, 13, 20, 22, 30, 35, 40, 49, 50, 57], [])  # 1, 3 and 2 seconds; 5, 9 and 7
    found = checkpoint_cost(tmp_path)
    small, large = 2**16, 2**25
    assert saved == [(tmp_path / str(size // 4), number, size) for size in (small, large) for number in range(3)]
    assert found.seconds_per_byte == pytest.approx((7 - 2) / (large - small), rel=1e-9)
    assert found.of(large) == pytest.approx(7, rel=1e-9) and found.of(small) == pytest.approx(2, rel=1e-9)


def test_a_frame_costs_its_bytes_and_something_more(clock: Callable[..., Any], tmp_path: Path) -> None:
    """Four frames of each size cross a real link, and are in the log."""
    slept = clock([0.0, 2.08, 10.0, 14.08], [0.0, 0.4, 1.0, 1.8])
    found = transport_cost(tmp_path, 1)
    assert slept == [0.02] * 8
    small, large = 64 * 16 * 4, 64 * 4096 * 4  # a half and a whole second; 0.1 and 0.2 of a processor
    assert found.seconds_per_byte == pytest.approx(0.5 / (large - small), rel=1e-6)
    assert found.seconds_per_frame == pytest.approx(0.5 - found.seconds_per_byte * small, rel=1e-6)
    assert found.cpu_seconds_per_byte == pytest.approx(0.1 / (large - small), rel=1e-6)
    assert found.cpu_seconds_per_frame == pytest.approx(0.1 - found.cpu_seconds_per_byte * small, rel=1e-6)
    for numbers in (16, 4096):
        log = FeatureLog(tmp_path / f"log-{numbers}")
        assert log.next_seq == 4
        log.close()


def test_a_large_one_that_was_faster_costs_nothing_for_its_bytes() -> None:
    assert machine_costs._line({100: 2.0, 10: 3.0}) == (3.0, 0.0)
    assert machine_costs._line({10: 1.0, 100: 100.0}) == (0.0, 1.1), "nothing below zero"
