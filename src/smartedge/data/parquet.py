"""Hugging Face `datasets` parquet files: an image column, other columns are attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smartedge.data.raw import SPLIT_NAMES, Images, Item, RawData, RawSplit
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["find_parquet", "open_parquet"]

_SPLIT_FILE = re.compile(rf"({'|'.join(SPLIT_NAMES)})([-_.].*)?\.parquet", re.IGNORECASE)
_ROWS = 256  # read at a time


def find_parquet(path: Path) -> dict[SplitName, list[Path]]:
    """The parquet files of a folder (or of its ``data`` folder) by split; files that name no split are training."""
    for folder in (path, path / "data"):
        files = sorted(folder.glob("*.parquet"))
        splits: dict[SplitName, list[Path]] = {}
        for file in files:
            if match := _SPLIT_FILE.fullmatch(file.name):
                splits.setdefault(SPLIT_NAMES[match[1].lower()], []).append(file)
        if splits or files:
            return splits or {"train": files}
    return {}


def open_parquet(name: str, files: Mapping[SplitName, Sequence[Path]]) -> RawData:
    """Open parquet files by split. The image column is a struct of ``bytes`` and ``path``, or plain bytes.

    Raises:
        DataError: a file cannot be read, has no image column, or has other columns than the first of its split.
    """
    class_names: dict[str, tuple[str, ...]] = {}
    splits: dict[SplitName, RawSplit] = {}
    for split, paths in files.items():
        schemas = [_schema(path) for path in paths]
        for path, schema in zip(paths, schemas, strict=True):
            if set(schema.names) != set(schemas[0].names):
                odd = sorted(set(schema.names) ^ set(schemas[0].names))
                raise DataError(f"{path} and {paths[0]} belong to one split but differ in columns: {', '.join(odd)}")
        image = _image_column(schemas[0], paths[0])
        class_names.update(_class_names(schemas[0]))
        count = sum(_opened(path).metadata.num_rows for path in paths)
        images = Images(count, key=f"parquet {image}", items=partial(_items, paths, image), files=paths)
        columns = tuple(column for column in schemas[0].names if column != image)
        splits[split] = RawSplit(images, columns, partial(_read, paths))
    return RawData(name, splits, class_names)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file that can be read: {error}") from error


def _schema(path: Path) -> pa.Schema:
    with _opened(path) as file:
        return file.schema_arrow


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata say of the columns; nothing where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: feature for column, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    return {
        column: tuple(map(str, feature["names"]))
        for column, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _image_column(schema: pa.Schema, path: Path) -> str:
    """The column that the metadata call an image, else the one of that name, else the only one that can hold images."""

    def holds_images(column: str) -> bool:
        kind = schema.field(column).type
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    marked = [column for column, feature in _features(schema).items() if feature.get("_type") == "Image"]
    for column in (*marked, "image", "img"):
        if column in schema.names and holds_images(column):
            return column
    candidates: list[str] = [column for column in schema.names if holds_images(column)]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"{path} has no column that is known to hold images: call it 'image' and make it a struct of 'bytes' and "
        f"'path' (or plain encoded bytes). Its columns are: {', '.join(schema.names)}"
    )


def _read(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    try:
        tables = [pq.ParquetFile(path).read(columns=list(columns)) for path in paths]
        return pa.concat_tables([table.replace_schema_metadata() for table in tables], promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"column {', '.join(columns)} of {paths[0].parent} cannot be read: {error}") from error


def _items(paths: Sequence[Path], image: str) -> Iterator[Item]:
    for path in paths:
        with _opened(path) as file:
            try:
                for rows in file.iter_batches(batch_size=_ROWS, columns=[image]):
                    for value in rows.column(0).to_pylist():
                        yield _item(value, path.parent)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"the images of {path} cannot be read: {error}") from error


def _item(value: dict[str, Any] | bytes | None, folder: Path) -> Item:
    if isinstance(value, dict):
        encoded: bytes | None = value["bytes"]
        return folder / value["path"] if encoded is None and value.get("path") else encoded
    return value
