"""Train vision networks across an edge device and a cloud server: images stay, features travel, nothing comes back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartedge.codec import get_codec, pack, unpack
    from smartedge.config import Config, load_config
    from smartedge.errors import SmartEdgeError
    from smartedge.lab.audit.features.run import audit
    from smartedge.lab.report import write_report
    from smartedge.methods.back_step import cloud_forward, cloud_step
    from smartedge.methods.front_step import edge_forward, edge_step
    from smartedge.models.bottleneck import Compress, Expand
    from smartedge.models.cutting.cut import Cut, cut, list_cuts, merge_state_dicts
    from smartedge.models.exits import TaskExit
    from smartedge.privacy.release import release
    from smartedge.training import train

# Public name -> module. Imported at first use, so that `import smartedge` costs nothing.
_PUBLIC = {
    "Compress": "models.bottleneck",
    "Config": "config",
    "Cut": "models.cutting.cut",
    "Expand": "models.bottleneck",
    "SmartEdgeError": "errors",
    "TaskExit": "models.exits",
    "audit": "lab.audit.features.run",
    "cloud_forward": "methods.back_step",
    "cloud_step": "methods.back_step",
    "cut": "models.cutting.cut",
    "edge_forward": "methods.front_step",
    "edge_step": "methods.front_step",
    "get_codec": "codec",
    "list_cuts": "models.cutting.cut",
    "load_config": "config",
    "merge_state_dicts": "models.cutting.cut",
    "pack": "codec",
    "release": "privacy.release",
    "train": "training",
    "unpack": "codec",
    "write_report": "lab.report",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and rarely needed

        return version("smartedge")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'smartedge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"smartedge.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
