"""The names that people import, pinned."""

from __future__ import annotations

from importlib.metadata import version

import smartedge


def test_public_names():
    assert smartedge.__all__ == [
        "Compress",
        "Config",
        "Cut",
        "Expand",
        "SmartEdgeError",
        "TaskExit",
        "audit",
        "cloud_forward",
        "cloud_step",
        "cut",
        "edge_forward",
        "edge_step",
        "get_codec",
        "list_cuts",
        "load_config",
        "merge_state_dicts",
        "pack",
        "release",
        "train",
        "unpack",
        "write_report",
    ]
    assert all(getattr(smartedge, name) is not None for name in smartedge.__all__)


def test_the_version_is_the_installed_one():
    assert smartedge.__version__ == version("smartedge")
