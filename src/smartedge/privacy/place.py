"""The place of a ledger: its machine and its file. A copy has another place."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

__all__ = ["place_of"]

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


def place_of(path: Path) -> str:
    """A name for this machine and this file (its inode): 32 hexadecimal digits.

    It stays the same when the file is written to, or moved within its file system. A copy of the file has another name.
    A copy of the whole disk or of the whole virtual machine has the same name.

    Raises:
        OSError: the file is not there.
    """
    return hashlib.sha256(f"{_machine()} {path.stat().st_ino}".encode()).hexdigest()[:32]


def _machine() -> str:
    for file in _MACHINE_IDS:
        try:
            if found := file.read_text(encoding="ascii").strip():
                return found
        except (OSError, UnicodeDecodeError):
            continue
    return f"{uuid.getnode():x}"  # of a network card
