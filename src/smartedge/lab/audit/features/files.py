"""Reads features from a file: ``.npz``, ``.safetensors`` or Parquet. Nothing in a file is ever run.

Only the arrays that are asked for are read, and only where they leave room: a small file may hold very much.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from smartedge.errors import ConfigError, DataError
from smartedge.lab.audit.features.table import FeatureTable, table_of

__all__ = ["read_table"]

_FEATURES, _NAMED = "features", ("labels", "persons", "splits")
_SHARE = 4  # an audit needs about so many times the memory that the features take
_NUMBER = 4  # bytes of a number, at least
Arrays = dict[str, NDArray[np.generic]]
Choice = Callable[[Sequence[str]], list[str]]  # of a file's arrays: those to be read


def read_table(path: Path, *, attributes: Sequence[str] | None = None, seed: int = 0) -> FeatureTable:
    """Read a file with the arrays (columns) ``features`` and, where wanted, ``labels``, ``persons`` and ``splits``.

    All other arrays with one value for each image are sensitive columns. In Parquet the features are a column of lists,
    nested for maps.

    Args:
        path: the file; its ending says its format.
        attributes: the sensitive columns; None: all. ``("labels",)`` is allowed: how well attackers read the label.
        seed: seed of splits that are made.

    Raises:
        DataError: the file or an array cannot be used.
        ConfigError: a column that was named is not there.
    """
    readers: dict[str, Callable[[Path, Choice], Arrays]] = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: features are read from .npz, .safetensors or .parquet files")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")

    def chosen(names: Sequence[str]) -> list[str]:
        if _FEATURES not in names:
            raise DataError(f"{path}: has no array 'features'. It holds: {', '.join(sorted(names)) or 'nothing'}")
        columns = [name for name in names if name not in (_FEATURES, *_NAMED)]
        if unknown := [name for name in attributes or () if name not in (*columns, "labels")]:
            raise ConfigError(
                f"--attributes: {path} has no column {unknown[0]!r}. Its columns are: {', '.join(columns) or 'none'}"
            )
        wanted = {_FEATURES, *_NAMED, *(attributes or columns)}
        return [name for name in names if name in wanted]

    arrays = readers[path.suffix](path, chosen)
    columns = [name for name in arrays if name not in (_FEATURES, *_NAMED)]
    try:
        return table_of(
            arrays[_FEATURES],
            sensitive={name: arrays[name] for name in attributes or columns},
            labels=arrays.get("labels"),
            persons=arrays.get("persons"),
            splits=arrays.get("splits"),
            seed=seed,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_npz(path: Path, chosen: Choice) -> Arrays:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no zip archive")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = chosen(arrays.files)
            members = [each for each in arrays.zip.infolist() if each.filename.removesuffix(".npy") in names]
            _refuse_large(path, sum(each.file_size for each in members))
            return {name: arrays[name] for name in names}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{path}: holds Python objects (pickled), which are never loaded, since loading them could run code; "
                "save plain arrays of numbers or texts, such as np.array(values) of one type"
            ) from error
        raise DataError(f"{path}: is not an .npz file that can be read: {error}") from error
    except (OSError, EOFError, MemoryError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is not an .npz file that can be read: {error}") from error


def _read_safetensors(path: Path, chosen: Choice) -> Arrays:
    try:
        with safe_open(path, "pt") as tensors:
            names = chosen(list(tensors.keys()))
            _refuse_large(path, sum(_NUMBER * math.prod(tensors.get_slice(name).get_shape()) for name in names))
            found = {name: tensors.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: is not a .safetensors file that can be read: {error}") from error
    return {name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in found.items()}


def _read_parquet(path: Path, chosen: Choice) -> Arrays:
    try:
        with pq.ParquetFile(path) as file:
            names = chosen(file.schema_arrow.names)
            facts = file.metadata
        chunks = [
            chunk
            for group in range(facts.num_row_groups)
            for chunk in map(facts.row_group(group).column, range(facts.num_columns))
            if chunk.path_in_schema.partition(".")[0] in names
        ]
        _refuse_large(path, sum(max(_NUMBER * each.num_values, each.total_uncompressed_size) for each in chunks))
        # A text that many images share is read once.
        with pq.ParquetFile(path, read_dictionary=[name for name in names if name != _FEATURES]) as file:
            table = file.read(names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is not a Parquet file that can be read: {error}") from error
    return {
        name: _nested(path, column) if name == _FEATURES else _plain(column)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _refuse_large(path: Path, size: int) -> None:
    """Refuse what would not fit into the memory, before it is read."""
    if size > (most := psutil.virtual_memory().total // _SHARE):
        raise DataError(
            f"{path}: its arrays take {size / 1e9:.1f} GB of memory, and this machine has room for an audit of "
            f"{most / 1e9:.1f} GB; give fewer images or columns (--attributes names the columns to read)"
        )


def _plain(column: pa.ChunkedArray) -> NDArray[np.generic]:
    """A column with one value for each image. Decimals become float64: arrays have none. Equal texts are one object."""
    if pa.types.is_dictionary(column.type):
        texts: list[object] = []
        for chunk in column.chunks:
            different = [*chunk.dictionary.to_pylist(), None]
            texts += [different[place] for place in chunk.indices.fill_null(-1).to_pylist()]
        return np.array(texts, dtype=object)
    return np.asarray((column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column).to_numpy())


def _nested(path: Path, column: pa.ChunkedArray) -> NDArray[np.generic]:
    """A column of lists of one length, nested to any depth, as one array (N, *F)."""
    values, shape = column.combine_chunks(), [len(column)]
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(is_kind(values.type) for is_kind in kinds):
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise DataError(f"{path}: the lists in the column 'features' are not all of one length")
        shape.append(lengths.pop())
        values = values.flatten()
    if values.null_count:
        raise DataError(f"{path}: the column 'features' has missing numbers; leave these images out")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)
