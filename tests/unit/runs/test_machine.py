"""What is noted of the machine."""

from __future__ import annotations

import io
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from smartedge.artifacts.results import WeightsFacts
from smartedge.errors import ConfigError
from smartedge.models.zoo.weights import Loaded, Pixels, Rescale
from smartedge.runs import machine
from smartedge.runs.machine import describe_machine, peak_rss_bytes, pick_device, rss_bytes, versions
from smartedge.runs.pictures import as_pictures
from smartedge.runs.weights_facts import weights_facts


def test_memory_is_in_bytes() -> None:
    """This process has torch, of which 50 MB are too few by far, and 100 GB too many."""
    peak = peak_rss_bytes()
    assert peak is not None and 5e7 < rss_bytes() <= 1.1 * peak < 1e11


def test_the_gpu_is_known_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path)
    assert "gpu" not in describe_machine()
    (tmp_path / "0000:03:00.0").mkdir()
    (tmp_path / "0000:03:00.0" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 24\n")
    assert describe_machine()["gpu"] == "NVIDIA H100 80GB HBM3"
    assert "torch" not in sys.modules


def test_a_run_is_prepared_without_torch(tmp_path: Path) -> None:
    """The process that starts both sides waits for them; a second of importing torch would be added to every run."""
    program = (
        "import sys; sys.modules['torch'] = None; from smartedge import training\n"
        "def run_both(config, *_, **__): print((config.run_dir / 'run.json').exists()); sys.exit()\n"
        "training.run_both = run_both\n"
        f"training.train({{'data': {{'path': 'drawn', 'desired': 'smile'}}, 'run_dir': {str(tmp_path / 'run')!r}}})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor : 0\nmodel name\t: Fast CPU: v2 \nmodel name: other\n", "Fast CPU: v2"),
        ("Hardware: x\nModel\t\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
        ("processor : 0\n", "by the system"),
        (None, "by the system"),
    ],
)
def test_the_processor_has_the_name_that_linux_gives_it(
    text: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(file: str, encoding: str) -> io.StringIO:
        assert (file, encoding) == ("/proc/cpuinfo", "utf-8")
        if text is None:
            raise FileNotFoundError
        return io.StringIO(text)

    monkeypatch.setattr(machine, "open", opened, raising=False)
    monkeypatch.setattr(machine.platform, "processor", lambda: "by the system")
    assert describe_machine()["processor"] == name
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert describe_machine()["processor"] == (name if name != "by the system" else "unknown")


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_fastest_device_that_is_here_is_taken(
    cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto", "hardware.edge_device").type == chosen
    assert pick_device("cpu", "hardware.edge_device").type == "cpu"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gpu:0", "torch calls a GPU of NVIDIA or AMD 'cuda'"), ("nvidia", "torch calls a GPU"), ("abacus", "abacus")],
)
def test_a_device_that_is_not_here_is_named_with_its_setting(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^hardware\.edge_device: '{name}' is not usable here \(.*{reason}") as told:
        pick_device(name, "hardware.edge_device")
    assert str(told.value).endswith("; use 'cpu' or 'auto'") and "\n" not in str(told.value)


def test_versions_are_those_of_packages_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PACKAGES", ("no-such-package", "numpy"))
    assert versions() == {"python": platform.python_version(), "numpy": np.__version__}


def test_weights_of_a_run_are_told_as_they_were_loaded() -> None:
    assert weights_facts([torch.nn.Linear(1, 1)]) is None
    loaded = Loaded("timm", 7, ("fc",), Pixels((0.1,), (0.2,)), 224, ("a note",))
    part = Rescale(loaded.pixels, loaded)
    found = weights_facts([torch.nn.Linear(1, 1), torch.nn.Sequential(part)])
    assert found == WeightsFacts(
        source="timm", tensors=7, replaced=("fc",), image_size=224, mean=(0.1,), std=(0.2,), notes=("a note",)
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_channels_are_shown_in_three(channels: int) -> None:
    images_BCHW = torch.arange(2 * channels * 4, dtype=torch.uint8).reshape(2, channels, 2, 2)
    shown = as_pictures(images_BCHW)
    for channel in range(3):
        assert torch.equal(shown[:, channel], images_BCHW[:, channel if channels >= 3 else 0])
    assert shown.shape == (2, 3, 2, 2)
