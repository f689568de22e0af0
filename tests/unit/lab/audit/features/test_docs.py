"""The example of docs/privacy.md runs, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[5] / "docs" / "privacy.md"


@pytest.mark.slow
def test_the_example_prints_what_the_page_shows(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Measure features of another program")[1].split("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)
    program = "".join(code for language, code in blocks if language == "python")
    (shown,) = (code for language, code in blocks if not language)
    before = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, env=before
    )
    figures = [[float(number) for number in re.findall(r"\d+\.\d", text)] for text in (found.stdout, shown)]
    assert re.sub(r"\d+\.\d", "", found.stdout) == re.sub(r"\d+\.\d", "", shown)
    # Another processor rounds otherwise: an attacker may answer a few of the 450 images otherwise.
    assert all(abs(here - there) <= 1.5 for here, there in zip(*figures, strict=True))
    assert (tmp_path / "faces.npz").exists()
