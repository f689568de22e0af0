"""What an audit learns of the persons in a run's images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.helpers.untrained_run import untrained_run

from smartedge.config import load_config
from smartedge.errors import RunError
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.gathering import assemble, gather, open_audited, trained_parts
from smartedge.runs.progress import Quiet


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


def test_an_interrupted_run_is_not_audited(tmp_path: Path, drawn_faces: Path) -> None:
    """It has weights, and goes on with others."""
    data: dict[str, Any] = {"path": "drawn", "desired": "smile", "image_size": 16, "cache_dir": str(drawn_faces)}
    data["limit"] = {"train": 20, "val": 10, "test": 10}
    config = load_config({"data": data, "model": {"name": "narrow:build", "cut": "layer1"}})
    run = untrained_run(tmp_path / "run", config, finished=False)
    with pytest.raises(RunError, match="has not finished this run"):
        gather(run, ["masculine"], clock=Clock(None), monitor=Quiet())
