"""Run directories as they are while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_example import of_edges

from smartedge.artifacts.fleet_run import EdgeFigures
from smartedge.artifacts.metrics import EpochFigures
from smartedge.artifacts.progress import News, SideProgress, Work
from smartedge.artifacts.run import Confirmed
from smartedge.artifacts.summary import TrafficTotals
from smartedge.config import load_config

NASTY = '<img src=x onerror="document.title=1"></script><script>document.title="it ran"</script>'
SETTINGS = {"epochs": 3, "data": {"desired": "smile"}}


def row(side: str, epoch: int, accuracy: float) -> str:
    figures = {"loss": 1 - accuracy, "accuracy": accuracy, "balanced_accuracy": accuracy, "base_rate": 0.5}
    return EpochFigures.model_validate({"side": side, "epoch": epoch, "split": "val", "auroc": None, **figures}).line()


def progress(side: str, *, age: float = 0.0, ended: bool = False, news: tuple[News, ...] = ()) -> SideProgress:
    works = (Work(phase="train", done=30, total=90, text="epoch 2/3 loss 0.5"),)
    return SideProgress(side=side, updated=time.time() - age, ended=ended, works=works, news=news)


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A run of one edge in its second epoch."""
    run = tmp_path / "faces"
    for side, accuracies in (("edge", (0.6, 0.7)), ("cloud", (0.65, 0.8))):
        (run / side).mkdir(parents=True)
        lines = [row(side, epoch, accuracy) for epoch, accuracy in enumerate(accuracies)]
        (run / side / "metrics.jsonl").write_text("".join(lines))
    (run / "config.yaml").write_text(load_config(SETTINGS).to_yaml())
    news = (
        News(at=100.0, phase="data", text="an earlier line", warning=False),
        News(at=200.0, phase="link", text=NASTY, warning=True),
    )
    progress("edge", news=news).write(run / "edge" / "progress.json")
    progress("cloud").write(run / "cloud" / "progress.json")
    traffic = TrafficTotals(
        up={"train": 9000, "val": 1000},
        down={"train": 10},
        images={"train": 90, "val": 10},
        source="payload",
        release_seconds=0,
        encode_seconds=0,
        link_seconds=0,
        codec_error=None,
    )
    Confirmed(checkpoint=1, spooled=True, traffic=traffic).write(run / "edge" / "confirmed.json")
    return run


@pytest.fixture
def fleet(tmp_path: Path) -> Callable[[int], Path]:
    """``fleet(20)``: the cloud of a run of so many edges; the second was refused, the third is in quarantine."""

    def make(count: int) -> Path:
        run = tmp_path / "fleet"
        (run / "cloud").mkdir(parents=True)
        (run / "config.yaml").write_text(load_config({**SETTINGS, "fleet": {"expect": count}}).to_yaml())
        progress("cloud").write(run / "cloud" / "progress.json")
        edges = {
            f"camera-{number:02d}": EdgeFigures(
                cut="layer1",
                frames=12,
                images=380,
                bytes=40_000,
                learned=10,
                lag=2,
                gaps=0,
                refused=3 * (number == 1),
                closed=number == 0,
                quarantined=9 if number == 2 else None,
                capped=False,
                loss=0.4,
                outlier=None,
                drift=None,
                test=None,
            )
            for number in range(count)
        }
        of_edges(edges, jain=1.0).write(run / "cloud" / "fleet.json")
        return run

    return make
