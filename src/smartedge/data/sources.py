"""Finds a data set by name or path, and opens the layout that it has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from smartedge.data.drawn.faces import DEFAULT_COUNTS, open_drawn
from smartedge.data.layouts.celeba import is_celeba, open_celeba
from smartedge.data.layouts.cifar import download_cifar10, find_cifar, open_cifar
from smartedge.data.layouts.columnar import find_tables, open_tables
from smartedge.data.layouts.folder import open_folder
from smartedge.data.layouts.foreign import recognise
from smartedge.data.layouts.hub import open_hub
from smartedge.data.layouts.listing import find_files
from smartedge.data.layouts.medmnist import open_medmnist
from smartedge.data.layouts.stored import ARROW, PARQUET
from smartedge.data.layouts.webdataset import TAR, open_webdataset
from smartedge.data.raw import RawData
from smartedge.data.reading.images import default_cache_dir
from smartedge.errors import DataError
from smartedge.files import disk_error, named_by
from smartedge.images.size import ImageSize
from smartedge.types import SplitName

__all__ = ["may_be_fetched", "open_raw"]

CIFAR = "cifar10"  # this path means CIFAR-10, which is fetched where it is not there
HUB = "hf:"  # a path that begins so names a data set of the Hugging Face hub
_FILES = (*sorted(PARQUET | ARROW | TAR), ".npz")  # endings of a data set in one file


def may_be_fetched(path: str) -> bool:
    """Whether :func:`open_raw` may have to fetch this data set from elsewhere, which takes a while."""
    return path == CIFAR or path.startswith(HUB)


def open_raw(
    path: str, image_size: ImageSize, limit: Mapping[SplitName, int] | None = None, cache_dir: Path | None = None
) -> RawData:
    """Find the layout of a data set, without decoding images or choosing columns.

    Arguments are those of :func:`~smartedge.data.opening.open_dataset`.

    Raises:
        DataError: the data set is not there, or in no known layout.
    """
    limit, cache_dir = limit or {}, cache_dir or default_cache_dir()
    if path == "drawn":
        return open_drawn(image_size, {s: max(count, limit.get(s, 0)) for s, count in DEFAULT_COUNTS.items()})
    if path == CIFAR:
        kept = cache_dir / CIFAR
        return open_cifar(find_cifar(kept) or download_cifar10(kept))
    if path.startswith(HUB):
        return open_hub(path.removeprefix(HUB), cache_dir)
    if "://" in path:
        raise DataError(f"{path} is an address, and no folder: fetch the data set, and give its path on this machine")
    try:
        place = Path(path).expanduser()
        if not place.exists():
            raise DataError(_absent(place))
        return _open_file(place, cache_dir, image_size.channels) if place.is_file() else _open_folder(place, cache_dir)
    except OSError as error:  # such as no right to read
        inside = f"{named}: " if (named := named_by(error)) not in ("", str(place)) else ""
        raise DataError(f"the data set {path!r} cannot be read: {inside}{disk_error(error)}") from error
    except (RuntimeError, ValueError) as error:  # no such user after ~, no name of a file
        raise DataError(f"the data set {path!r} cannot be read: {error}") from error


def _open_file(place: Path, cache_dir: Path, channels: int) -> RawData:
    ending = place.suffix.lower()
    if ending == ".npz":
        return open_medmnist(place, channels)
    if ending in PARQUET | ARROW:
        return open_tables(place.stem, place.parent, {"train": [place]})
    if ending in TAR:
        return open_webdataset(place.stem, {"train": [place]}, (), cache_dir)
    hint = recognise([place]) or f"it may end in {', '.join(_FILES)}; for images and their table give the folder"
    raise DataError(f"{place} is a file of an unknown kind for a data set; {hint}")


def _open_folder(place: Path, cache_dir: Path) -> RawData:
    if is_celeba(place):
        return open_celeba(place)
    if found := find_cifar(place):
        return open_cifar(found)
    name = place.resolve().name
    files, notes = find_tables(place)
    if files:
        return open_tables(name, place, files, notes)
    files, notes = find_files(place, TAR)
    if files:
        return open_webdataset(name, files, notes, cache_dir)
    return open_folder(place)


def _absent(place: Path) -> str:
    known = {"drawn": "drawn", "cifar10": "cifar10"}
    for child in sorted(place.parent.iterdir()) if place.parent.is_dir() else ():
        known[child.name] = known[child.stem] = child.name
    near = {known[name]: None for name in difflib.get_close_matches(place.name, known, n=3)}
    hint = f"; did you mean {' or '.join(near)}?" if near else "; known by name are drawn, cifar10 and hf:user/name"
    seen_from = "" if place.is_absolute() else f" in {Path.cwd()}"
    return f"there is no data set at {place}{seen_from}{hint}"
