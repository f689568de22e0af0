"""CIFAR-10 as its author distributes it: the binary version, or the one that torchvision keeps on disk.

torchvision's version consists of pickles. They are never unpickled. The block of pixels and the list of labels are
read from the stream of pickle instructions, and no instruction is carried out.
"""

from __future__ import annotations

import hashlib
import pickletools
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.data.raw import Images, RawData, RawSplit
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["CLASSES", "download_cifar10", "find_cifar10", "open_cifar10"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
TIMEOUT_S = 60

_PIXELS = 3 * 32 * 32
_FILES: dict[SplitName, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (N, 3072), labels (N,)


def find_cifar10(path: Path) -> Path | None:
    """The folder with the batches: ``path`` itself or one in it; the binary version where both are there."""
    for folder in (path / BINARY, path, path / PYTHON):
        if (folder / "data_batch_1.bin").is_file() or (folder / "data_batch_1").is_file():
            return folder
    return None


def open_cifar10(folder: Path) -> RawData:
    """Open a folder that :func:`find_cifar10` found. The column is ``label``.

    Raises:
        DataError: a batch is missing or not in its format.
    """
    binary = (folder / "data_batch_1.bin").is_file()
    read = _read_binary if binary else _read_python
    splits: dict[SplitName, RawSplit] = {}
    for split, names in _FILES.items():
        files = [folder / (name + ".bin" if binary else name) for name in names]
        labels = np.concatenate([_checked(file, read)[1] for file in files])
        images = Images(len(labels), key="cifar10", items=partial(_items, files, read), files=files)
        splits[split] = RawSplit.from_table(images, pa.table({"label": labels}))
    return RawData("cifar10", splits, {"label": CLASSES})


def _items(files: list[Path], read: Callable[[Path], Batch]) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        yield from _checked(file, read)[0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _checked(file: Path, read: Callable[[Path], Batch]) -> Batch:
    try:
        return read(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as a batch of CIFAR-10: {error}") from error


def _read_binary(file: Path) -> Batch:
    data = np.frombuffer(file.read_bytes(), np.uint8)
    if not len(data) or len(data) % (1 + _PIXELS):
        raise ValueError(f"{len(data)} bytes are not a whole number of images of {1 + _PIXELS} bytes")
    records = data.reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_python(file: Path) -> Batch:
    pixels, labels, in_labels = b"", [], False
    for operation, argument, _ in pickletools.genops(file.read_bytes()):
        if isinstance(argument, (str, bytes)) and operation.name != "GLOBAL":
            in_labels = argument in ("labels", b"labels")
            if len(argument) > len(pixels):
                pixels = argument.encode("latin-1") if isinstance(argument, str) else argument
        elif in_labels and isinstance(argument, int) and operation.name.startswith("BININT"):
            labels.append(argument)
    if not labels or len(pixels) != len(labels) * _PIXELS:
        raise ValueError(f"{len(labels)} labels and {len(pixels)} bytes of pixels do not belong together")
    return np.frombuffer(pixels, np.uint8).reshape(-1, _PIXELS), np.array(labels, np.int64)


def download_cifar10(folder: Path) -> Path:
    """Fetch the binary version (162 MiB) from its author, check it, and unpack it into ``folder``.

    Returns:
        The folder with the batches.

    Raises:
        DataError: it cannot be fetched, or is not the file that was expected.
    """
    hint = f"fetch {URL} yourself, unpack it, and give the folder as data.path"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as archive:
            digest = hashlib.md5(usedforsecurity=False)
            with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as response:
                while block := response.read(1 << 20):
                    archive.write(block)
                    digest.update(block)
            if digest.hexdigest() != MD5:
                raise DataError(f"{URL} gave another file than expected (MD5 {digest.hexdigest()}); {hint}")
            archive.seek(0)
            _unpack(archive, folder / BINARY)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"CIFAR-10 could not be fetched from {URL}: {error}; {hint}") from error
    return folder / BINARY


def _unpack(archive: object, folder: Path) -> None:
    """Write the batches, and nothing else, whatever paths the archive names."""
    folder.mkdir(exist_ok=True)
    wanted = {f"{BINARY}/{name}.bin": f"{name}.bin" for names in _FILES.values() for name in names}
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:  # type: ignore[call-overload]
        for member in tar:
            if member.name in wanted and (source := tar.extractfile(member)):
                (folder / wanted[member.name]).write_bytes(source.read())
