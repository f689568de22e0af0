"""Files that are written whole or not at all, that survive a power failure, and that only their owner can read.

A run's files come from images, labels and keys. So all of them are private; who wants to share one changes its mode.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "PRIVATE",
    "SMALL_BYTES",
    "disk_error",
    "final_name",
    "finite_or_none",
    "is_disk_error",
    "named_by",
    "open_regular",
    "private_folder",
    "read_small",
    "refuse_if_others_can_read",
    "replacing",
    "sync_file",
    "sync_folder",
    "system_error",
    "temporary_name",
    "try_folder",
    "write_atomically",
    "write_json_atomically",
]

PRIVATE = 0o600  # only the owner may read and write the file
SMALL_BYTES = 2**26  # of a file that people can read: settings, results, lists

_ADVICE = {
    errno.ENOSPC: "the disk is full: free space on it",
    errno.EDQUOT: "this user's share of the disk is used up: free space, or raise the quota",
    errno.EFBIG: "no file of this size is allowed: raise the limit (ulimit -f), or use another file system",
    errno.E2BIG: "no file of this kind is so large: name another one",
    errno.EROFS: "the disk can only be read: see the system's log for the reason, and mount it for writing",
    errno.EIO: "the disk reports a fault: see the system's log, and move the run to a sound disk",
    errno.EACCES: "permission is denied: let this user read and write there",
    errno.EPERM: "permission is denied: let this user read and write there",
    errno.ENOENT: "it is not there, or its folder is not: put back what was moved, make it, or name another place",
    errno.EEXIST: "a file is where a folder should be: choose another place, or move the file away",
    errno.ENOTDIR: "a file is where a folder should be: choose another place, or move the file away",
    errno.EISDIR: "a folder is where a file should be: name a file in it",
    errno.EINVAL: "no file can be written there: name another place",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
    errno.ELOOP: "links lead in a circle: choose another place",
    errno.EMFILE: "this process has too many open files: raise its limit (ulimit -n)",
    errno.ENFILE: "this machine has too many open files: raise the system's limit",
    errno.ENOMEM: "there is not enough memory: end other programs, raise the limit of this one (ulimit -v), or begin a "
    "new run with a smaller train.batch_size",
    errno.EAGAIN: "no further process or thread may be started: end others, or raise the limits (ulimit -u, ulimit -v)",
}
_NO_MEMORY = (
    "out of memory",
    "allocate memory",
    "bad_alloc",
    "failed to map segment",
)  # of torch, and of its libraries
_NO_THREAD = ("can't start new thread", "Resource temporarily unavailable")


def write_atomically(path: Path, data: bytes | str) -> None:
    """Put ``data`` in the place of a file. Readers see the old content or the new, never a part.

    Args:
        path: the file; its folder must be there.
        data: bytes, or text that is written as UTF-8 with its line ends as they are. A byte of a file's name that is
            no UTF-8 becomes a question mark.

    Raises:
        OSError: the disk does not take it; the old content is still there.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode(errors="replace") if isinstance(data, str) else data)


def write_json_atomically(path: Path, value: object) -> None:
    """Put ``value`` as JSON in the place of a file, as :func:`write_atomically` does.

    Raises:
        OSError: the disk does not take it; the old content is still there.
        ValueError: a number is NaN or infinite; the old content is still there.
    """
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False))


def finite_or_none(value: float) -> float | None:
    """A number as files hold it: JSON has no infinity, and null stands for it."""
    return value if math.isfinite(value) else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary, empty file beside ``path``, to be filled. It takes the place of ``path`` when the block ends.

    Where the block raises, the temporary file is removed and ``path`` stays as it was.

    Raises:
        OSError: the disk does not take it, or ``path`` is there and is no file: a folder, or a device, which is not
            to be replaced.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a device, not a file", str(path))
    temporary = temporary_name(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # of a write, which names none
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """A name for a file beside ``path`` that is there for a moment. :func:`final_name` knows whose it is."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def final_name(name: str) -> str:
    """The name to which a temporary one of :func:`temporary_name` belongs; any other name as it is.

    Another process may write such a file at this moment, or have been killed while it did.
    """
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.tmp", name)
    return found[1] if found else name


def named_by(error: OSError) -> str:
    """The file of an error; in place of a temporary one, the file that it was to become. Empty: it names none."""
    if (name := error.filename) is None:
        return ""
    folder, file = os.path.split(os.fsdecode(name) if isinstance(name, bytes) else str(name))
    return os.path.join(folder, final_name(file))


def sync_folder(path: Path) -> None:
    """Return when the names of the files in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BinaryIO:
    """Open a file that somebody else gave, for reading.

    Raises:
        OSError: it is not there; or it is a folder, a pipe, which would be waited for, or a device, which never ends.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # 'open' refuses a folder, and would leave it open
        raise OSError(errno.EINVAL, "not a file but a folder, pipe or device")
    return open(descriptor, "rb")


def read_small(file: BinaryIO) -> bytes:
    """The content of an open file, which somebody else may have written.

    Raises:
        OSError: it is larger than 64 MiB, which no file that is read as a whole needs.
    """
    content = file.read(SMALL_BYTES + 1)
    if len(content) > SMALL_BYTES:
        raise OSError(errno.E2BIG, "larger than 64 MiB")
    return content


def private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, with its parents. One that is there stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError as error:  # the system makes none in such a place, as in /proc
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from error


def try_folder(folder: Path) -> Path:
    """Try to write into a folder, or into the nearest one above where it is not there yet, and return which it was.

    Long work should not end where its results cannot be kept.

    Raises:
        OSError: nothing can be written there.
    """
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    tried = temporary_name(place / (folder.name or "tried"))
    try:
        with tried.open("xb", buffering=0) as file:
            file.write(bytes(4096))
            sync_file(file.fileno())
    finally:
        with suppress(OSError):
            tried.unlink(missing_ok=True)
    return place


def refuse_if_others_can_read(path: Path, error: type[Exception], what: str) -> None:
    """Refuse a secret that the group or everybody may read.

    Args:
        path: the file; it must be there.
        error: what is raised.
        what: the secret, for the message.

    Raises:
        Exception: of the class ``error``: others may read it.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise error(f"{path}: users other than its owner may read {what}; run: chmod 600 {path}")


def sync_file(descriptor: int) -> None:
    """Return when the content of a file is on the disk, and its size too.

    Raises:
        OSError: the disk does not take it; or the file has no name any more, so that nobody will find what is in it.
    """
    if os.fstat(descriptor).st_nlink == 0:
        raise FileNotFoundError("the file was removed while it was written; a run's folder must stay until its end")
    getattr(os, "fdatasync", os.fsync)(descriptor)  # some systems have no fdatasync


def is_disk_error(error: BaseException) -> bool:
    """Whether an error is one of the disk or of the rights on it, and no fault of the program."""
    return isinstance(error, OSError) and error.errno in _ADVICE


def system_error(error: BaseException) -> OSError | None:
    """What the machine has refused: disk, rights, files, memory or threads. None: the error is a fault of the program.

    Memory and threads that are refused reach Python as errors of several classes; they become one of the system.
    """
    if isinstance(error, OSError):
        return error if is_disk_error(error) else None
    text = str(error).partition("\n")[0]
    library = isinstance(error, (RuntimeError, ImportError))
    if isinstance(error, MemoryError) or (library and any(words in text for words in _NO_MEMORY)):
        return OSError(errno.ENOMEM, text or os.strerror(errno.ENOMEM))
    if library and any(words in text for words in _NO_THREAD):
        return OSError(errno.EAGAIN, text)
    return None


def disk_error(error: OSError) -> str:
    """What an error of the disk means, and what to do about it."""
    known = _ADVICE.get(error.errno or 0)
    return f"{known} ({error.strerror})" if known else str(error)
