"""How large the text of a page's figures is where it is read on a phone."""

from __future__ import annotations

import re
from pathlib import Path

CARD = 338  # pixels: what a phone of 390 leaves of a card, and so how wide a figure is drawn there
SMALLEST = 11  # pixels


def small_text(page: Path) -> list[str]:
    """Texts of the page's figures that are too small on a phone, with their pixels.

    Raises:
        AssertionError: the page has no figure.
    """
    found, figures = [], re.findall(r"<svg .*?</svg>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert figures, f"{page} has no figure"
    for figure in figures:
        box = re.search(r'viewBox="0 0 ([\d.]+) ', figure)
        assert box is not None
        for points, text in re.findall(r"font-size: ([\d.]+)px[^>]*>([^<]*)<", figure):
            if (pixels := float(points) * CARD / float(box[1])) < SMALLEST:
                found.append(f"{text}: {pixels:.1f}")
    return found
