"""What a small process does not load: each list is imported in a fresh interpreter."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import smartedge.artifacts
import smartedge.codec
import smartedge.framelog
import smartedge.privacy
import smartedge.wire

PARTS = (smartedge.artifacts, smartedge.codec, smartedge.framelog, smartedge.privacy, smartedge.wire)
SENDING = (
    "smartedge.types",
    "smartedge.errors",
    "smartedge.metrics",
    "smartedge.files",
    "smartedge.edge.sender",
    *(found.name for part in PARTS for found in pkgutil.walk_packages(part.__path__, f"{part.__name__}.")),
)
LOG = tuple(found.name for found in pkgutil.walk_packages(smartedge.framelog.__path__, "smartedge.framelog."))
RUNNER = ("smartedge.edge.runner",)
RELEASING = (
    "smartedge.cli.edge",
    "smartedge.cli.infer",
    "smartedge.edge.releasing",
    "smartedge.fronts.runtime",
    "smartedge.inference.answering",
    "smartedge.inference.calibrating",
    "smartedge.inference.sources",
    "smartedge.training",
    "smartedge.wire.grpc_link",
)
ANSWERING = tuple(
    name for name in RELEASING if name not in ("smartedge.cli.edge", "smartedge.edge.releasing", "smartedge.training")
)


def loaded_by(modules: tuple[str, ...]) -> set[str]:
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(found.stdout))


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (SENDING, ("torch", "torchvision", "timm", "matplotlib", "jinja2", "sklearn", "scipy")),
        (RELEASING, ("torch", "pyarrow", "safetensors", "scipy", "dp_accounting", "timm", "torchvision", "rich")),
        (RELEASING, ("yaml", "http.server", "difflib")),
        (ANSWERING, ("smartedge.artifacts.results", "smartedge.artifacts.run")),
        (LOG, ("torch", "numpy", "pyarrow", "pydantic")),
        (RUNNER, ("smartedge.lab", "matplotlib", "jinja2", "sklearn", "scipy")),
    ],
    ids=[
        "the sending path needs no torch",
        "an edge with a published front needs no torch",
        "it needs no YAML, no HTTP server and no guesses at misspelt names",
        "an edge that only answers needs no model of a run's files",
        "the log needs the standard library alone",
        "the edge's runner needs no laboratory",
    ],
)
def test_heavy_packages_are_not_loaded(modules: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    loaded = loaded_by(modules)
    assert set(modules) <= loaded
    assert {name for name in heavy if name in loaded} == set()


def test_all_of_the_sending_path_is_looked_at() -> None:
    assert {"smartedge.privacy.mechanisms.additive", "smartedge.codec.quantise", "smartedge.wire.grpc_link"} <= set(
        SENDING
    )
