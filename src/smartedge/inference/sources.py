"""Where images come from while a process stays up: files, a watched folder, standard input, a video, a camera."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import ConfigError, DataError
from smartedge.extras import how_to_install
from smartedge.images.decode import SUFFIXES, Fit, decode, is_hidden
from smartedge.images.size import ImageSize

__all__ = ["SourceImage", "open_source"]

_CAMERA = "camera:"
_VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
_LOOK_S = 0.5  # between two looks at a folder, at least
_REST = 9  # times as long as a look took: one at 100 000 files takes most of a second of processor time
_SILENT_S = 10.0  # without a picture, beside the time between two
_SETTLED_S = 1.0  # a file that was changed within this time may still be written
_State = tuple[int, int]  # of a file: time of its last change, and size


@dataclass(frozen=True)
class SourceImage:
    """One image of a source.

    Attributes:
        name: of the file, or ``VIDEO@SECONDS``.
        pixels_CHW: uint8 (3, H, W); None where the image cannot be used.
        problem: the reason then.
    """

    name: str
    pixels_CHW: NDArray[np.uint8] | None
    problem: str = ""

    @classmethod
    def of(
        cls, name: str, item: Path | NDArray[np.uint8], image_size: int | ImageSize, fit: Fit = "crop"
    ) -> SourceImage:
        """Decode an image as in training."""
        found = decode(item, image_size, fit)
        if isinstance(found, str):
            return cls(name, None, found)
        return cls(name, np.ascontiguousarray(found.transpose(2, 0, 1)))


def open_source(
    where: str,
    image_size: int | ImageSize,
    stop: threading.Event,
    *,
    fit: Fit = "crop",
    every: float = 1.0,
    once: bool = False,
    lines: TextIO | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[SourceImage]:
    """The images of a source, as they come.

    Args:
        where: a folder, which is watched for new images; ``-``: names of files, one a line, from ``lines``; a video
            file; ``camera:DEVICE``, such as ``camera:/dev/video0``; or one image file.
        image_size: height and width, or the side of a square.
        stop: set it to end a source that has no end.
        fit: how images get that shape.
        every: seconds between two images of a video or camera.
        once: a folder is read once and not watched.
        lines: standard input, for ``-``.
        tell: takes a line about folders in the folder, whose images are not looked for, and about a silent camera.

    Raises:
        DataError: there is no such file or folder, or the video or camera cannot be read.
        ConfigError: ``every`` is not positive.
    """
    if not every > 0:
        raise ConfigError(f"--every {every}: must be more than 0 seconds")
    decoded = partial(SourceImage.of, image_size=image_size, fit=fit)
    if where == "-":
        files: Iterable[Path] = (Path(line.strip()) for line in lines or () if line.strip())
        return (decoded(str(file), file) for file in files)
    if where.startswith(_CAMERA):
        frames = _frames(where.removeprefix(_CAMERA), "v4l2", decoded, stop, every)
        return _apart(frames, where, stop, every, tell)
    path = Path(where)
    if path.is_dir():
        return (decoded(str(file), file) for file in _watch(path, stop, tell, once=once))
    if not path.exists():
        raise DataError(
            f"--source {where}: there is no such file or folder; give a folder, a video, an image, camera:DEVICE, or -"
        )
    if path.suffix.lower() in _VIDEOS:
        return _apart(_frames(where, None, decoded, stop, every), where, stop, every, tell)
    return iter([decoded(where, path)])


def _watch(folder: Path, stop: threading.Event, tell: Callable[[str], None], *, once: bool) -> Iterator[Path]:
    """The images of a folder by their names, then those that come or change, when they are written to their end."""
    told: set[str] = set()  # folders in it
    known: dict[str, _State] = {}
    early: dict[str, tuple[_State, float]] = {}  # files from the future, and since when they are as they are
    while True:
        began = time.monotonic()
        found, within = _contents(folder)
        rest = max(_LOOK_S, _REST * (time.monotonic() - began))
        if not within <= told:
            tell(f"{folder}: images are not looked for in the folders in it: {', '.join(sorted(within - told)[:5])}")
            told |= within
        known = {name: state for name, state in known.items() if name in found}
        new = {name: state for name, state in found.items() if known.get(name) != state}
        early = {name: since for name, since in early.items() if new.get(name) == since[0]}
        now = time.time_ns()
        for name, state in sorted(new.items()):
            age_s = (now - state[0]) / 1e9
            if age_s < 0:  # the clock of another machine, or of this one before it was set
                age_s = began - early.setdefault(name, (state, began))[1]
            if age_s > _SETTLED_S or once:
                known[name] = state
                yield folder / name
            if stop.is_set():
                return
        if once or stop.wait(timeout=rest):
            return


def _contents(folder: Path) -> tuple[dict[str, _State], set[str]]:
    """Time of change and size of each image in a folder, by its name; and the names of the folders in it."""
    images: dict[str, _State] = {}
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                try:
                    if entry.is_dir():
                        folders.add(entry.name)
                    elif Path(entry.name).suffix.lower() in SUFFIXES:
                        status = entry.stat()
                        images[entry.name] = (status.st_mtime_ns, status.st_size)
                except OSError:  # it was removed meanwhile
                    continue
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    return images, folders


def _apart(
    pictures: Iterator[SourceImage], where: str, stop: threading.Event, every: float, tell: Callable[[str], None]
) -> Iterator[SourceImage]:
    """Pictures that another thread reads: a library that waits for a camera cannot be asked to stop."""
    queue: Queue[SourceImage | BaseException | None] = Queue(1)
    ended = threading.Event()

    def read() -> None:
        try:
            for picture in pictures:
                queue.put(picture)
                if ended.is_set():
                    return
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    threading.Thread(target=read, name="smartedge-source", daemon=True).start()
    silent, patience = 0.0, _SILENT_S + every
    try:
        while not stop.is_set():
            try:
                found = queue.get(timeout=_LOOK_S)
            except Empty:
                if silent < patience <= silent + _LOOK_S:
                    tell(f"{where}: no picture has come for {patience:.0f} s")
                silent += _LOOK_S
                continue
            silent = 0.0
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        ended.set()
        with contextlib.suppress(Empty):
            queue.get_nowait()  # the thread may be waiting for room


def _frames(
    where: str, kind: str | None, decoded: Callable[..., SourceImage], stop: threading.Event, every: float
) -> Iterator[SourceImage]:
    """Pictures of a video or camera, ``every`` seconds of its own time apart. A damaged one does not end it."""
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"--source {where}: needs the package 'av'; run: {how_to_install('video')}") from error
    try:
        container: Any = av.open(where, format=kind)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"--source {where}: cannot be opened as a video ({error})") from error
    with container:
        if not container.streams.video:
            raise DataError(f"--source {where}: has no pictures")
        due, at = None, 0.0
        try:
            for packet in container.demux(video=0):
                if stop.is_set():
                    return
                try:
                    pictures = packet.decode()
                except av.InvalidDataError:
                    yield SourceImage(f"{where}@{at:.3f}", None, "the picture after this one is damaged")
                    continue
                for picture in pictures:
                    at = float(picture.time or 0.0)
                    if due is None or at >= due - 1e-6:
                        jumped = due is None or at > due + every  # what was missed is not caught up with
                        due = (at if jumped or due is None else due) + every
                        yield decoded(f"{where}@{at:.3f}", picture.to_ndarray(format="rgb24"))
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"--source {where}: broke off ({error})") from error
