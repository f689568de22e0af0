"""WebDataset's tar files: the files of one image lie side by side and share a name up to the first dot.

``0001.jpg`` is the image; ``0001.cls`` and ``0001.txt`` are the columns ``cls`` and ``txt``; each value of
``0001.json`` is a column. Nothing is unpacked. A tar file is listed once; the list is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smartedge.data.raw import Images, RawData, RawSplit, refuse_lfs_pointer, slices
from smartedge.data.reading.readers import Anywhere
from smartedge.errors import DataError, list_some
from smartedge.files import private_folder, replacing
from smartedge.images.decode import MOST_BYTES, SUFFIXES, Item, is_hidden
from smartedge.types import SplitName

__all__ = ["TAR", "open_webdataset"]

TAR = frozenset({".tar"})
_FORMAT = 4  # of the lists that are kept; raise it when they change
_TEXTS = frozenset({"cls", "txt", "text", "label"})  # endings of files that hold one value
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # how files begin
_MOST_TEXT = 2**20  # bytes of a label; more is no label
_KEY, _OFFSET, _SIZE = "__key__", "__offset__", "__size__"  # of a list: the name, and where the image lies in the file
_UNUSED = b"unused"  # in a list's metadata: the endings of what is no image and no label, in words

Scalar = str | int | float | bool | None


def open_webdataset(
    name: str, files: Mapping[SplitName, Sequence[Path]], notes: Sequence[str], cache_dir: Path
) -> RawData:
    """Open tar files by split.

    Args:
        name: of the data set, for people.
        files: split → tar files, in order.
        notes: what the user should know about how the files were divided.
        cache_dir: where the lists of the tar files are kept.

    Raises:
        DataError: a file cannot be read or is not in this layout, or a column holds values of several types.
    """
    splits: dict[SplitName, RawSplit] = {}
    notes = list(notes)
    for split, paths in files.items():
        tables = [_listed(path, cache_dir) for path in paths]
        found = [(path, table.schema.metadata[_UNUSED].decode()) for path, table in zip(paths, tables, strict=True)]
        if unused := [f"{path} holds {said}" for path, said in found if said]:
            notes.append(f"not used, because they are no images or labels by their names: {list_some(unused, 2)}")
        try:
            whole = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"the labels of {list_some(paths)} have different types: {error}") from error
        columns = whole.drop_columns([_KEY, _OFFSET, _SIZE])
        places = [
            (table[_OFFSET].to_numpy(zero_copy_only=False), table[_SIZE].to_numpy(zero_copy_only=False))
            for table in tables
        ]
        images = Images(
            whole.num_rows,
            key="webdataset",
            items=partial(_items, paths, places),
            files=paths,
            name_of=partial(_name_of, paths, [table[_KEY] for table in tables]),
            reader=partial(_reader, paths, places),
            parts=[
                Images(
                    sum(len(offsets) for offsets, _ in places[part]),
                    key="webdataset",
                    items=partial(_items, paths[part], places[part]),
                    files=paths[part],
                    reader=partial(_reader, paths[part], places[part]),
                )
                for part in slices(len(paths))
            ],
        )
        splits[split] = RawSplit.from_table(images, columns)
    return RawData(name, splits, notes=tuple(notes))


def _items(paths: Sequence[Path], places: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Item]:
    for path, (offsets, sizes) in zip(paths, places, strict=True):
        try:
            with path.open("rb") as file:
                for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
                    yield None if size < 0 else os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"the images of {path} cannot be read: {error}") from error


def _reader(paths: Sequence[Path], places: Sequence[tuple[np.ndarray, np.ndarray]]) -> Anywhere:
    starts = np.cumsum([0, *(len(offsets) for offsets, _ in places)])

    def item(index: int) -> Item:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        offsets, sizes = places[number]
        row = index - int(starts[number])
        if sizes[row] < 0:
            return None
        try:
            with paths[number].open("rb", buffering=0) as file:
                return os.pread(file.fileno(), int(sizes[row]), int(offsets[row]))
        except OSError as error:
            raise DataError(f"the images of {paths[number]} cannot be read: {error}") from error

    return Anywhere(item)


def _name_of(paths: Sequence[Path], keys: Sequence[pa.ChunkedArray], row: int) -> str:
    for path, names in zip(paths, keys, strict=True):
        if row < len(names):
            return f"{path}, {names[row]}"
        row -= len(names)
    raise IndexError(row)


def _listed(path: Path, cache_dir: Path) -> pa.Table:
    """The images of a tar file: name, place, and columns. From the cache folder, if it was listed before."""
    try:
        status = path.stat()
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        digest = hashlib.sha256(os.fsencode(f"{_FORMAT} {path.resolve()} {status.st_size} {times}"))
        kept = cache_dir / f"tar-{digest.hexdigest()[:24]}.parquet"
        if kept.is_file():
            return pq.read_table(kept)
        table = _list(path)
        private_folder(cache_dir)
        with replacing(kept) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return table
    except tarfile.TarError as error:
        refuse_lfs_pointer(path)
        raise DataError(f"{path} is no tar file that can be read: {_packed(path) or error}") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be listed: {error}") from error


class _Sample:
    """What lies in a tar file under one name."""

    def __init__(self) -> None:
        self.image: tuple[str, int, int] | None = None  # name, offset, size
        self.values: dict[str, Scalar] = {}


def _packed(path: Path) -> str:
    """What to do with a tar file that is compressed as a whole; empty where it is not known to be."""
    with path.open("rb") as file:
        begin = file.read(6)
    found = next((what for magic, what in _COMPRESSED.items() if begin.startswith(magic)), None)
    return f"it is compressed by {found}; decompress it, since images are read at their places in it" if found else ""


def _list(path: Path) -> pa.Table:
    samples: dict[str, _Sample] = {}
    others: Counter[str] = Counter()
    last = ""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined] # else it keeps them all
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            if not member.isfile() or is_hidden(name):
                continue
            key, ending = (f"{folder}/{stem}" if folder else stem), ending.lower()
            image = f".{ending}" in SUFFIXES
            if not (image or ending == "json" or ending in _TEXTS):
                others[f".{ending}" if ending else "without ending"] += 1
                continue
            if key != last and key in samples:
                raise DataError(f"{path}: the files of {key} do not lie side by side, as WebDataset has them")
            sample, last = samples.setdefault(key, _Sample()), key
            if image:
                if sample.image is not None:
                    raise DataError(f"{path}: {key} has two images, {sample.image[0]} and {member.name}; leave one")
                if member.issparse() or member.size > MOST_BYTES:
                    raise DataError(f"{path}: {member.name} is a sparse file, or larger than 1 GiB; take it out")
                sample.image = (member.name, member.offset_data, member.size)
            elif member.size <= _MOST_TEXT and (opened := tar.extractfile(member)) is not None:
                sample.values.update(_values(path, member.name, ending, opened.read()))
        _refuse_damaged(path, tar.offset)
    held = ", ".join(f"{count} {ending}" for ending, count in others.most_common(3))
    if all(sample.image is None for sample in samples.values()):
        raise DataError(
            f"{path} holds no images: looked for {', '.join(sorted(SUFFIXES))}, and found {held or 'nothing'} "
            f"beside {len(samples)} label file(s). An ending begins at the first point of a name: let it have no other"
        )
    columns = list(dict.fromkeys(name for sample in samples.values() for name in sample.values))
    if not columns:
        raise DataError(
            f"{path} holds images and no labels: looked for files such as {next(iter(samples))}.cls or .json beside "
            "them. If its folders are the classes, unpack it"
        )
    return pa.table(
        {
            _KEY: list(samples),
            _OFFSET: np.array([-1 if s.image is None else s.image[1] for s in samples.values()], np.int64),
            _SIZE: np.array([-1 if s.image is None else s.image[2] for s in samples.values()], np.int64),
            **{name: _column(path, name, [s.values.get(name) for s in samples.values()]) for name in columns},
        },
        metadata={_UNUSED: held},
    )


def _refuse_damaged(path: Path, end: int) -> None:
    """Refuse a tar file of which a part would be lost: Python's ``tarfile`` takes what it cannot read for the end.

    Args:
        path: the tar file.
        end: where its last member ended: at two blocks of zeros or more.

    Raises:
        DataError: it was cut off, is damaged there, or has more members behind its end.
    """
    with path.open("rb") as file:
        file.seek(end)
        block, behind = file.read(tarfile.BLOCKSIZE), False
        if len(block) < tarfile.BLOCKSIZE:
            raise DataError(f"{path} has no end: it was cut off, or is still being written. Fetch or write it again")
        if any(block):
            raise DataError(f"{path} is damaged at byte {end}, and what follows cannot be read; fetch it again")
        while not behind and (part := file.read(2**20)):
            behind = any(part)
    if behind:
        raise DataError(
            f"{path} holds more behind its end at byte {end}, as tar files that were joined by 'cat'; give each of "
            "them as a file of its own, or join them by 'tar --concatenate'"
        )


def _column(path: Path, name: str, values: list[Scalar]) -> pa.Array:
    """Values as one column. The texts of ``cls`` files are whole numbers where all of them are."""
    if name in _TEXTS and all(value is None or str(value).isdecimal() for value in values):
        values = [None if value is None else int(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"{path}: the values of {name!r} have different types: {error}") from error


def _values(path: Path, member: str, ending: str, data: bytes) -> dict[str, Scalar]:
    """The columns that a label file gives."""
    try:
        text = data.decode("utf-8").strip()
        if ending != "json":
            return {ending: text}
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {member} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: {member} holds no mapping of names to values, so its label has no name")
    return {str(name): _plain(value) for name, value in found.items()}


def _plain(value: object) -> Scalar:
    """A plain value of JSON. A list or mapping is no label: a mark stands for it, so that an error can say so."""
    if isinstance(value, Scalar):
        return value
    return "[...]" if isinstance(value, list) else "{...}"
