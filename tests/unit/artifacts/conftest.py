"""Examples of files."""

from __future__ import annotations

from typing import Any

import pytest
import results_example


@pytest.fixture
def example_results() -> dict[str, Any]:
    """``results.json`` of version 2."""
    return results_example.example_results()
