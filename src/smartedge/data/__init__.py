"""Opens a data set by name or path, and gives uint8 images and labels in batches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartedge.data.dataset import DataSet, Split
    from smartedge.data.opening import open_dataset
    from smartedge.data.reading.loader import Batches, batches
    from smartedge.data.shards import shard

# Public name -> module. Imported at first use: to check a path and its columns needs no torch.
_PUBLIC = {
    "Batches": "data.reading.loader",
    "DataSet": "data.dataset",
    "Split": "data.dataset",
    "batches": "data.reading.loader",
    "open_dataset": "data.opening",
    "shard": "data.shards",
}

__all__ = ["Batches", "DataSet", "Split", "batches", "open_dataset", "shard"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'smartedge.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"smartedge.{_PUBLIC[name]}"), name)
