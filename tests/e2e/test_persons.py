"""A run that hides several columns and who it is, and the audit of its persons."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smartedge.cli import app
from smartedge.config import Config
from smartedge.runs.progress import Quiet
from smartedge.training import train

PERSONS, IMAGES = 24, 4


def write_people(folder: Path) -> Path:
    """Faces of a colour for each person, brighter where they smile; ``tall`` belongs to the person."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, split in enumerate(("train", "val", "test")):
        colours = rng.integers(40, 180, (PERSONS, 3))
        rows = []
        for person, place in np.ndindex(PERSONS, IMAGES):
            smile = bool(rng.random() < 0.5)
            pixels = rng.integers(0, 30, (16, 16, 3)) + colours[person] + 40 * smile
            file = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
            image = {"bytes": file.getvalue(), "path": f"{place}.png"}
            tall, old = bool(person % 2), bool(person % 3 == 0)
            rows.append({"image": image, "smile": smile, "tall": tall, "old": old, "identity": 100 * number + person})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
def test_several_columns_and_identity_are_hidden_and_persons_are_attacked(
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config(
        "run",
        schedule="freeze-and-log",
        epochs=1,
        data={
            "path": str(write_people(tmp_path / "people")),
            "desired": "smile",
            "sensitive": ["tall", "old", "identity"],
            "limit": {"train": 96, "val": 96, "test": 96},
            "cache_dir": str(tmp_path / "cache"),
        },
        model={"name": "tiny:build", "cut": "stage1", "bottleneck": "2x2x2"},
        adversary={"exits": ["mlp"], "steps": 1},
        dp={"mechanism": "gaussian", "sigma": 0.4},
    )
    train(config, single_process=True, monitor=Quiet())
    for module in ("identity", "persons"):
        monkeypatch.setattr(f"smartedge.lab.audit.{module}._LOOKS", 2)
        monkeypatch.setattr(f"smartedge.lab.audit.{module}._EVERY", 10)
    monkeypatch.setattr(
        sys, "argv", ["smartedge", "audit", str(config.run_dir), "--attacks", "linear,identity,persons", "--seeds", "1"]
    )
    assert app.main() == 0
    printed = capsys.readouterr().out
    assert "two releases of one person: AUROC" in printed
    assert "tall from 4-9 of one person's images" in printed
    found = json.loads((config.run_dir / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert list(found["attributes"]) == ["tall", "old"], "who it is has an attack of its own"
    identity = found["identity"]
    assert identity["persons"] == identity["persons_with_pairs"] == PERSONS
    assert identity["undefended"]["auroc"] > 0.9, "colours tell persons apart, where nothing hides them"
    # Both attributes belong to the person. Strangers agree on both in 10 of 36 cases or so.
    assert identity["attribute_floor"]["auroc"] > 0.7
    assert set(found["persons"]) == {"tall", "old"}
    assert set(found["persons"]["tall"]) == {"1", "2-3", "4-9"}
