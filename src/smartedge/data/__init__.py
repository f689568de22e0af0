"""Data sets, their labels, and the images of their splits.

``opening`` opens a data set for a run. ``sources`` finds which of the ``layouts/`` it has, ``raw`` is what all of them
are opened into. ``labels`` makes tasks of columns, ``suspect`` refuses values that mean something else. ``dividing``
and ``selection`` choose the images of each split, ``reading/`` decodes them, ``dataset`` is the result. ``columns``
are further labels, for an audit. ``hidden`` and ``label_order`` warn where a sensitive label could not be hidden.
``shards`` divides a data set among the edges of a trial. ``drawn/`` is the embedded one.
"""

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
