"""The tests that docs/security.md names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`((?:unit|e2e)/[\w/]+\.py)?(?:::(\w+))?`", page)
    file, checked = "", 0
    for path, test in named:
        file = path or file
        if path:
            assert (ROOT / "tests" / path).is_file(), path
            checked += 1
        if test:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
            checked += 1
    assert checked > 30
