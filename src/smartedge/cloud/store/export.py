"""Writes the images of feature logs as one Parquet file, which Arrow, Polars, pandas and DuckDB open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smartedge.cloud.store.feature_log import FeatureReader
from smartedge.codec import unpack
from smartedge.errors import LogError
from smartedge.files import disk_error, replacing
from smartedge.types import BLANK, FeatureBatch, StreamHeader

__all__ = ["SCHEMA", "export_images"]

SCHEMA = pa.schema(
    [
        pa.field("edge", pa.string(), nullable=False),
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.int64(), nullable=False),  # the id that the edge gave it
        pa.field("labels", pa.list_(pa.int64()), nullable=False),  # one class, or a 0, 1 or 2 (lacking) for each column
        pa.field("shape", pa.list_(pa.int64()), nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),  # decoded, in row-major order
    ]
)


def export_images(logs: Sequence[FeatureReader], file: Path) -> int:
    """Write one row for each image of all logs; returns how many. The file is put in place whole or not at all.

    Raises:
        LogError: a frame is damaged, or the disk does not take the file.
    """
    images = 0
    try:
        with replacing(file) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
            for log in logs:
                for frame in log.frames():
                    header = log.header_of(frame.seq)
                    batch = unpack(frame.batch, header)
                    writer.write_table(_table(log.edge, frame.seq, header, batch))
                    images += len(batch.ids)
    except OSError as error:
        raise LogError(f"{file}: cannot be written: {disk_error(error)}") from error
    return images


def _table(edge: str, seq: int, header: StreamHeader, batch: FeatureBatch) -> pa.Table:
    count = len(batch.ids)
    features = batch.features_BF.reshape(count, -1).astype("float32")
    columns = {
        "edge": [edge] * count,
        "frame": [seq] * count,
        "epoch": [header.epoch] * count,
        "split": [header.split] * count,
        "image": batch.ids,
        "labels": list(np.nan_to_num(batch.labels, nan=BLANK).reshape(count, -1).astype("int64")),
        "shape": [list(header.feature_shape)] * count,
        "features": list(features),
    }
    return pa.table(columns, schema=SCHEMA)
