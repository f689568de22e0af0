"""Notices images that are in training and in another split too: figures on them say what was learned by heart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from smartedge.data.dataset import Split

__all__ = ["copies", "repeated"]

_MOST = 10_000  # images of a split that are looked at
_STREAMED = 200  # of images that have to be decoded for it
_BYTES = 2**25  # of their pixels
_BATCH = 256
_SHARE = 0.01  # of the images that were looked at; fewer may look alike, such as black ones


def repeated(name: str, trained: Split, others: Mapping[str, Split]) -> list[str]:
    """A note for each other split of which some images have exactly the pixels of training images."""
    return [
        f"{name}: {again} of the {looked_at} {split} images that were looked at are training images too, pixel by "
        "pixel, so its figures are better than they would be on new images; remove them from one of the two"
        for split, (again, looked_at) in copies(trained, others).items()
    ]


def copies(trained: Split, others: Mapping[str, Split]) -> dict[str, tuple[int, int]]:
    """How many images of other splits have exactly the pixels of training images, and how many were looked at.

    The first images of each split are looked at, so a data set of any size opens as fast. A split of which a hundredth
    at most has is left out.
    """
    known, found = set(_digests(trained)), {}
    for split, images in others.items():
        digests = _digests(images)
        again = sum(digest in known for digest in digests)
        if again > _SHARE * len(digests):
            found[split] = (again, len(digests))
    return found


def _digests(split: Split) -> list[bytes]:
    each = split.read(np.zeros(1, np.int64)).images_BCHW.nbytes
    count = min(len(split), _STREAMED if split.streamed else _MOST, max(_BYTES // each, 1))
    found = []
    for begin in range(0, count, _BATCH):
        images_BCHW = split.read(np.arange(begin, min(begin + _BATCH, count))).images_BCHW.numpy()
        found += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images_BCHW]
    return found
