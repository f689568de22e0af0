"""The journal of the order: which frames the cloud learned from, and when. It is written before they are used.

What the cloud computes follows from the settings, the frames and the journal, whatever the timing was. So a run that is
resumed, or repeated from its store, follows the journal and ends with the same weights.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from pydantic import ValidationError

from smartedge.artifacts.base import checksum_without_check
from smartedge.artifacts.fleet_run import OrderLine
from smartedge.errors import LogError
from smartedge.files import PRIVATE, disk_error, sync_folder

__all__ = ["Journal", "JournalCopy"]


class Journal:
    """An append-only file of :class:`~smartedge.artifacts.fleet_run.OrderLine`.

    Args:
        path: made where it is missing. A last line that was not written whole is cut off: nothing was computed from it.

    Raises:
        LogError: a line is damaged, or the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[OrderLine] = []
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
            self._read(path.read_bytes())
            sync_folder(path.parent)
        except OSError as error:
            raise LogError(f"{path}: the journal of the order cannot be used: {disk_error(error)}") from error

    def append(self, line: OrderLine) -> None:
        """Add a line. It is durable when this returns.

        Raises:
            LogError: the disk does not take it.
        """
        fields = line.model_dump(mode="json", exclude_none=True, exclude={"check"})
        data = json.dumps({"check": checksum_without_check(fields), **fields}).encode() + b"\n"
        try:
            end = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, data)
                if written != len(data):
                    raise OSError(errno.ENOSPC, f"{written} of {len(data)} bytes were written")
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, end)
                raise
        except OSError as error:
            raise LogError(f"{self.path}: the journal cannot be written: {disk_error(error)}") from error
        self.lines.append(line)

    def text(self) -> str:
        """All lines, for :class:`JournalCopy`."""
        return "\n".join(line.model_dump_json() for line in self.lines)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read(self, data: bytes) -> None:
        good = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                os.ftruncate(self._file, good)
                return
            try:
                fields = json.loads(line)
                found = OrderLine.model_validate(fields)
                whole = checksum_without_check(fields) == found.check
            except (ValueError, ValidationError, AttributeError, TypeError):
                whole = False
            if not whole:
                raise LogError(
                    f"{self.path}: line {number} is damaged, so the order of the run is lost; restore the file from a "
                    "copy, or start a new run"
                )
            self.lines.append(found)
            good += len(line)


class JournalCopy:
    """The journal as a worker knows it that does not write it.

    Args:
        path: of the journal; for messages.
        text: :meth:`Journal.text` of the worker that writes it.
    """

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.lines = [OrderLine.model_validate_json(line) for line in text.splitlines()]

    def append(self, line: OrderLine) -> None:
        """Note a line that the other worker writes."""
        self.lines.append(line)

    def close(self) -> None:
        """Nothing to do."""
