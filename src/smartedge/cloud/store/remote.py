"""A folder anywhere: on this machine, in an object store, or wherever else ``pyarrow.fs`` or ``fsspec`` can reach."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from smartedge.errors import ConfigError, LogError
from smartedge.files import disk_error, private_folder, write_atomically

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["Remote"]

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_OPEN = 64  # files that are kept open for reading
_PATIENCE_S = 300.0  # for one file, with all tries
_PAUSE_S = 2.0  # between two tries
_TRIES = 3  # of the library of S3, of 3 s each where nobody answers; its own number takes 100 s


class Remote:
    """A folder that an address names: ``s3://BUCKET/FOLDER``, ``gs://…``, ``file:///FOLDER``, or a path.

    Keys and passwords come from the environment, as the library of the object store defines it (``AWS_ACCESS_KEY_ID``,
    …). They cannot stand in the address, which others may read.

    Each call ends within five minutes. A place that has answered before is tried again for so long where it fails: it
    may be starting again. The first call is not: the address or the keys may be wrong.

    Args:
        url: the address. What ``pyarrow.fs.FileSystem.from_uri`` takes; other schemes are those of ``fsspec``.

    Raises:
        ConfigError: the address cannot be used.
        ModuleNotFoundError: ``pyarrow`` is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        # Azure's usual form is abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER.
        named = None if parts.scheme in ("abfs", "abfss") else parts.username
        if "://" in url and (named is not None or parts.password is not None):
            name = f"{parts.scheme}://…@{parts.hostname}"
            raise ConfigError(
                f"{name}: keys cannot stand in the address, which other users of this machine can read; set the "
                "environment variables of the object store, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.url = url.partition("?")[0].rstrip("/")
        self._files, self._folder, is_local = _opened(url)
        self._local = Path(self._folder) if is_local else None
        self._lock = threading.Lock()
        self._reading: dict[str, Any] = {}  # name -> open file, the one that was used last at the end
        self._has_answered = False

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where it is not there.

        Raises:
            LogError: it cannot be read.
        """

        def work() -> bytes | None:
            try:
                with self._files.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

        return self._asked(name, "read", work)

    def read_at(self, name: str, position: int, count: int) -> bytes:
        """``count`` bytes of a file from ``position`` on; fewer at its end. The file must not change.

        Raises:
            LogError: it is not there, or cannot be read.
        """

        def work() -> bytes:
            file = self._reader(name)
            return bytes(file.read_at(max(0, min(count, file.size() - position)), position))

        return self._asked(name, "read", work)

    def write(self, name: str, data: bytes) -> None:
        """Put a file in place, whole or not at all.

        Raises:
            LogError: the place does not take it.
        """

        def work() -> None:
            if self._local is not None:
                write_atomically(self._in_local_folder(name), data)
            else:
                with self._files.open_output_stream(self._path(name)) as file:
                    file.write(data)

        self._asked(name, "written", work)

    def _reader(self, name: str) -> Any:
        with self._lock:
            file = self._reading.pop(name, None)
            if file is None:
                file = self._files.open_input_file(self._path(name))
            self._reading[name] = file
            if len(self._reading) > _OPEN:
                del self._reading[next(iter(self._reading))]  # closed when no other thread uses it any more
        return file

    def _in_local_folder(self, name: str) -> Path:
        assert self._local is not None
        path = self._local / name
        private_folder(self._local)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _asked(self, name: str, doing: str, work: Callable[[], _Result]) -> _Result:
        end, told = time.monotonic() + _PATIENCE_S, False
        while True:
            try:
                found = work() if self._local is not None else _within(end - time.monotonic(), work)
                self._has_answered = True
                return found
            except Exception as error:  # each package of fsspec has errors of its own
                why = disk_error(error) if isinstance(error, OSError) and self._local is not None else error
                text = f"{self.url}/{name}: cannot be {doing}: {why}"
                if self._local is not None or not self._has_answered or isinstance(error, FileNotFoundError):
                    raise LogError(text) from error
                if time.monotonic() + _PAUSE_S >= end:
                    raise LogError(
                        f"{text}; this was tried for {_PATIENCE_S:.0f} s. When the place answers again, start the same "
                        "command again: workers go on from the newest checkpoint, a copy with what it lacks"
                    ) from error
            if not told:
                _log.warning("%s; trying again for %.0f s", text, _PATIENCE_S)
            told = True
            with self._lock:
                self._reading.pop(name, None)
            time.sleep(_PAUSE_S)


def _within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Work in another thread: a library that waits for ever is left alone, and a signal is heard meanwhile.

    Raises:
        TimeoutError: it took longer.
    """
    found: Future[_Result] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, name="remote", daemon=True).start()
    if not wait([found], timeout=seconds).done:
        raise TimeoutError(f"it has not answered for {seconds:.0f} s; is the address right, and does its server work?")
    return found.result()


def _opened(url: str) -> tuple[FileSystem, str, bool]:
    """The file system of an address, the folder in it, and whether it is this machine's own."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in url:
        return LocalFileSystem(), str(Path(url).absolute()), True
    try:
        files, folder = FileSystem.from_uri(url)
    except ArrowInvalid as error:
        files, folder = _by_fsspec(url, error)
    except OSError as error:
        raise ConfigError(f"{url.partition('?')[0]}: cannot be reached: {error}") from error
    return _soon_given_up(files), folder.rstrip("/"), isinstance(files, LocalFileSystem)


def _soon_given_up(files: FileSystem) -> FileSystem:
    """The same, but for S3 a request ends after few tries: this module tries again, and the process's end waits."""
    from pyarrow import fs

    if not isinstance(files, getattr(fs, "S3FileSystem", ())):  # pyarrow can be built without it
        return files
    pickled: Any = files.__reduce__()  # there is no other way to its options
    return fs.S3FileSystem(**pickled[1][0] | {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES)})


def _by_fsspec(url: str, why: Exception) -> tuple[FileSystem, str]:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    try:
        from fsspec.core import url_to_fs

        files, folder = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url.partition('?')[0]}: no such place is known here ({why}; {error}); use s3://, gs://, abfs://, "
            "file:// or a path, or install the package of fsspec for it"
        ) from error
    except Exception as error:  # each of its packages has errors of its own
        raise ConfigError(f"{url.partition('?')[0]}: cannot be reached: {error}") from error
    return PyFileSystem(FSSpecHandler(files)), str(folder)
