"""How many functions of ours one image passes from the edge's disk into the back's weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_an_image_passes_few_functions_and_wire_and_cloud_handle_a_frame_in_a_few_places(repo_root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(repo_root / "scripts" / "image_path")], capture_output=True, text=True, check=True
    )
    *rows, total = ran.stdout.splitlines()
    passed = [tuple(row.split()) for row in rows]
    assert total == f"{len(passed)} functions in {len({file for file, _ in passed})} files"
    assert len(passed) <= 58 and len({file for file, _ in passed}) <= 34
    handling = {(file, name) for file, name in passed if file.startswith(("cloud/", "wire/"))}
    assert len(handling) <= 17
    for once in ("serialise", "receive", "parse"):
        assert ("wire/frame.py", once) in handling
