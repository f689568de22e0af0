"""The place of a ledger: its machine and its file. A copy has another place.

An older ledger may also be copied *into* the file that is there. Its place stays the same then. So the file system
keeps beside the content how many frames the file has held: in an extended attribute, which a plain copy leaves alone.

Finding out the place opens the file and closes it. When a process closes a file, it loses all its locks on that file
(POSIX), those of SQLite too. Another process that closes the ledger then takes itself for the last one, and deletes
the ``-wal`` file under the first one. So a file that is open as a ledger in this process is never opened here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import uuid
from pathlib import Path

from smartedge.errors import PrivacyError

__all__ = ["OpenFiles", "OpenPlace", "frames_noted", "note_frames", "place_of", "refuse_fewer_frames"]

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_NOTE = "user.smartedge.frames"
_GET_GENERATION = 0x80007601 | struct.calcsize("l") << 16  # FS_IOC_GETVERSION of Linux


_lock = threading.Lock()
_opened: dict[tuple[int, int], tuple[str, int]] = {}  # device and inode of a ledger → its place, and how many have it


class OpenPlace:
    """The place of a ledger that this process has open.

    Make it before SQLite opens the file, and close it after SQLite has closed the file.

    Args:
        path: the ledger.

    Raises:
        OSError: the file is not there.
    """

    def __init__(self, path: Path) -> None:
        with _lock:
            status = path.stat()
            self._file = status.st_dev, status.st_ino
            self.name, users = _opened.get(self._file) or (_name(path), 0)
            _opened[self._file] = self.name, users + 1

    def close(self) -> None:
        """The file is closed."""
        with _lock:
            name, users = _opened.pop(self._file)
            if users > 1:
                _opened[self._file] = name, users - 1


class OpenFiles:
    """The file of an open ledger and the two that SQLite keeps beside it.

    SQLite goes on in a file that was removed. What is debited there is lost when the process ends.

    Args:
        path: the ledger, after SQLite has opened it.

    Raises:
        OSError: a file is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = self._now()

    def check(self) -> None:
        """See that the names still lead to these files.

        Raises:
            PrivacyError: they do not.
        """
        with contextlib.suppress(FileNotFoundError):
            if self._now() == self._found:
                return
        raise PrivacyError(
            f"{self._path}: this file, or the -wal or -shm file beside it, was removed or replaced while the ledger is "
            "open. Nothing of this batch was sent. Restore it from a copy, or start a new run"
        )

    def _now(self) -> list[tuple[int, int]]:
        found = [Path(f"{self._path}{ending}").stat() for ending in ("", "-wal", "-shm")]
        return [(status.st_dev, status.st_ino) for status in found]


def place_of(path: Path) -> str:
    """A name for this machine and this file (its inode): 32 hexadecimal digits.

    It stays the same when the file is written to, or moved within its file system. A copy of the file has another name,
    also where it is put in the place of the removed file and gets the same inode number. A copy of the whole disk or of
    the whole virtual machine has the same name.

    Raises:
        OSError: the file is not there.
    """
    place = OpenPlace(path)
    place.close()
    return place.name


def _name(path: Path) -> str:
    return hashlib.sha256(f"{_machine()} {path.stat().st_ino}{_generation(path)}".encode()).hexdigest()[:32]


def note_frames(path: Path, frames: int) -> None:
    """Note beside the content of a file that it holds so many frames, once they are on disk.

    The note is not synced, so after a crash of the machine it may be too small. Nothing is noted where the file system
    keeps no extended attributes, and on systems other than Linux.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.setxattr(path, _NOTE, str(frames).encode())


def frames_noted(path: Path) -> int:
    """The number of frames that was noted last; 0 where nothing was."""
    try:
        return int(os.getxattr(path, _NOTE))
    except (OSError, AttributeError, ValueError):
        return 0


def refuse_fewer_frames(path: Path, frames: int, noted: int) -> None:
    """Refuse a ledger that has lost frames.

    Args:
        path: the ledger.
        frames: that it holds.
        noted: :func:`frames_noted`, asked before the frames were counted, since another process may add some.

    Raises:
        PrivacyError: more were noted than it holds.
    """
    if frames < noted:
        raise PrivacyError(
            f"{path}: holds {frames} frames, and it held {noted}: an older copy was written into it, or its -wal file "
            "is gone. What was released since then is not known, so nothing is released. Restore the newest copy, or "
            "start a new run"
        )


def _generation(path: Path) -> str:
    """The number that tells apart the files that had one inode number after each other; empty where there is none.

    ext4 gives the number of a removed file to the next one. ext4, XFS, Btrfs and F2FS keep a generation for that. Other
    file systems have none, or (tmpfs) never use a number again.
    """
    try:
        import fcntl

        with path.open("rb") as file:
            answer = fcntl.ioctl(file, _GET_GENERATION, bytes(struct.calcsize("l")))
    except (ImportError, OSError):
        return ""
    return f" {struct.unpack_from('I', answer)[0]}"


def _machine() -> str:
    for file in _MACHINE_IDS:
        try:
            if found := file.read_text(encoding="ascii").strip():
                return found
        except (OSError, UnicodeDecodeError):
            continue
    return f"{uuid.getnode():x}"  # of a network card
