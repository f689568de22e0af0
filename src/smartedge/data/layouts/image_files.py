"""Image files as the images of a split, in parts that are decoded and kept by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from smartedge.data.raw import MOST_PARTS, Images
from smartedge.data.reading.readers import Anywhere

__all__ = ["images_of"]

_LEAST_PART = 4096  # images: a part of the decoded images is a file of its own


def images_of(files: Sequence[Path]) -> Images:
    """The images of these files, in this order."""
    starts = [0]  # of the parts: whole folders, as many as make a part worth a file of its own
    least = max(_LEAST_PART, len(files) // MOST_PARTS)
    for place in range(1, len(files)):
        if place - starts[-1] >= least and files[place].parent != files[place - 1].parent:
            starts.append(place)
    parts = [files[start:end] for start, end in itertools.pairwise([*starts, len(files)])]
    return Images(
        len(files),
        key="files",
        items=partial(iter, files),
        files=files,
        name_of=lambda row: str(files[row]),
        reader=lambda: Anywhere(files.__getitem__),
        parts=[Images(len(part), key="files", items=partial(iter, part), files=part) for part in parts],
    )
