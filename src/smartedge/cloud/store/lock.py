"""A lock on a run's folder: one process at a time does what the lock is for."""

from __future__ import annotations

import os
from pathlib import Path

from smartedge.errors import RunError
from smartedge.files import disk_error, private_folder
from smartedge.locks import lock_at_once, open_lock

__all__ = ["Lock"]


class Lock:
    """Held until :meth:`close`, or until the process has ended, however it ends. Works within one process, too.

    Args:
        path: a file, made where it is missing. It says which process holds the lock.
        taken: what the error says where another one holds it.

    Raises:
        RunError: another one holds it, or the file cannot be used.
    """

    def __init__(self, path: Path, taken: str) -> None:
        try:
            private_folder(path.parent)
            self._file: int | None = open_lock(path)
        except OSError as error:
            raise RunError(f"{path}: the run's lock cannot be used: {disk_error(error)}") from error
        try:
            if not lock_at_once(self._file):
                holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
                raise RunError(f"{path.parent}: {taken} (process {holder or 'not known'})")
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise RunError(f"{path}: the run's lock cannot be used: {disk_error(error)}") from error
            raise

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
