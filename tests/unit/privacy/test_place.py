"""What the file system keeps beside a ledger, where it can."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smartedge.privacy.place import frames_noted, note_frames


def test_a_system_without_extended_attributes_notes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no such functions on macOS and Windows."""
    for name in ("setxattr", "getxattr"):
        monkeypatch.delattr(os, name, raising=False)
    note_frames(tmp_path, 3)
    assert frames_noted(tmp_path) == 0


def test_a_file_system_that_keeps_none_notes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> bytes:
        raise OSError(95, "Operation not supported")

    for name in ("setxattr", "getxattr"):
        monkeypatch.setattr(os, name, unsupported, raising=False)
    note_frames(tmp_path, 3)
    assert frames_noted(tmp_path) == 0
