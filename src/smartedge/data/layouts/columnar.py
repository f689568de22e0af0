"""Tables in the layout of Hugging Face's `datasets`: an image column; other columns are attributes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from smartedge.data.layouts.listing import FilesBySplit, find_files
from smartedge.data.layouts.stored import ARROW, PARQUET, RowGroup, StoredTable, open_table
from smartedge.data.layouts.tables import FILE_COLUMN
from smartedge.data.raw import Images, RawData, RawSplit, slices
from smartedge.data.reading.readers import Block, InBlocks
from smartedge.errors import DataError, list_some
from smartedge.images.decode import Item, looks_like_base64
from smartedge.types import SplitName

__all__ = ["find_tables", "open_tables"]

_AGAIN = "; fetch or write the file again"
_ROWS = 16  # read at a time: images may be large
_MOST_ROWS, _AT_ONCE_BYTES = 1024, 2**20  # of small images more are read at a time


def find_tables(path: Path) -> FilesBySplit:
    """The Parquet files of a folder, or else its Arrow files (see :func:`~smartedge.data.layouts.listing.find_files`).

    Raises:
        DataError: a file of a series is missing, or `datasets` keeps the rows' order in a file of its own.
    """
    found = find_files(path, PARQUET)
    if found.splits:
        return found
    found = find_files(path, ARROW)
    for folder in {file.parent for files in found.splits.values() for file in files}:
        _refuse_indices(folder / "state.json")
    return found


def _images(root: Path, paths: Sequence[Path], tables: Sequence[StoredTable], image: str) -> Images:
    named = [list(_referenced(root, path, table, image)) for path, table in zip(paths, tables, strict=True)]
    parts = [
        Images(
            sum(table.rows for table in tables[part]),
            key=f"parquet {image}",
            items=partial(_items, root, paths[part], image),
            files=[*paths[part], *itertools.chain.from_iterable(named[part])],
            reader=partial(_reader, root, paths[part], image),
        )
        for part in slices(len(paths))
    ]
    return Images(
        sum(part.count for part in parts),
        key=f"parquet {image}",
        items=partial(_items, root, paths, image),
        files=[file for part in parts for file in part.files],
        name_of=partial(_place_of, paths),
        reader=partial(_reader, root, paths, image),
        parts=parts,
    )


def _refuse_indices(state: Path) -> None:
    """Refuse a folder of `datasets` before 2.0 that keeps which rows belong to it beside the rows."""
    try:
        apart = json.loads(state.read_text(encoding="utf-8")).get("_indices_data_files")
    except (OSError, ValueError, AttributeError):
        return
    if apart:
        raise DataError(
            f"{state} says that the order of the rows lies in a file of its own, which is not read here; open the data "
            "set with 'datasets', and save it again after flatten_indices()"
        )


def open_tables(name: str, root: Path, files: Mapping[SplitName, Sequence[Path]], notes: Sequence[str] = ()) -> RawData:
    """Open Parquet or Arrow files by split. The image column is a struct of ``bytes`` and ``path``, or plain bytes.

    A row without bytes names an image file, relative to the table. The file must lie below ``root``, the folder of the
    data set: a table that a stranger wrote could name any file of this machine.

    Raises:
        DataError: a file cannot be read, has no image column, has other columns than the first of its split, or gives
            the classes of a column other names than another file. While images are read: a row names an image file
            outside ``root``.
    """
    splits: dict[SplitName, RawSplit] = {}
    named: dict[str, dict[tuple[str, ...], Path]] = {}
    for split, paths in files.items():
        tables = [open_table(path) for path in paths]
        schemas = [table.schema for table in tables]
        for path, schema in zip(paths, schemas, strict=True):
            if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
                raise DataError(f"{path} has more than one column {', '.join(map(repr, twice))}; rename one")
            if set(schema.names) != set(schemas[0].names):
                odd = sorted(set(schema.names) ^ set(schemas[0].names))
                raise DataError(f"{path} and {paths[0]} belong to one split but differ in columns: {', '.join(odd)}")
            for column, classes in _class_names(schema).items():
                named.setdefault(column, {}).setdefault(classes, path)
        image = _image_column(schemas[0], paths[0])
        images = _images(root, paths, tables, image)
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
        if feature.get("_type") == "ClassLabel" and feature.get("names") and isinstance(feature["names"], list)
    }


def _image_column(schema: pa.Schema, path: Path) -> str:
    """The column that the metadata call an image, else the one of that name, else the only one that can hold images.

    Texts are names of image files, in a column that is called so.
    """
    marked = [column for column, feature in _features(schema).items() if feature.get("_type") == "Image"]
    named = [column for column in (*marked, "image", "img") if column in schema.names]
    for column in named:
        if _holds_images(schema.field(column).type):
            return column
    candidates: list[str] = [column for column in schema.names if _holds_images(schema.field(column).type)]
    if len(candidates) == 1:
        return candidates[0]
    for column in (*named, FILE_COLUMN):
        if column in schema.names and _is_text(schema.field(column).type):
            return column
    found = f" {named[0]!r} is of type {schema.field(named[0]).type}." if named else ""
    if candidates:
        found = f" {' and '.join(candidates)} could be it: rename one of them."
    raise DataError(
        f"{path} has no column that is known to hold images: call it 'image' and make it a struct of 'bytes' and "
        f"'path' (or plain encoded bytes, or names of files).{found} Its columns are: {', '.join(schema.names)}"
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    plain = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_so(kind) for is_so in plain)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _read(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    try:
        tables = [open_table(path).read(columns) for path in paths]
        return pa.concat_tables([table.replace_schema_metadata() for table in tables], promote_options="permissive")
    except (pa.ArrowException, OSError) as error:
        remedy = ". It needs one type in all files" if isinstance(error, pa.ArrowException) else _AGAIN
        raise DataError(f"column {', '.join(columns)} of {paths[0].parent} cannot be read: {error}{remedy}") from error


def _items(root: Path, paths: Sequence[Path], image: str) -> Iterator[Item]:
    for path in paths:
        try:
            for rows in open_table(path).batches([image], _ROWS):
                for value in rows.column(0):
                    yield _item(value.as_py(), path, root)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"the images of {path} cannot be read: {error}{_AGAIN}") from error


def _reader(root: Path, paths: Sequence[Path], image: str) -> InBlocks:
    """By row groups of Parquet files, and record batches of Arrow files."""
    blocks = []
    for path in paths:
        blocks += [
            Block(group.rows, partial(_items_of_group, root, path, group, image), group.bytes)
            for group in open_table(path).groups()
        ]
    return InBlocks(blocks)


def _items_of_group(root: Path, path: Path, group: RowGroup, image: str) -> Iterator[Item]:
    each = max(1, group.bytes // max(1, group.rows))
    rows = min(max(_AT_ONCE_BYTES // each, _ROWS), _MOST_ROWS)
    try:
        for values in group.values(image, rows):
            yield from (_item(value, path, root) for value in values.to_pylist())
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        raise DataError(f"the images of {path} cannot be read: {error}{_AGAIN}") from error


def _place_of(paths: Sequence[Path], row: int) -> str:
    """File and row of an image, for messages."""
    for path in paths:
        rows = open_table(path).rows
        if row < rows:
            return f"{path}, row {row}"
        row -= rows
    raise IndexError(row)


def _referenced(root: Path, path: Path, table: StoredTable, image: str) -> Iterator[Path]:
    """The files of images that are named by path. Their time of change is part of what identifies the images."""
    kind = table.schema.field(image).type
    if _is_text(kind):
        columns: Iterator[pa.Array] = (rows.column(0) for rows in table.batches([image], 2**16))
    elif pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and not table.all_embedded(image):
        columns = table.fields(image, "path")
    else:
        return
    for names in columns:
        for name in names.to_pylist():
            place = _place(path, name, root) if name else None
            if place is not None and os.path.isfile(
                place
            ):  # Path.is_file() stops at a text that is too long for a name
                yield place


def _place(path: Path, name: str, root: Path) -> Path | None:
    """The file that a row of a table names; None where it lies outside ``root``."""
    place = Path(os.path.abspath(path.parent / name))
    return place if place.is_relative_to(os.path.abspath(root)) else None


def _item(value: dict[str, Any] | bytes | str | None, path: Path, root: Path) -> Item:
    if isinstance(value, dict):
        encoded: bytes | None = value["bytes"]
        value = value.get("path") if encoded is None else encoded
    if not isinstance(value, str) or not value:
        return value or None
    if looks_like_base64(value):
        raise DataError(f"{path}: a row holds a text in base64, and no file's name; write the decoded bytes")
    if (place := _place(path, value, root)) is None:
        raise DataError(
            f"{path}: a row holds no image, and names the file {value!r}, which lies outside {root}. Files elsewhere "
            f"are not read, because a table from a stranger could name any of them: put the images below {root}, or a "
            "symbolic link to their folder, and name them as they are there"
        )
    return place
