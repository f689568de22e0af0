"""Files without content, by which processes of a cloud tell each other how far a run is: there after a power cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smartedge.cloud.intake import CLOSED, Intake
from smartedge.cloud.store.marks import ask_to_close, is_complete, mark_complete


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the names of open files are looked up there")
def test_the_folder_of_such_a_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = list[Path](), os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (synced.append(Path(os.readlink(f"/proc/self/fd/{file}"))), fsync(file))
    )
    intake = Intake(tmp_path, "edge")
    for told, folder in (
        (intake.close, tmp_path / CLOSED),
        (lambda: ask_to_close(tmp_path), tmp_path),
        (lambda: mark_complete(tmp_path, True), tmp_path),
        (lambda: mark_complete(tmp_path, False), tmp_path),
    ):
        synced.clear()
        told()
        assert synced[-1:] == [folder]
    assert intake.closed and not is_complete(tmp_path)
