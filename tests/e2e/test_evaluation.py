"""What a run reports is what the weights that it ended with give on images as they are.

No dropout, no batch statistics of the moment, no augmentation; every byte and image is counted once, under its split.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from watching import Watch

import smartedge
from smartedge.config import Config
from smartedge.launch.datasets import open_data
from smartedge.runs.progress import Quiet, Update
from smartedge.training import train

RUNS = [
    ("hierarchical", "joint"),
    ("hierarchical", "two-stage"),
    ("hierarchical", "freeze-and-log"),
    ("split", "joint"),
    ("upload", "joint"),
    ("upload", "freeze-and-log"),
    ("local", "joint"),
]


class Phases(Quiet):
    """Keeps how many steps were done, of how many, in every phase of the edge."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, int]]] = {}

    def update(self, update: Update) -> None:
        if update.side == "edge" and update.total:
            self.seen.setdefault(update.phase, []).append((update.done, update.total))


@pytest.fixture(scope="module")
def trained() -> dict[tuple[str, str], tuple[Config, Watch, Phases]]:
    """Runs that several tests look at, by method and schedule."""
    return {}


@pytest.fixture
def run_of(tiny_config, trained):
    """``run_of(method, schedule)``: the settings of a run that has ended, what was seen of it, and its phases."""

    def make(method: str, schedule: str) -> tuple[Config, Watch, Phases]:
        if (method, schedule) not in trained:
            codec = {} if method in ("upload", "local") else {"codec": {"name": "float32"}}
            data = {"augment": "flip-crop"}
            config = tiny_config("run", method=method, schedule=schedule, epochs=2, data=data, **codec)
            phases = Phases()
            with Watch().watching() as watch:
                train(config, single_process=True, monitor=phases)
            trained[method, schedule] = config, watch, phases
        return trained[method, schedule]

    return make


def whole_network(run_dir: Path) -> torch.nn.Module:
    """The undivided network with the weights that the run ended with."""
    import tiny  # as the run does: tiny_config has put its folder on the path

    network = tiny.build(2)
    names = ("edge/front", "edge/network", "cloud/back")
    files = [run_dir / f"{name}.safetensors" for name in names]
    network.load_state_dict({k: v for file in files if file.exists() for k, v in load_file(file).items()}, strict=True)
    return network.eval()


@torch.no_grad()
def answers(config, split: str) -> dict[str, Tensor]:
    """Probabilities (N, K) of the undivided network and of the exit for the images of a split as they are."""
    images = open_data(config, Quiet()).splits[split]
    pixels = (images.read(np.arange(len(images))).images_BCHW.float() / 255 - 0.5) / 0.25
    network = whole_network(config.run_dir)
    found = {"back": network(pixels).softmax(1)}
    if config.method == "hierarchical":
        task_exit = smartedge.TaskExit((8, 8, 8), 2, width=8, depth=1).eval()
        task_exit.load_state_dict(load_file(config.run_dir / "edge" / "exit.safetensors"), strict=True)
        found["exit"] = task_exit(network.stage1(pixels)).softmax(1)
    return found


@pytest.mark.parametrize(("method", "schedule"), RUNS)
def test_figures_are_those_of_the_final_weights_on_images_as_they_are(run_of, method, schedule):
    config, _, _ = run_of(method, schedule)
    told = load_file(config.run_dir / "predictions.safetensors")
    expected = answers(config, "test")
    assert expected.keys() == told.keys() - {"ids", "labels"}
    places = np.searchsorted(open_data(config, Quiet()).splits["test"].ids, told["ids"].numpy())
    for head, scores in expected.items():
        torch.testing.assert_close(told[head], scores[places].to(told[head].dtype), rtol=0, atol=1e-5)

    rows = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    for split in ("val", "test"):
        labels = torch.as_tensor(open_data(config, Quiet()).splits[split].labels)
        for head, scores in answers(config, split).items():
            side = "edge" if head == "exit" or method == "local" else "cloud"
            row = next(row for row in reversed(rows) if (row["side"], row["split"]) == (side, split))
            loss = -scores[torch.arange(len(labels)), labels].log().mean().item()
            assert row["loss"] == pytest.approx(loss, abs=1e-4), (head, split)
            assert row["accuracy"] == pytest.approx((scores.argmax(1) == labels).float().mean().item())


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ("joint", {"train": 12}),
        ("two-stage", {"train": 12, "release train": 12, "release val": 4, "release test": 3}),
        ("freeze-and-log", {"train": 12, "release train": 6, "release val": 2, "release test": 3}),
    ],
)
def test_progress_goes_through_all_steps_of_a_phase(run_of, schedule, steps):
    """96 + 20 + 40 images in batches of 16; the test images are sent in the last epoch alone."""
    _, _, phases = run_of("hierarchical", schedule)
    assert phases.seen.keys() == steps.keys()
    for phase, total in steps.items():
        done = [each for each, of in phases.seen[phase] if of == total]
        assert len(done) == len(phases.seen[phase]), phase
        assert done == (list(range(1, total + 1)) if phase != "train" else [4, 8, 12]), phase


@pytest.mark.parametrize(("method", "schedule"), RUNS[:-1])
def test_bytes_and_images_are_counted_once_under_their_split(run_of, method, schedule):
    config, watch, _ = run_of(method, schedule)
    traffic = json.loads((config.run_dir / "edge" / "summary.json").read_text())["traffic"]
    assert set(watch.frames) == {"train", "val", "test"}
    for split, frames in watch.frames.items():
        payload = sum(len(frame.batch.payload) for frame in frames)
        streams = sum(header.split == split for header in watch.streams)
        # Ids, labels and the form of the message: less than 1500 bytes a frame, and of the header a stream.
        assert 0 < traffic["up"][split] - payload < 1500 * len(frames) + 3000 * streams
        assert traffic["images"][split] == sum(len(frame.batch.ids) for frame in frames)
        gradients = payload if method == "split" and split == "train" else 0
        assert 0 <= traffic["down"].get(split, 0) - gradients <= (1500 * len(frames) if gradients else 0)
    results = json.loads((config.run_dir / "results.json").read_text())
    assert results["bytes_total"] == {way: sum(traffic[way].values()) for way in ("up", "down")}
    sent = traffic["images"]["train"]
    assert results["bytes_per_image"]["up"] == pytest.approx(traffic["up"]["train"] / sent)
    assert results["bytes_per_image"]["down"] == pytest.approx(traffic["down"]["train"] / sent)
    # The sides take turns here, so that no second is told twice.
    assert sum(results["stage_seconds"].values()) * config.epochs <= results["seconds_total"]
