"""Runs on images that are no squares, or have five channels: what crosses, the report, new images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from smartedge.cli.app import main
from smartedge.runs.progress import Quiet
from smartedge.training import train


@pytest.mark.parametrize(
    ("method", "crosses"), [("hierarchical", (8, 8, 12)), ("upload", (3, 16, 24))], ids=["hierarchical", "upload"]
)
def test_rectangles(
    method: str, crosses: tuple[int, ...], tiny_config: Any, open_log: Any, tmp_path: Path, capsys: Any
):
    config = tiny_config("run", method=method, epochs=1, data={"image_size": "16x24"})
    results = train(config, single_process=True, monitor=Quiet())
    assert json.loads((config.run_dir / "results.json").read_text())["data"]["image_size"] == "16x24"
    assert results.data.image_size.shape == (3, 16, 24)
    log = open_log(config.run_dir)
    assert log.header_of(0).feature_shape == crosses
    assert load_file(config.run_dir / "edge" / "samples.safetensors")["images"].shape[1:] == (3, 16, 24)
    assert main(["report", str(config.run_dir)]) == 0
    assert "16x24 pixels" in (config.run_dir / "report.html").read_text(encoding="utf-8")
    if method == "hierarchical":
        capsys.readouterr()
        pixels = np.random.default_rng(0).integers(256, size=(40, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "new.png")
        assert main(["infer", str(config.run_dir), str(tmp_path / "new.png"), "--json", "--threshold", "0"]) == 0
        assert sum(json.loads(capsys.readouterr().out)["scores"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", ["hierarchical", "upload"])
def test_five_channels(method: str, tiny_config: Any, open_log: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    pixels = rng.integers(200, size=(80, 16, 24, 5), dtype=np.uint8)
    pixels[labels == 1, ..., 4] += 50  # the last channel tells the class
    np.savez(tmp_path / "five.npz", train_images=pixels, train_labels=labels)
    data = {"path": str(tmp_path / "five.npz"), "desired": "label", "sensitive": [], "limit": {}}
    config = tiny_config(
        "run", method=method, epochs=1, data={**data, "image_size": "16x24x5"}, model={"args": {"channels": 5}}
    )
    results = train(config, single_process=True, monitor=Quiet())
    assert results.data.image_size.plain == "16x24x5"
    assert open_log(config.run_dir).header_of(0).feature_shape == (
        (8, 8, 12) if method == "hierarchical" else (5, 16, 24)
    )
    shown = load_file(config.run_dir / "edge" / "samples.safetensors")["images"]
    assert shown.shape[1:] == (3, 16, 24)  # of five channels the first three are shown
    jpeg = results.bytes_per_image.reference.jpeg_q90
    assert 5 * 200 < jpeg < 5 * 16 * 24 * 3
    assert main(["report", str(config.run_dir)]) == 0
