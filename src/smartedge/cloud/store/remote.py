"""A folder anywhere: on this machine, in an object store, or wherever else ``pyarrow.fs`` or ``fsspec`` can reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from smartedge.errors import ConfigError, LogError
from smartedge.files import private_folder, replacing, write_atomically

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["Remote", "Sink"]

_OPEN = 64  # files that are kept open for reading


class Sink(Protocol):
    """A file that is being written."""

    def write(self, data: bytes, /) -> object:
        """Write at the end."""


class Remote:
    """A folder that an address names: ``s3://BUCKET/FOLDER``, ``gs://…``, ``file:///FOLDER``, or a path.

    Keys and passwords come from the environment, as the library of the object store defines it (``AWS_ACCESS_KEY_ID``,
    …). They cannot stand in the address, which others may read.

    Args:
        url: the address. What ``pyarrow.fs.FileSystem.from_uri`` takes; other schemes are those of ``fsspec``.

    Raises:
        ConfigError: the address cannot be used.
        ModuleNotFoundError: ``pyarrow`` is not installed.
    """

    def __init__(self, url: str) -> None:
        if "://" in url and (urlsplit(url).username is not None or urlsplit(url).password is not None):
            name = f"{urlsplit(url).scheme}://…@{urlsplit(url).hostname}"
            raise ConfigError(
                f"{name}: keys cannot stand in the address, which other users of this machine can read; set the "
                "environment variables of the object store, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.url = url.partition("?")[0].rstrip("/")
        self._files, self._folder, is_local = _opened(url)
        self._local = Path(self._folder) if is_local else None
        self._lock = threading.Lock()
        self._reading: dict[str, Any] = {}  # name -> open file, the one that was used last at the end

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where it is not there.

        Raises:
            LogError: it cannot be read.
        """
        with self._told(name, "read"):
            try:
                with self._files.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def read_at(self, name: str, position: int, count: int) -> bytes:
        """``count`` bytes of a file from ``position`` on; fewer at its end. The file must not change.

        Raises:
            LogError: it is not there, or cannot be read.
        """
        with self._told(name, "read"):
            file = self._reader(name)
            return bytes(file.read_at(max(0, min(count, file.size() - position)), position))

    def write(self, name: str, data: bytes) -> None:
        """Put a file in place, whole or not at all.

        Raises:
            LogError: the place does not take it.
        """
        with self._told(name, "written"):
            if self._local is not None:
                write_atomically(self._in_local_folder(name), data)
            else:
                with self._files.open_output_stream(self._path(name)) as file:
                    file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Sink]:
        """A file to be written piece by piece. Where the block raises, the place may hold a part of it.

        Raises:
            LogError: the place does not take it.
        """
        with self._told(name, "written"):
            if self._local is None:
                with self._files.open_output_stream(self._path(name)) as sink:
                    yield sink
                return
            with replacing(self._in_local_folder(name)) as temporary, temporary.open("wb") as file:
                yield file

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

    @contextmanager
    def _told(self, name: str, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogError(f"{self.url}/{name}: cannot be {doing}: {error}") from error


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
    return files, folder.rstrip("/"), isinstance(files, LocalFileSystem)


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
