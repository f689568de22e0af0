"""Tables on disk, read a few rows at a time: Parquet files, Arrow files, and the Arrow streams of `datasets`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from smartedge.data.raw import refuse_lfs_pointer
from smartedge.errors import DataError

__all__ = ["ARROW", "PARQUET", "StoredTable", "open_table"]

PARQUET = frozenset({".parquet"})
ARROW = frozenset({".arrow", ".feather"})
_MAGIC = b"ARROW1"  # of an Arrow file; a stream has none


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
    def groups(self) -> list[tuple[int, int]]:
        """Rows of each part of the file that is read from its begin to its end, and its bytes in memory, about."""

    @abstractmethod
    def group(self, number: int, column: str, rows: int) -> Iterator[pa.Array]:
        """One column of such a part, ``rows`` at a time or fewer."""

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
        raise DataError(f"{path} is no {'Parquet' if parquet else 'Arrow'} file that can be read: {error}") from error


class _Parquet(StoredTable):
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)  # not a whole row group at once
        self.schema = self._file.schema_arrow
        self.rows = self._file.metadata.num_rows

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        return iter(self._file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False))

    def groups(self) -> list[tuple[int, int]]:
        metadata = self._file.metadata
        found = map(metadata.row_group, range(metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in found]

    def group(self, number: int, column: str, rows: int) -> Iterator[pa.Array]:
        batches = self._file.iter_batches(rows, row_groups=[number], columns=[column], use_threads=False)
        return (batch.column(0) for batch in batches)

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
                yield from pa.ipc.open_stream(mapped)
            else:
                reader = pa.ipc.open_file(mapped)
                yield from map(reader.get_batch, range(reader.num_record_batches))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for batch in self._all():
            picked = batch.select(list(columns))
            for start in range(0, picked.num_rows, rows):
                yield picked.slice(start, rows)

    def groups(self) -> list[tuple[int, int]]:
        return [(batch.num_rows, batch.nbytes) for batch in self._all()]

    def group(self, number: int, column: str, rows: int) -> Iterator[pa.Array]:
        values = next(islice(self._all(), number, None)).column(column)
        return (values.slice(start, rows) for start in range(0, len(values), rows))

    def fields(self, column: str, field: str) -> Iterator[pa.Array]:
        for batch in self._all():
            yield batch.column(column).field(field)

    def all_embedded(self, image: str) -> bool:
        return all(values.null_count == 0 for values in self.fields(image, "bytes"))
