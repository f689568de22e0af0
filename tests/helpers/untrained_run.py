"""A run whose edge has finished, with a front that learned nothing."""

from __future__ import annotations

from pathlib import Path

import yaml

from smartedge.artifacts.results import ReferenceBytes
from smartedge.artifacts.run import EdgeRun
from smartedge.artifacts.summary import EdgeSummary, Session
from smartedge.artifacts.task import TaskFacts
from smartedge.config import Config
from smartedge.edge.sender import Traffic
from smartedge.edge.state import fingerprint
from smartedge.launch.datasets import dataset_of
from smartedge.models.network import divide
from smartedge.runs.checkpoint import save_weights


def untrained_run(folder: Path, config: Config, *, finished: bool = True) -> Path:
    """Write what an edge leaves: settings, weights, which run it was, and whether it has finished."""
    dataset, edge = dataset_of(config), folder / "edge"
    edge.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    divided = divide(config.division(dataset.task.outputs))
    save_weights(edge / "front.safetensors", divided.front.state_dict())
    save_weights(edge / "exit.safetensors", divided.task_exit.state_dict())
    EdgeRun(run="0" * 32, data=fingerprint(dataset)).write(edge / "run.json")
    task = TaskFacts(kind=dataset.task.kind, columns=dataset.task.columns, names=dataset.task.names)
    edge_summary(task, divided.feature_shape, finished=finished).write(edge / "summary.json")
    return folder


def edge_summary(task: TaskFacts, feature_shape: tuple[int, ...], *, finished: bool = True) -> EdgeSummary:
    """What an edge leaves that has learned and sent nothing."""
    return EdgeSummary(
        finished=finished,
        session=Session(started=0, ended=1, epochs=1),
        busy_seconds=1.0,
        peak_rss_bytes=None,
        test=None,
        threaded=False,
        data_wait_seconds=0.0,
        data_busy_seconds=0.0,
        teacher_val=None,
        traffic=Traffic().totals(),
        releases_per_image=1,
        privacy=None,
        feature_shape=feature_shape,
        reference_bytes=ReferenceBytes(jpeg_q90=1.0, raw_uint8=1.0, feature_float32=1.0),
        task=task,
        images={},
        skipped={},
        notes=(),
        baseline_rss_bytes=0,
    )
