"""Tells of images that are nearly black as they are read: pictures of 10 to 14 bits that are kept as 16, or masks."""

from __future__ import annotations

import numpy as np

from smartedge.data.dataset import Split

__all__ = ["darkness"]

_LOOKED_AT = 8  # images
_DARK = 80  # of 255: 14 bits kept as 16 reach 63, and a little more where edges overshoot when they are resized


def darkness(name: str, split: Split) -> list[str]:
    """A note where no pixel of some images reaches a third of white; nothing otherwise.

    Images that are streamed are the first ones, since others would take long to reach.
    """
    count = min(_LOOKED_AT, len(split))
    places = np.arange(count) if split.streamed else np.linspace(0, len(split) - 1, count).astype(np.int64)
    brightest = int(split.read(places).images_BCHW.max())
    if brightest >= _DARK:
        return []
    return [
        f"the images of {name} are nearly black: the highest value in {count} of them is {brightest} of 255. Of "
        "pictures of 16 bits the upper 8 are used; where they hold 10, 12 or 14 bits, scale them to 16"
    ]
