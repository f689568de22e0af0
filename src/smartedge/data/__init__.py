"""Opens a data set by name or path, and gives uint8 images and labels in batches."""

from __future__ import annotations

from smartedge.augment import augment
from smartedge.data.dataset import DataSet, Split
from smartedge.data.loader import Batches, batches
from smartedge.data.shards import shard
from smartedge.data.sources import open_dataset

__all__ = ["Batches", "DataSet", "Split", "augment", "batches", "open_dataset", "shard"]
