"""An edge that trains leaves torch's compiler and the library of its network to another process."""

from __future__ import annotations

import json
import subprocess
import sys

from forked import Popen

EDGE = """
import json, sys
from smartedge.cli.app import main
code = main(sys.argv[1:])
print(json.dumps([name for name in ("torch", "torch._dynamo", "sympy", "torchvision") if name in sys.modules]))
sys.exit(code)
"""


def test_an_edge_that_trains_imports_neither_compiler_nor_library(tiny_config, tmp_path):
    settings = tmp_path / "run.yaml"
    settings.write_text(tiny_config("run", epochs=1, model={"name": "resnet18", "cut": "layer1"}).to_yaml())
    cloud = Popen(
        [sys.executable, "-m", "smartedge", "cloud", str(settings), "--listen", "127.0.0.1:0", "--progress", "json"],
        stdout=subprocess.PIPE,
    )
    try:
        port = json.loads(cloud.stdout.readline())["port"]
        edge = [sys.executable, "-c", EDGE, "edge", str(settings), "--connect", f"127.0.0.1:{port}"]
        done = subprocess.run([*edge, "--progress", "json"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == ["torch"]
        assert cloud.wait(timeout=60) == 0
    finally:
        cloud.kill()
        cloud.stdout.close()
