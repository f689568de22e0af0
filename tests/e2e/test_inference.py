"""Answers for images: at the exit, or at the back, in this process and over a socket."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from forked import Popen
from PIL import Image
from safetensors.torch import load_file

from smartedge.cli.app import main
from smartedge.data import open_dataset
from smartedge.edge.protection import open_gate
from smartedge.errors import DataError, FrameError, RunError
from smartedge.inference import Answerer, BackServer, TorchFront, TrainedRun
from smartedge.inference.answering import header_of
from smartedge.runs.progress import Quiet
from smartedge.training import train
from smartedge.wire.memory import MemoryLink


@pytest.fixture
def run_and_images(tiny_config, tmp_path):
    """A run with a lossless codec, six of its test images as files, and both heads' answers to them in the test."""
    config = tiny_config("run", epochs=1, codec={"name": "float32"})
    train(config, single_process=True, monitor=Quiet())
    data = config.data
    dataset = open_dataset("drawn", "smile", image_size=16, limit=data.limit, cache_dir=data.cache_dir)
    shown = dataset.splits["test"].read(np.arange(6))
    files = []
    for image, pixels in zip(shown.ids.tolist(), shown.images_BCHW, strict=True):
        files.append(tmp_path / f"{image}.png")
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(files[-1])
    predictions = load_file(config.run_dir / "predictions.safetensors")
    place = [predictions["ids"].tolist().index(image) for image in shown.ids.tolist()]
    return config, files, predictions["exit"][place], predictions["back"][place]


def answers(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def scores(rows: list[dict]) -> torch.Tensor:
    return torch.tensor([[row["scores"][name] for name in ("no", "yes")] for row in rows])


def test_the_threshold_decides_who_answers(run_and_images, capsys):
    config, files, at_exit, at_back = run_and_images
    arguments = ["infer", str(config.run_dir), *map(str, files), "--json", "--threshold"]
    assert main([*arguments, "0"]) == 0
    rows = answers(capsys)
    assert {row["by"] for row in rows} == {"exit"}
    torch.testing.assert_close(scores(rows), at_exit, atol=1e-5, rtol=0)
    assert main([*arguments, "1.01"]) == 0
    rows = answers(capsys)
    assert {row["by"] for row in rows} == {"back"}
    torch.testing.assert_close(scores(rows), at_back, atol=1e-5, rtol=0)
    middle = float(at_exit.max(dim=1).values.sort().values[2:4].mean())
    assert main([*arguments, str(middle)]) == 0
    rows = answers(capsys)
    assert [row["by"] for row in rows] == ["exit" if sure >= middle else "back" for sure in at_exit.max(dim=1).values]


def test_the_back_answers_over_a_socket(run_and_images, capsys):
    config, files, _, at_back = run_and_images
    command = [sys.executable, "-m", "smartedge", "serve", str(config.run_dir), "--listen", "127.0.0.1:0"]
    server = Popen(command, stdout=subprocess.PIPE)
    try:
        address = server.stdout.readline().split()[2].rstrip(";")
        found = main(
            ["infer", str(config.run_dir), *map(str, files), "--json", "--threshold", "1.01", "--connect", address]
        )
        assert found == 0
        rows = answers(capsys)
        assert {row["by"] for row in rows} == {"back"}
        torch.testing.assert_close(scores(rows), at_back, atol=1e-5, rtol=0)
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0
        server.stdout.close()


def test_a_server_needs_only_what_may_travel(run_and_images, tmp_path):
    """It gets neither results.json nor edge/ nor config.yaml, and answers as the back that it got."""
    config, files, _, at_back = run_and_images
    server = tmp_path / "server"
    for part in ("cloud", "shared"):
        shutil.copytree(config.run_dir / part, server / part)
    trained = TrainedRun.open(config.run_dir)
    images_BCHW = np.stack([np.array(Image.open(file)).transpose(2, 0, 1) for file in files])
    served = BackServer(TrainedRun.open(server))
    asked = header_of(trained.config, trained.task, trained.agreement, served.back.feature_shape, frames=1)
    for hostile in ("{", "[" * 30_000, "[]"):
        with pytest.raises(FrameError, match="settings are not"):
            served.accept("edge", dataclasses.replace(asked, agreement=hostile))
    link = MemoryLink(served)
    front = TorchFront(trained)
    gate = open_gate(trained.config, config.run_dir / "edge", None, front.mechanism, None, existing=True)
    with Answerer(front, threshold=1.01, server=link, gate=gate) as answerer:
        found = answerer.answer(images_BCHW)
    assert {given.by for given in found} == {"back"}
    torch.testing.assert_close(torch.tensor(np.stack([given.scores_K for given in found])), at_back, atol=1e-5, rtol=0)
    for part in ("config.yaml", "results.json"):
        (config.run_dir / part).unlink()
    assert TrainedRun.open(config.run_dir).config.agreement() == config.agreement()


@pytest.mark.parametrize("desired", ["smile", ["smile", "glasses"]])
def test_the_cloud_serves_its_own_run_with_nothing_of_the_edge(desired, tiny_config, tmp_path):
    config = tiny_config("run", epochs=1, data={"desired": desired}, codec={"name": "float32"})
    train(config, single_process=True, monitor=Quiet())
    server = tmp_path / "server"
    shutil.copytree(config.run_dir / "cloud", server / "cloud")
    shutil.copy(config.run_dir / "config.yaml", server / "config.yaml")
    whole, alone = TrainedRun.open(config.run_dir), TrainedRun.open(server)
    assert (alone.task.kind, alone.task.columns) == (whole.task.kind, whole.task.columns)
    assert alone.task.names == (("0", "1") if desired == "smile" else ("smile", "glasses"))
    assert alone.agreement == whole.agreement
    served = BackServer(alone)
    asked = header_of(whole.config, whole.task, whole.agreement, served.back.feature_shape, frames=1)
    assert served.accept("edge", asked) == 0
    with pytest.raises(RunError, match="holds another run"):
        served.accept("edge", dataclasses.replace(asked, outputs=3, answer_shape=(3,)))
    shutil.rmtree(server / "cloud" / "store")
    with pytest.raises(RunError, match="the edge writes it when its part of the run ends"):
        TrainedRun.open(server)


def test_what_may_travel_holds_nothing_that_was_computed_from_labels(run_and_images):
    config, *_ = run_and_images
    shared = json.loads((config.run_dir / "shared" / "run.json").read_text())
    assert set(shared) == {"schema_version", "settings", "task", "feature_shape"}
    assert shared["settings"] == config.agreement()
    assert shared["task"] == {"kind": "single", "columns": ["smile"], "names": ["0", "1"]}, "names stay on the edge"
    assert TrainedRun.open(config.run_dir).task.names == ("no", "yes")
    assert [path.name for path in (config.run_dir / "shared").iterdir()] == ["run.json"]


def test_a_run_that_has_not_finished_cannot_answer(run_and_images, capsys):
    config, files, *_ = run_and_images
    (config.run_dir / "cloud" / "summary.json").unlink()
    assert main(["serve", str(config.run_dir)]) == RunError.exit_code
    assert "the cloud has not finished this run, or is elsewhere" in capsys.readouterr().err
    (config.run_dir / "shared" / "run.json").unlink()
    assert main(["infer", str(config.run_dir), str(files[0])]) == RunError.exit_code
    assert "copy the folder shared/" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named_and_the_others_answered(run_and_images, capsys, tmp_path):
    config, files, _, _ = run_and_images
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    assert main(["infer", str(config.run_dir), str(files[0]), str(broken), "--json"]) == DataError.exit_code
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "broken.jpg: image cannot be decoded; left out" in captured.err


def test_a_name_of_a_file_is_no_further_answer_and_does_not_speak_to_the_terminal(run_and_images, capsys, tmp_path):
    config, files, _, _ = run_and_images
    forged = tmp_path / "a.png\nb.png   yes   100.0 %   exit\x1b[2J.png"
    forged.write_bytes(files[0].read_bytes())
    broken = tmp_path / "c\nd\x1b[2J.png"
    broken.write_bytes(b"not an image")
    assert main(["infer", str(config.run_dir), str(forged), str(broken)]) == DataError.exit_code
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].startswith(f"{tmp_path}/a.png\\nb.png") and len(captured.out.splitlines()) == 2
    assert len(captured.err.splitlines()) == 1 and "\x1b" not in captured.out + captured.err


def test_a_run_without_an_exit_cannot_answer(tiny_config, capsys):
    config = tiny_config("run", method="local", epochs=1)
    train(config, single_process=True, monitor=Quiet())
    assert main(["infer", str(config.run_dir), "x.png"]) == RunError.exit_code
    assert "no exit on the edge" in capsys.readouterr().err
