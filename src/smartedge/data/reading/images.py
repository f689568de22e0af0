"""Images decoded once: bytes of one size in a file of the user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import mmap
import os
import re
import stat
import time
import weakref
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from rich.console import Console
from rich.progress import Progress

from smartedge.data.raw import Images
from smartedge.errors import DataError
from smartedge.files import private_folder, replacing, write_atomically
from smartedge.images.decode import Fit, decode
from smartedge.images.size import ImageSize
from smartedge.locks import lock_at_once
from smartedge.types import Ints

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMAT",
    "DecodingProgress",
    "ImageStore",
    "base_of",
    "decode_threads",
    "default_cache_dir",
    "of_rows",
    "open_images",
    "parts_of",
]

FORMAT = 3  # raise it when decoding or the files change: older files are then left alone
CHUNK = 32  # images that are decoded at a time
LEFT_OVER_S = 10.0  # a younger file may belong to a process that has not locked it yet
PATIENCE_S = 2.0  # decoding that takes longer shows its progress


class ImageStore(Protocol):
    """Images of one source.

    ``bad`` says which images could not be decoded (index in the source → reason); ``streamed``, whether images are
    decoded when they are read, so that some orders are slow.
    """

    bad: dict[int, str]
    streamed: bool

    def shuffled(self, indices: Ints, random: np.random.Generator) -> Ints:
        """Positions in ``indices``, int64 (N,), in a random order that suits the store."""

    def read(self, indices: Ints) -> Tensor:
        """The images of these indices in the source, uint8 (B, C, H, W)."""


class _Kept:
    """What stores of decoded images have in common."""

    streamed = False

    def shuffled(self, indices: Ints, random: np.random.Generator) -> Ints:
        """As :class:`ImageStore` says: any order suits."""
        return random.permutation(np.arange(len(indices)))


class _File(_Kept):
    """Images in one file, uint8 (N, C, H, W), of which only what is read is in memory.

    ``rows`` are the indices of the images that are there, ascending; None: all.
    """

    def __init__(
        self,
        pixels: Path,
        offset: int,
        shape: tuple[int, int, int, int],
        bad: dict[int, str],
        rows: Ints | None,
    ) -> None:
        self._file = os.open(pixels, os.O_RDONLY)  # held open, so that cleaning the cache does not end a run
        weakref.finalize(self, os.close, self._file)
        self._offset = offset
        self._shape = shape
        self._rows = rows
        self.bad = bad

    def read(self, indices: Ints) -> Tensor:
        """The images of these indices in the source, uint8 (B, C, H, W).

        The file is mapped during the call only: what was read does not stay in the process.
        """
        import torch  # not above: to look for a data set needs none

        mapped = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        pixels = np.frombuffer(mapped, np.uint8, offset=self._offset).reshape(self._shape)
        places = indices if self._rows is None else np.searchsorted(self._rows, indices)
        return torch.from_numpy(pixels[places])


class _Joined(_Kept):
    """Images in several files, part after part. A part of which nothing is needed is None."""

    def __init__(self, parts: Sequence[_File | None], starts: Ints) -> None:
        self._parts = parts
        self._starts = starts
        self.bad = {
            int(start) + index: reason
            for part, start in zip(parts, starts, strict=True)
            if part is not None
            for index, reason in part.bad.items()
        }

    def read(self, indices: Ints) -> Tensor:
        """As :class:`ImageStore` says."""
        import torch

        part_B = np.searchsorted(self._starts, indices, side="right") - 1
        found: Tensor | None = None
        for number in np.unique(part_B).tolist():
            part, mine = self._parts[number], part_B == number
            assert part is not None
            images_BCHW = part.read(indices[mine] - self._starts[number])
            if found is None:
                found = torch.empty((len(indices), *images_BCHW.shape[1:]), dtype=torch.uint8)
            found[torch.from_numpy(mine)] = images_BCHW
        assert found is not None
        return found


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/smartedge``, or ``~/.cache/smartedge``.

    Raises:
        DataError: this user has no home folder.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "smartedge"
    try:
        return Path.home() / ".cache" / "smartedge"
    except RuntimeError as error:
        raise DataError(
            "this user has no home folder to keep decoded images in; name a folder (data.cache_dir, or XDG_CACHE_HOME)"
        ) from error


def open_images(
    images: Images,
    *,
    name: str,
    image_size: int | ImageSize,
    fit: Fit = "crop",
    cache_dir: Path,
    rows: Ints | None = None,
    cache_bytes: int | None = None,
) -> ImageStore:
    """The images of a source, decoded now or in an earlier call.

    The cached files are found again as long as the source's files have the same paths, sizes and times of change.
    They are put in place in one step each, so that any number of processes can do this at once. A source in several
    parts has files for each part: what was decoded before an interruption is kept, and only parts that changed are
    decoded again.

    Args:
        images: the source.
        name: for people: in the file's name and beside the progress bar.
        image_size: H, W and C, or the side of a square of three channels.
        fit: how images get that shape.
        cache_dir: where the files are kept.
        rows: indices of the images that are needed, ascending; None: all. Others are not decoded.
        cache_bytes: when files are added, those that were not used for the longest time are removed until the folder
            holds no more than this. Files that a run has open can still be read by it. None: no limit.

    Raises:
        DataError: the cache folder cannot be written.
    """
    size = ImageSize.of(image_size)
    if len(images.parts) < 2:
        store, base = _open_file(images, name, size, fit, cache_dir, rows)
        _make_room(cache_dir, {base}, cache_bytes)
        return store
    starts: list[int] = []
    stores: list[_File | None] = []
    used: set[Path] = set()
    for start, part, mine in parts_of(images, rows):
        starts.append(start)
        if mine is not None and not len(mine):
            stores.append(None)
            continue
        store, base = _open_file(part, name, size, fit, cache_dir, mine)
        stores.append(store)
        used.add(base)
    _make_room(cache_dir, used, cache_bytes)
    return _Joined(stores, np.array(starts))


def parts_of(images: Images, rows: Ints | None) -> Iterator[tuple[int, Images, Ints | None]]:
    """Each part of a source: the index at which it begins, and which of its images are needed; None: all."""
    start = 0
    for part in images.parts or (images,):
        mine = None
        if rows is not None:
            mine = rows[slice(*np.searchsorted(rows, (start, start + part.count)))] - start
            if len(mine) == part.count > 0:
                mine = None
        yield start, part, mine
        start += part.count


def decode_threads() -> int:
    """How many threads decode images."""
    return min(4, os.cpu_count() or 1)


def _open_file(
    images: Images, name: str, size: ImageSize, fit: Fit, cache_dir: Path, rows: Ints | None
) -> tuple[_File, Path]:
    """The images of one part, decoded now or earlier, and the name of its files without ending."""
    base = base_of(images, name, size, fit, cache_dir)
    shape = (images.count, *size.shape)
    if (store := _open(base, shape, None)) is not None:
        return store, base
    if rows is not None:
        base = of_rows(base, rows)
        shape = (len(rows), *shape[1:])
        store = _open(base, shape, rows)
    if store is None:
        try:
            private_folder(cache_dir)
            _remove_left_over(cache_dir)
            _build(images, name, shape, base, rows, fit)
        except OSError as error:
            raise DataError(
                f"cannot keep decoded images in {cache_dir}: {error.strerror or error}; "
                "make room there, or name another folder (data.cache_dir, or the variable XDG_CACHE_HOME)"
            ) from error
        store = _open(base, shape, rows)
        if store is None:
            raise DataError(f"{base}.npy was changed while it was being written; try again")
    return store, base


def base_of(images: Images, name: str, size: ImageSize, fit: Fit, cache_dir: Path) -> Path:
    """The name, without ending, of the files in which something is kept about these images."""
    label = re.sub(r"[^\w.-]+", "-", name)
    return cache_dir / f"{label}-{size.plain}px-{_digest(images, size, fit)}"


def of_rows(base: Path, rows: Ints) -> Path:
    """The same for some of the images."""
    return base.with_name(f"{base.name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}")


def _digest(images: Images, size: ImageSize, fit: Fit) -> str:
    """Identifies the decoded images: 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{FORMAT} {size.plain} {images.count} {images.key}".encode())
    digest.update(b"" if fit == "crop" else fit.encode())
    real = functools.cache(os.path.realpath)  # of folders, which many images share
    for file in images.files:
        try:
            place, status = os.path.join(real(file.parent), file.name), os.lstat(file)
            if stat.S_ISLNK(status.st_mode):
                place, status = os.path.realpath(file), os.stat(file)
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"  # the first can be set, and 'cp -p' does
            digest.update(os.fsencode(f"\n{place} {status.st_size} {times} {os.access(file, os.R_OK)}"))
        except OSError:
            digest.update(os.fsencode(f"\n{file} absent"))
    return digest.hexdigest()[:16]


def _files(base: Path) -> tuple[Path, Path]:
    """The file of the pixels, and that of what is said about them."""
    return base.with_name(base.name + ".npy"), base.with_name(base.name + ".json")


def _open(base: Path, shape: tuple[int, int, int, int], rows: Ints | None) -> _File | None:
    """The store in these two files, or None if one of them is missing or incomplete."""
    pixels, notes = _files(base)
    try:
        bad = {int(index): str(reason) for index, reason in json.loads(notes.read_text(encoding="utf-8"))["bad"]}
        with pixels.open("rb") as file:
            np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
            whole = os.fstat(file.fileno()).st_size == offset + int(np.prod(shape))
        if whole and header == (shape, False, np.dtype(np.uint8)):
            os.utime(notes)  # the time of its last use
            return _File(pixels, offset, shape, bad, rows)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _build(
    images: Images, name: str, shape: tuple[int, int, int, int], base: Path, rows: Ints | None, fit: Fit
) -> None:
    """Decode what is needed, and write both files: each to a temporary name, then moved into place."""
    count, size = shape[0], ImageSize(shape[2], shape[3], shape[1])
    pixels, notes = _files(base)
    indices = range(count) if rows is None else rows.tolist()
    bad: list[tuple[int, str]] = []
    with (
        replacing(pixels) as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor(decode_threads()) as pool,
        DecodingProgress(name, count) as on,
    ):
        with contextlib.suppress(OSError):  # a file system without locks
            lock_at_once(file.fileno())
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        items = images.chosen(rows)
        done = 0
        while chunk := list(itertools.islice(items, CHUNK)):
            block = np.zeros((len(chunk), *shape[1:]), np.uint8)
            for row, result in enumerate(pool.map(lambda item: decode(item, size, fit), chunk)):
                if isinstance(result, str):
                    bad.append((indices[done + row], result))
                else:
                    block[row] = result.transpose(2, 0, 1)
            file.write(block.data)
            done += len(chunk)
            on.update(done)
    write_atomically(notes, json.dumps({"format": FORMAT, "bad": bad}))


def _make_room(cache_dir: Path, used: Set[Path], cache_bytes: int | None) -> None:
    """Remove the files that were not used for the longest time, until the folder holds no more than ``cache_bytes``.

    Those in ``used`` stay.

    Raises:
        DataError: a file cannot be removed.
    """
    if cache_bytes is None:
        return
    try:
        _evict(cache_dir, used, cache_bytes)
    except FileNotFoundError:  # another process makes room as well
        pass
    except OSError as error:
        raise DataError(f"cannot remove decoded images from {cache_dir}: {error.strerror or error}") from error


def _evict(cache_dir: Path, used: Set[Path], cache_bytes: int) -> None:
    kept = [(notes.stat().st_mtime, *_files(notes.with_suffix(""))) for notes in cache_dir.glob("*px-*.json")]
    kept = [each for each in kept if each[1].is_file()]
    held = sum(pixels.stat().st_size for _, pixels, _ in kept)
    for _, pixels, notes in sorted(kept):
        if held <= cache_bytes:
            return
        if notes.with_suffix("") not in used:
            held -= pixels.stat().st_size
            pixels.unlink(missing_ok=True)
            notes.unlink(missing_ok=True)


def _remove_left_over(cache_dir: Path) -> None:
    """Remove what processes that were killed left half written. The file of a process that still writes is locked."""
    for file in cache_dir.glob(".*.tmp"):
        with contextlib.suppress(OSError), file.open("rb") as opened:
            if time.time() - os.fstat(opened.fileno()).st_mtime > LEFT_OVER_S and lock_at_once(opened.fileno()):
                file.unlink()


class DecodingProgress:
    """A progress bar on a terminal's standard error, for what takes more than two seconds."""

    def __init__(self, name: str, count: int) -> None:
        self._started = time.monotonic()
        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._bar.disable = not self._bar.console.is_terminal
        self._task = self._bar.add_task(f"decoding {name} (once)", total=count)

    def __enter__(self) -> DecodingProgress:
        return self

    def update(self, done: int) -> None:
        """So many images are done."""
        if time.monotonic() - self._started > PATIENCE_S:
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
