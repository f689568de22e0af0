"""Hugging Face `datasets` parquet files: an image column, other columns are attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from smartedge.data.raw import Images, RawData, RawSplit, list_some, refuse_lfs_pointer, split_in
from smartedge.decode import Item, is_hidden
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["ParquetFiles", "find_parquet", "open_parquet"]

_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)", re.IGNORECASE)
_ROWS = 16  # read at a time: images may be large


class ParquetFiles(NamedTuple):
    """Parquet files by split, and what the user should know about how they were divided."""

    splits: dict[SplitName, list[Path]]
    notes: tuple[str, ...]


def find_parquet(path: Path) -> ParquetFiles:
    """The parquet files of a folder: those in it, else in its folder ``data``, else one or two folders below it.

    A file belongs to the split that a word of its name names (``train-00000-of-00002.parquet``, ``my_test.parquet``),
    else to the one that a folder above it names. Where no file names a split, all are training.

    Raises:
        DataError: a file of a series such as ``train-00001-of-00003.parquet`` is missing.
    """
    for patterns in (("*",), ("data/*",), ("*/*", "*/*/*")):
        if files := _parquet_in(file for pattern in patterns for file in path.glob(pattern)):
            return _by_split(path, files)
    return ParquetFiles({}, ())


def _parquet_in(found: Iterable[Path]) -> list[Path]:
    return sorted(file for file in found if file.suffix.lower() == ".parquet" and not is_hidden(file))


def _by_split(root: Path, files: Sequence[Path]) -> ParquetFiles:
    _check_shards(files)
    splits: dict[SplitName, list[Path]] = {}
    unnamed: list[Path] = []
    for file in files:
        names = (file.stem, *reversed(file.relative_to(root).parts[:-1]))
        split = next((split for name in names if (split := split_in(name))), None)
        (unnamed if split is None else splits.setdefault(split, [])).append(file)
    listed = list_some(file.relative_to(root) for file in unnamed)
    if not splits:
        note = f"no file of {root} names a split, so all are training: {listed}"
        return ParquetFiles({"train": unnamed}, (note,) if len(unnamed) > 1 else ())
    return ParquetFiles(splits, (f"not used, because their names name no split: {listed}",) if unnamed else ())


def _check_shards(files: Sequence[Path]) -> None:
    """Refuse a series of files that is not complete."""
    series: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.stem):
            series.setdefault((file.parent, match[1], int(match[3])), set()).add(int(match[2]))
    for (folder, name, total), numbers in series.items():
        if absent := sorted(set(range(total)) - numbers):
            raise DataError(
                f"{folder}: of the {total} files {name}-*-of-{total:05d}.parquet, these numbers are missing: "
                f"{list_some(absent)}; fetch them, or give the others names without '-of-'"
            )


def open_parquet(name: str, files: Mapping[SplitName, Sequence[Path]], notes: Sequence[str] = ()) -> RawData:
    """Open parquet files by split. The image column is a struct of ``bytes`` and ``path``, or plain bytes.

    Raises:
        DataError: a file cannot be read, has no image column, has other columns than the first of its split, or gives
            the classes of a column other names than another file.
    """
    splits: dict[SplitName, RawSplit] = {}
    named: dict[str, dict[tuple[str, ...], Path]] = {}
    for split, paths in files.items():
        schemas = [_schema(path) for path in paths]
        for path, schema in zip(paths, schemas, strict=True):
            if set(schema.names) != set(schemas[0].names):
                odd = sorted(set(schema.names) ^ set(schemas[0].names))
                raise DataError(f"{path} and {paths[0]} belong to one split but differ in columns: {', '.join(odd)}")
            for column, classes in _class_names(schema).items():
                named.setdefault(column, {}).setdefault(classes, path)
        image = _image_column(schemas[0], paths[0])
        count = sum(_opened(path).metadata.num_rows for path in paths)
        sources = [*paths, *(file for path in paths for file in _referenced(path, image))]
        images = Images(
            count,
            key=f"parquet {image}",
            items=partial(_items, paths, image),
            files=sources,
            name_of=partial(_place_of, paths),
        )
        columns = tuple(column for column in schemas[0].names if column != image)
        splits[split] = RawSplit(images, columns, partial(_read, paths))
    for column, variants in named.items():
        if len(variants) > 1:
            (one, first), (other, second) = list(variants.items())[:2]
            raise DataError(
                f"one number means two classes of column {column!r}: {first} calls them {list_some(one)}; "
                f"{second} calls them {list_some(other)}; write both files with the same names in the same order"
            )
    class_names = {column: next(iter(variants)) for column, variants in named.items()}
    return RawData(name, splits, class_names, notes=tuple(notes))


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)  # not a whole row group at once
    except (pa.ArrowException, OSError) as error:
        refuse_lfs_pointer(path)
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
                for rows in file.iter_batches(batch_size=_ROWS, columns=[image], use_threads=False):
                    for value in rows.column(0):
                        yield _item(value.as_py(), path.parent)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"the images of {path} cannot be read: {error}") from error


def _place_of(paths: Sequence[Path], row: int) -> str:
    """File and row of an image, for messages."""
    for path in paths:
        rows = _opened(path).metadata.num_rows
        if row < rows:
            return f"{path}, row {row}"
        row -= rows
    raise IndexError(row)


def _referenced(path: Path, image: str) -> Iterator[Path]:
    """The files of images that are named by path. Their time of change is part of what identifies the images."""
    with _opened(path) as file:
        kind = file.schema_arrow.field(image).type
        if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0 or _all_embedded(file.metadata, image):
            return
        for rows in file.iter_batches(columns=[f"{image}.path"]):
            for value in rows.column(0).to_pylist():
                if value and value["path"] and (place := path.parent / value["path"]).is_file():
                    yield place


def _all_embedded(metadata: pq.FileMetaData, image: str) -> bool:
    """Whether the file's statistics say that every image's bytes are in it."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema == f"{image}.bytes":
                statistics = column.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return False
    return True


def _item(value: dict[str, Any] | bytes | None, folder: Path) -> Item:
    if isinstance(value, dict):
        encoded: bytes | None = value["bytes"]
        return folder / value["path"] if encoded is None and value.get("path") else encoded
    return value
