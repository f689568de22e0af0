"""Images that are read and decoded each time they are used: nothing decoded is kept (``data.cache_bytes: 0``).

When a data set is opened for the first time, every image is decoded once, so that those that cannot be are left out as
they are with a cache. Only the list of them is kept. The memory that reading takes does not grow with the number of
images.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smartedge.data.raw import Images
from smartedge.data.reading.images import FORMAT, DecodingProgress, base_of, decode_threads, of_rows, parts_of
from smartedge.data.reading.readers import Reader
from smartedge.errors import DataError
from smartedge.files import private_folder, write_atomically
from smartedge.images.decode import Fit, Item, decode
from smartedge.images.size import ImageSize
from smartedge.types import Ints

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StreamedImages", "open_streamed"]

_AT_ONCE = 32  # images that are looked at together: they may be large


def open_streamed(
    images: Images,
    *,
    name: str,
    image_size: ImageSize,
    fit: Fit = "crop",
    cache_dir: Path,
    rows: Ints | None = None,
) -> StreamedImages:
    """The images of a source, of which none is kept. Arguments as of :func:`smartedge.data.reading.images.open_images`.

    Raises:
        DataError: the images of this layout cannot be read one by one, or the cache folder cannot be written.
    """
    if images.reader is None:
        raise DataError(
            f"data.cache_bytes: 0 keeps no decoded images, and those of {name} cannot be read one by one; leave it "
            "out, or write them as Parquet, tar or image files"
        )
    bad: dict[int, str] = {}
    for start, part, mine in parts_of(images, rows):
        if mine is None or len(mine):
            found = _unusable(part, name, image_size, fit, cache_dir, mine)
            bad |= {start + index: reason for index, reason in found.items()}
    return StreamedImages(images.reader(), image_size, fit, bad, images.name_of)


def _unusable(
    images: Images, name: str, size: ImageSize, fit: Fit, cache_dir: Path, rows: Ints | None
) -> dict[int, str]:
    """Index → reason of the images that cannot be decoded; found now, or in an earlier call."""
    base = base_of(images, name, size, fit, cache_dir)
    known = _known(base)
    if known is None and rows is not None:
        base = of_rows(base, rows)
        known = _known(base)
    if known is None:
        known = _look(images, name, size, fit, rows)
        try:
            private_folder(cache_dir)
            write_atomically(_list_of(base), json.dumps({"format": FORMAT, "bad": list(known.items())}))
        except OSError as error:
            raise DataError(
                f"cannot keep a list in {cache_dir}: {error.strerror or error}; make room there, or name another "
                "folder (data.cache_dir, or the variable XDG_CACHE_HOME)"
            ) from error
    return known


def _list_of(base: Path) -> Path:
    return base.with_name(f"{base.name}.checked.json")


def _known(base: Path) -> dict[int, str] | None:
    try:
        found = json.loads(_list_of(base).read_text(encoding="utf-8"))["bad"]
        return {int(index): str(reason) for index, reason in found}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _look(images: Images, name: str, size: ImageSize, fit: Fit, rows: Ints | None) -> dict[int, str]:
    """Decode every image that is needed, some at a time."""
    indices = np.arange(images.count) if rows is None else rows
    items = images.chosen(rows)
    bad: dict[int, str] = {}
    done = 0
    with ThreadPoolExecutor(decode_threads()) as pool, DecodingProgress(name, len(indices)) as on:
        while chunk := list(islice(items, _AT_ONCE)):
            for place, found in enumerate(_decoded(chunk, size, fit, pool)):
                if isinstance(found, str):
                    bad[int(indices[done + place])] = found
            done += len(chunk)
            on.update(done)
    return bad


class StreamedImages:
    """Images of one source, decoded when they are read.

    Args:
        reader: gives them by their indices.
        size: of the decoded images.
        fit: how they get that shape.
        bad: which images could not be decoded (index in the source → reason).
        name_of: what the image of an index is called in messages.
    """

    streamed = True

    def __init__(
        self, reader: Reader, size: ImageSize, fit: Fit, bad: dict[int, str], name_of: Callable[[int], str]
    ) -> None:
        self._reader, self._size, self._fit, self._name_of = reader, size, fit, name_of
        self._pool = ThreadPoolExecutor(decode_threads(), thread_name_prefix="smartedge-decode")
        weakref.finalize(self, self._pool.shutdown, wait=False)
        self.bad = bad

    def shuffled(self, indices: Ints, random: np.random.Generator) -> Ints:
        """As :class:`smartedge.data.reading.readers.Reader` says."""
        return self._reader.shuffled(indices, random)

    def read(self, indices: Ints) -> Tensor:
        """The images of these indices in the source, uint8 (B, C, H, W).

        Raises:
            DataError: an image was changed or removed since the data set was opened.
        """
        images_BCHW = np.empty((len(indices), *self._size.shape), np.uint8)
        decoded = _decoded(self._reader.items(indices), self._size, self._fit, self._pool)
        for place, found in enumerate(decoded):
            if isinstance(found, str):
                raise DataError(
                    f"{self._name_of(int(indices[place]))}: {found}; it could be read before. Restore it, and continue "
                    "with --resume"
                )
            images_BCHW[place] = found.transpose(2, 0, 1)
        import torch  # not above: to look for a data set needs none

        return torch.from_numpy(images_BCHW)


def _decoded(
    items: Sequence[Item], size: ImageSize, fit: Fit, pool: ThreadPoolExecutor
) -> Iterator[NDArray[np.uint8] | str]:
    """Images decoded by several threads, each as :func:`smartedge.images.decode.decode` gives it."""
    each = -(-len(items) // decode_threads())
    shares = [items[start : start + each] for start in range(0, len(items), max(1, each))]
    return chain.from_iterable(pool.map(lambda share: [decode(item, size, fit) for item in share], shares))
