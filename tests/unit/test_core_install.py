"""An edge device installs the core only: nothing outside the report may need an extra when it is imported."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import importlib, pkgutil, sys
extras = ("torchvision", "timm", "matplotlib", "jinja2", "tensorboard", "sklearn", "scipy", "cryptography", "raptorq",
    "onnx", "onnxruntime", "av", "nats")
for extra in extras:
    sys.modules[extra] = None  # importing it raises ModuleNotFoundError
import smartedge
for module in pkgutil.walk_packages(smartedge.__path__, "smartedge."):
    if module.name == "smartedge.fronts.runtime":
        continue  # of the extra "front"
    if not module.name.startswith("smartedge.lab.report") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_module_but_the_report_imports_without_the_extras() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
