"""What an audit learns of the persons in a run's images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from smartedge.config import load_config
from smartedge.lab.audit.gathering import open_audited


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
