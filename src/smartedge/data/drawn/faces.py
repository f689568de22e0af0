"""The embedded faces: drawn by formula, so that every attribute is known and independent of all the others.

Eight yes/no attributes, each a fair coin of its own: protecting one of them perfectly means that nobody guesses it
better than chance, whatever else is known about the image. Everything else about a face (pose, light, skin, hair,
clothes, background, noise) is drawn independently of the attributes.

Two of them make the column ``expression`` of four classes: a mouth that is open or not, with or without a smile.

An image is a function of ``(seed, split, index)``. :mod:`smartedge.data.drawn.parts` paints it at the size asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.data.drawn.canvas import Floats
from smartedge.data.drawn.parts import ATTRIBUTES, Face
from smartedge.data.raw import Images, RawData, RawSplit
from smartedge.data.reading.readers import Block, InBlocks
from smartedge.images.size import ImageSize
from smartedge.types import SPLITS, SplitName

__all__ = ["ATTRIBUTES", "DEFAULT_COUNTS", "EXPRESSIONS", "draw", "open_drawn"]

EXPRESSIONS = ("neutral", "surprise", "smile", "laugh")  # neither; mouth_open alone; smile alone; both

DEFAULT_COUNTS: dict[SplitName, int] = {"train": 4000, "val": 500, "test": 1000}
VERSION = 1  # raise it when a drawing changes, so that cached images are drawn again
CHUNK = 32  # small enough that the arrays of a chunk stay in the processor's cache


def open_drawn(image_size: int | ImageSize, counts: dict[SplitName, int] | None = None) -> RawData:
    """The embedded data set: always the same faces, whatever the seed of a run.

    Args:
        image_size: the faces are drawn in a square of its longer side.
        counts: how many images a split has, where it is not :data:`DEFAULT_COUNTS`.
    """
    splits: dict[SplitName, RawSplit] = {}
    for split, count in {**DEFAULT_COUNTS, **(counts or {})}.items():
        columns = dict(zip(ATTRIBUTES, _attributes_of(split, count).T, strict=True))
        expression = np.take(EXPRESSIONS, columns["mouth_open"] + 2 * columns["smile"].astype(np.int64))
        table = pa.table({**columns, "expression": expression})
        drawing = _Drawing(split, count, max(ImageSize.of(image_size).sides))
        images = Images(count, key=f"drawn {VERSION} {split}", items=drawing, reader=drawing.reader)
        splits[split] = RawSplit.from_table(images, table)
    return RawData("drawn", splits)


@lru_cache(maxsize=16)
def _attributes_of(split: SplitName, count: int) -> NDArray[np.bool_]:
    """The attributes of a split's first images, bool (N, 8). A process that opens the data set again has them."""
    flags = _attributes(_uniforms(0, split, np.arange(count)))
    flags.flags.writeable = False
    return flags


class _Drawing:
    """Yields the images of one split, each uint8 (S, S, 3)."""

    def __init__(self, split: SplitName, count: int, image_size: int) -> None:
        self.split: SplitName = split
        self.count = count
        self.image_size = image_size

    def __call__(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, self.count, CHUNK):
            yield from self._drawn(np.arange(start, min(start + CHUNK, self.count)))

    def reader(self) -> InBlocks:
        """The same, chunk by chunk: a face drawn alone may differ in the last bit."""
        size = 3 * self.image_size**2
        blocks = []
        for start in range(0, self.count, CHUNK):
            indices = np.arange(start, min(start + CHUNK, self.count))
            items = partial(self._drawn, indices)
            blocks.append(Block(len(indices), items, size * len(indices)))
        return InBlocks(blocks)

    def _drawn(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        yield from draw(indices, split=self.split, image_size=self.image_size)[0]


def draw(
    indices: NDArray[np.int64], *, split: SplitName = "train", image_size: int = 64, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw some faces.

    Args:
        indices: which ones, int64 (N,); image ``i`` is the same whatever is drawn along with it.
        split: faces of different splits have nothing in common.
        image_size: height and width, pixels.
        seed: another seed, another data set.

    Returns:
        Images uint8 (N, S, S, 3) and their attributes bool (N, 8) in the order of :data:`ATTRIBUTES`.
    """
    images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    uniforms = _uniforms(seed, split, indices)
    flags = _attributes(uniforms)
    for start in range(0, len(indices), CHUNK):
        stop = start + CHUNK
        grain = [_generator(seed, split, int(i), 1).bytes(image_size * image_size) for i in indices[start:stop]]
        images[start:stop] = Face(uniforms[start:stop], flags[start:stop], grain, image_size).paint()
    return images, flags


def _generator(seed: int, split: SplitName, index: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, SPLITS.index(split), index, stream))))


def _uniforms(seed: int, split: SplitName, indices: NDArray[np.int64]) -> Floats:
    """Every random number of some images, float32 (N, 256) in [0, 1); the first eight are the attributes' coins."""
    rows = [_generator(seed, split, int(i), 0).random(256, dtype=np.float32) for i in indices]
    return np.stack(rows) if rows else np.empty((0, 256), np.float32)


def _attributes(uniforms: Floats) -> NDArray[np.bool_]:
    return uniforms[:, : len(ATTRIBUTES)] < 0.5
