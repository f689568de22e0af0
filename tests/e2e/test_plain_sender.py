"""A program that uses nothing of smartedge feeds a cloud, and the cloud trains to its end on what it sent."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from pathlib import Path

from smartedge.artifacts.summary import has_finished
from smartedge.config import load_config
from smartedge.runs.progress import Quiet, Update
from smartedge.training import run_cloud

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_sender.py"


class Ports(Quiet):
    """Tells where the cloud listens."""

    def __init__(self) -> None:
        self.port = 0
        self.listens = threading.Event()

    def update(self, update: Update) -> None:
        if update.port:
            self.port = update.port
            self.listens.set()


def test_a_cloud_trains_on_what_a_plain_program_sends(tmp_path: Path) -> None:
    config = load_config(
        {
            "run_dir": str(tmp_path / "run"),
            "schedule": "freeze-and-log",
            "epochs": 1,
            "data": {"image_size": 32},
            "model": {"name": "narrow:build", "cut": "layer3", "bottleneck": None},
            "train": {"batch_size": 4},
            "codec": {"name": "float32"},
            "hardware": {"cloud_device": "cpu", "threads": 1},
        }
    )
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(config.agreement()))
    watch = Ports()
    ended: list[bool] = []
    cloud = threading.Thread(target=lambda: ended.append(run_cloud(config, "127.0.0.1", 0, watch)))
    cloud.start()
    assert watch.listens.wait(timeout=60)
    sent = subprocess.run(
        [sys.executable, EXAMPLE, f"127.0.0.1:{watch.port}", settings], capture_output=True, text=True, timeout=120
    )
    cloud.join(timeout=120)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.splitlines()[-1] == "test: confirmed, 0804", "field 1 is 4: frames 0 to 3 are durable"
    assert ended == [True] and has_finished(config.run_dir / "cloud")


def test_it_imports_nothing_of_ours() -> None:
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(EXAMPLE.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"__future__", "argparse", "json", "struct", "collections.abc", "pathlib", "grpc", "numpy"}
