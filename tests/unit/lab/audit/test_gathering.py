"""What an audit takes from a run: its images, the persons in them, and what its edge sent."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from headers import stream_header
from PIL import Image
from safetensors.torch import save_file
from tests.helpers.untrained_run import untrained_run

from smartedge.artifacts.run import EdgeRun
from smartedge.cloud.store.feature_log import FeatureLog, log_folder
from smartedge.config import load_config
from smartedge.errors import RunError
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import of_a_training_image
from smartedge.lab.audit.gathering import (
    _log_of_this_edge,
    _released,
    _stored_scores,
    assemble,
    gather,
    open_audited,
    trained_parts,
)
from smartedge.runs.progress import Quiet
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import receive, serialise


def test_persons_are_those_of_the_images_that_were_set_apart(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")
    for split, prefix in (("train", ""), ("test", "new ")):
        table = {
            "image": [{"bytes": image.getvalue(), "path": f"{place}.png"} for place in range(40)],
            "smile": [True, False] * 20,
            "male": [place % 4 < 2 for place in range(40)],
            "identity": [f"{prefix}{place // 2}" for place in range(40)],
        }
        (tmp_path / "d").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), tmp_path / "d" / f"{split}.parquet")
    data = {"path": str(tmp_path / "d"), "desired": "smile", "image_size": 8, "cache_dir": str(tmp_path / "cache")}
    opened = open_audited(load_config({"data": {**data, "audit_share": 0.25}}), ["male"])
    assert opened.dataset.audit is not None and opened.persons is not None
    ids = opened.dataset.audit.ids
    assert np.array_equal(opened.own.ids, ids) and opened.labels["train"]["male"].tolist() == (ids % 4 < 2).tolist()
    same_person = opened.persons.train[:, None] == opened.persons.train[None]
    assert np.array_equal(same_person.numpy(), (ids // 2)[:, None] == (ids // 2)[None])
    assert opened.persons.also_in_training == 0


@pytest.mark.parametrize(
    ("share", "a_file", "seen"), [(0.0, False, True), (0.3, False, False), (0.3, True, None), (0.0, True, True)]
)
def test_what_a_file_of_weights_has_learned_from_is_not_known(
    tmp_path: Path, drawn_faces: Path, share: float, a_file: bool, seen: bool | None
) -> None:
    """The images set apart may be among them. Without any, attackers have the images of this run's training."""
    settings: dict[str, Any] = {
        "schedule": "freeze-and-log",
        "data": {
            "path": "drawn",
            "desired": "smile",
            "sensitive": ["masculine"],
            "image_size": 16,
            "limit": {"train": 20, "val": 10, "test": 10},
            "cache_dir": str(drawn_faces),
            "audit_share": share,
        },
        "model": {"name": "narrow:build", "cut": "layer1"},
        "hardware": {"cloud_device": "cpu"},
        "dp": {"mechanism": "gaussian", "sigma": 0.5, "clip": 1.0, "apply_to": "training" if a_file else "always"},
    }
    if a_file:
        first = untrained_run(tmp_path / "first", load_config(settings))
        settings["model"]["front"] = str(first / "edge" / "front.safetensors")
    config = load_config(settings)
    run = untrained_run(tmp_path / "run", config)
    opened = open_audited(config, ["masculine"])
    parts = trained_parts(config, opened.dataset.task, run / "edge")
    clock, folder = Clock(None), tmp_path / "features"
    found = assemble("defended", config, opened, parts, None, folder=folder, clock=clock, monitor=Quiet())
    assert found.train.seen is seen
    assert found.noisy is not a_file, "test images have noise with 'always' alone"
    stronger = of_a_training_image(found)
    assert stronger is not None and stronger.noisy and stronger.labelled, "a training image has it in any case"


def test_an_interrupted_run_is_not_audited(tmp_path: Path, drawn_faces: Path) -> None:
    """It has weights, and goes on with others."""
    data: dict[str, Any] = {"path": "drawn", "desired": "smile", "image_size": 16, "cache_dir": str(drawn_faces)}
    data["limit"] = {"train": 20, "val": 10, "test": 10}
    config = load_config({"data": data, "model": {"name": "narrow:build", "cut": "layer1"}})
    run = untrained_run(tmp_path / "run", config, finished=False)
    with pytest.raises(RunError, match="has not finished this run"):
        gather(run, ["masculine"], clock=Clock(None), monitor=Quiet())


TEST = stream_header(split="test", batch_size=2, first_seq=2, frames=2, train_steps=2)
CONFIG = load_config({"schedule": "freeze-and-log"})


def log_of(cloud: Path, edge: str, run: str, frames: dict[int, list[int]]) -> None:
    """A log of training frames 0 and 1, and of test frames with these images; an image's features are its id."""
    with contextlib.closing(FeatureLog(log_folder(cloud, edge), edge)) as log:
        for header in (stream_header(split="train", batch_size=2, frames=2, train_steps=2), TEST):
            header = dataclasses.replace(header, run=run)
            log.begin(header)
            for seq in range(header.first_seq, header.end_seq):
                put(log, header, seq, frames.get(seq, [0, 1]))
        log.sync()


def put(log: FeatureLog, header: StreamHeader, seq: int, ids: list[int]) -> None:
    features = np.repeat(np.array(ids, np.float32), int(np.prod(header.feature_shape)))
    batch = EncodedBatch(np.array(ids), np.zeros(len(ids), np.int64), features.tobytes(), b"")
    frame = receive(serialise(Frame(seq, batch), header), header)
    assert log.append(frame.seq, frame.head, frame.batch.payload)


def test_what_is_attacked_is_what_this_edge_sent_of_each_test_image(tmp_path: Path) -> None:
    """The cloud has logs of other edges; frames come in any order of images, and training frames count for nothing."""
    mine, others = "1" * 32, "2" * 32
    (tmp_path / "edge").mkdir()
    EdgeRun(run=mine, data="").write(tmp_path / "edge" / "run.json")
    log_of(tmp_path / "cloud", "camera", others, {2: [5, 6], 3: [7, 8]})
    with pytest.raises(RunError, match="no feature log of this edge"):
        _log_of_this_edge(tmp_path)
    log_of(tmp_path / "cloud", "door", mine, {2: [7, 4], 3: [6, 5]})
    log = _log_of_this_edge(tmp_path)
    assert log.edge == "door"
    found = _released(log, CONFIG, np.array([4, 5, 6, 7]))
    assert found.shape == (4, *TEST.feature_shape) and found.flatten(1)[:, 0].tolist() == [4, 5, 6, 7]
    with pytest.raises(RunError, match=r"holds 4 test images, but the data set has 3 \(or others\)"):
        _released(log, CONFIG, np.array([4, 5, 6]))


def test_a_log_with_a_test_image_twice_is_not_of_one_run(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    EdgeRun(run="1" * 32, data="").write(tmp_path / "edge" / "run.json")
    log_of(tmp_path / "cloud", "door", "1" * 32, {2: [7, 4], 3: [6, 7]})
    with pytest.raises(RunError, match="test image 7 was released more than once"):
        _released(_log_of_this_edge(tmp_path), CONFIG, np.array([4, 6, 7]))


def test_the_exits_answers_are_put_in_the_order_of_the_images(tmp_path: Path) -> None:
    file = tmp_path / "predictions.safetensors"
    assert _stored_scores(file, np.array([1, 2])) is None
    save_file({"ids": torch.tensor([9, 4, 7]), "scores": torch.tensor([[0.9], [0.4], [0.7]])}, file)
    found = _stored_scores(file, np.array([4, 7, 9]))
    assert found is not None and found[:, 0].tolist() == pytest.approx([0.4, 0.7, 0.9])
    with pytest.raises(RunError, match="is not about the images of the test split"):
        _stored_scores(file, np.array([4, 7, 8]))
