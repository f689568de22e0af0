"""Tables on disk, read a few rows at a time: Parquet files, Arrow files, and the Arrow streams of `datasets`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from smartedge.data.raw import refuse_lfs_pointer
from smartedge.errors import DataError

__all__ = ["ARROW", "PARQUET", "RowGroup", "StoredTable", "open_table"]

PARQUET = frozenset({".parquet"})
ARROW = frozenset({".arrow", ".feather"})
_MAGIC = b"ARROW1"  # of an Arrow file; a stream has none


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file, or a record batch of Arrow.

    Attributes:
        rows: how many it has.
        bytes: its size in memory, about.
        values: a column and a number of rows → that column, so many rows at a time or fewer. The file is opened for it.
    """

    rows: int
    bytes: int
    values: Callable[[str, int], Iterator[pa.Array]]


class StoredTable(ABC):
    """A table on disk.

    Attributes:
        schema: its columns, with their metadata.
        rows: how many it has.
    """

    schema: pa.Schema
    rows: int

    @abstractmethod
    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """All rows of some columns, ``rows`` at a time or fewer."""

    @abstractmethod
    def groups(self) -> list[RowGroup]:
        """The parts of the file that are read from their begin to their end. None of them keeps the file open."""

    @abstractmethod
    def fields(self, column: str, field: str) -> Iterator[pa.Array]:
        """One field of a column of structs, some rows at a time."""

    @abstractmethod
    def all_embedded(self, image: str) -> bool:
        """Whether it is known without reading images that every image's bytes are in the column ``image``."""

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns whole."""
        fields = [self.schema.field(column) for column in columns]
        return pa.Table.from_batches(self.batches(columns, 2**16), pa.schema(fields))


def open_table(path: Path) -> StoredTable:
    """Open a table; its name says of which kind it is.

    Raises:
        DataError: it cannot be read.
    """
    parquet = path.suffix.lower() in PARQUET
    try:
        return _Parquet(path) if parquet else _Arrow(path)
    except (pa.ArrowException, OSError) as error:
        refuse_lfs_pointer(path)
        raise DataError(
            f"{path} is no {'Parquet' if parquet else 'Arrow'} file that can be read: {str(error).rstrip('.')}; "
            "fetch or write it again"
        ) from error


def _parquet_file(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)  # not a whole row group at once


def _is_signed(path: Path, metadata: pq.FileMetaData) -> bool:
    """Whether a signature follows the metadata: some columns are encrypted, and pyarrow ends the process over these."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        return bool(int.from_bytes(file.read(4), "little") != metadata.serialized_size)


def _of_row_group(path: Path, number: int, column: str, rows: int) -> Iterator[pa.Array]:
    batches = _parquet_file(path).iter_batches(rows, row_groups=[number], columns=[column], use_threads=False)
    return (batch.column(0) for batch in batches)


class _Parquet(StoredTable):
    def __init__(self, path: Path) -> None:
        self._path, self._file = path, _parquet_file(path)
        if _is_signed(path, self._file.metadata):
            raise pa.ArrowInvalid("some of its columns are encrypted, write it without encryption")
        self.schema = self._file.schema_arrow
        self.rows = self._file.metadata.num_rows

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        return iter(self._file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False))

    def groups(self) -> list[RowGroup]:
        metadata = self._file.metadata
        found = map(metadata.row_group, range(metadata.num_row_groups))
        return [
            RowGroup(group.num_rows, group.total_byte_size, partial(_of_row_group, self._path, number))
            for number, group in enumerate(found)
        ]

    def fields(self, column: str, field: str) -> Iterator[pa.Array]:
        for batch in self._file.iter_batches(columns=[f"{column}.{field}"]):
            yield batch.column(0).field(0)

    def read(self, columns: Sequence[str]) -> pa.Table:
        return self._file.read(columns=list(columns))

    def all_embedded(self, image: str) -> bool:
        metadata = self._file.metadata
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                if column.path_in_schema == f"{image}.bytes":
                    statistics = column.statistics
                    if statistics is None or not statistics.has_null_count or statistics.null_count:
                        return False
        return True


class _Arrow(StoredTable):
    """The file is mapped: only what is looked at is in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self._stream = file.read(len(_MAGIC)) != _MAGIC
        self.schema, self.rows = None, 0
        for batch in self._all():
            self.schema, self.rows = batch.schema, self.rows + batch.num_rows
        if self.schema is None:
            raise pa.ArrowInvalid("it holds no rows")

    def _all(self) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self._path)) as mapped:
            if self._stream:
                reader = pa.ipc.open_stream(mapped)
                end = mapped.tell()
                for batch in reader:
                    yield batch
                    end = mapped.tell()
                if mapped.tell() == end:  # pyarrow takes the end of the file for the mark of an end
                    raise pa.ArrowInvalid("its end is missing: it was cut off, or is still being written")
                if mapped.tell() < mapped.size():
                    raise pa.ArrowInvalid(f"it holds more behind its end at byte {mapped.tell()}")
            else:
                reader = pa.ipc.open_file(mapped)
                yield from map(reader.get_batch, range(reader.num_record_batches))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for batch in self._all():
            picked = batch.select(list(columns))
            for start in range(0, picked.num_rows, rows):
                yield picked.slice(start, rows)

    def groups(self) -> list[RowGroup]:
        if self._stream:
            return list(_groups_of_stream(self._path))
        return [
            RowGroup(batch.num_rows, batch.nbytes, partial(_of_file, self._path, number))
            for number, batch in enumerate(self._all())
        ]

    def fields(self, column: str, field: str) -> Iterator[pa.Array]:
        for batch in self._all():
            yield batch.column(column).field(field)

    def all_embedded(self, image: str) -> bool:
        return all(values.null_count == 0 for values in self.fields(image, "bytes"))


def _of_file(path: Path, number: int, column: str, rows: int) -> Iterator[pa.Array]:
    with pa.memory_map(str(path)) as mapped:
        return _slices(pa.ipc.open_file(mapped).get_batch(number).column(column), rows)


def _groups_of_stream(path: Path) -> Iterator[RowGroup]:
    """A stream has no list of its batches, so their places are found once. They follow the dictionaries they need."""
    with pa.memory_map(str(path)) as mapped:
        reader = pa.ipc.open_stream(mapped)
        before: tuple[int, ...] = ()  # the batches so far that bring dictionaries
        while True:
            place, known = mapped.tell(), reader.stats.num_dictionary_batches
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            yield RowGroup(batch.num_rows, batch.nbytes, partial(_of_stream, path, (*before, place)))
            if reader.stats.num_dictionary_batches > known:
                before = (*before, place)


def _of_stream(path: Path, places: Sequence[int], column: str, rows: int) -> Iterator[pa.Array]:
    """The batch at the last place; those at the places before it are read for their dictionaries."""
    with pa.memory_map(str(path)) as mapped:
        reader = pa.ipc.open_stream(mapped)
        for place in places:
            mapped.seek(place)
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                raise pa.ArrowInvalid("it has become shorter since it was opened") from None
        return _slices(batch.column(column), rows)


def _slices(values: pa.Array, rows: int) -> Iterator[pa.Array]:
    return (values.slice(start, rows) for start in range(0, len(values), rows))
