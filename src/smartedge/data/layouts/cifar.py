"""CIFAR-10 and CIFAR-100 as their author distributes them: the binary versions, or those that torchvision keeps.

torchvision's versions consist of pickles. They are never unpickled. The block of pixels and the lists of labels are
read from the stream of pickle instructions, and no instruction is carried out.
"""

from __future__ import annotations

import hashlib
import pickletools
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.data.raw import Images, RawData, RawSplit
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["CLASSES", "Cifar", "download_cifar10", "find_cifar", "open_cifar"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
TIMEOUT_S = 60

_PIXELS = 3 * 32 * 32
_CIFAR10: Mapping[SplitName, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_CIFAR100: Mapping[SplitName, tuple[str, ...]] = {"train": ("train",), "test": ("test",)}

Labels = dict[str, NDArray[np.int64]]  # column → (N,)
Batch = tuple[NDArray[np.uint8], Labels]  # pixels (N, 3072), labels


@dataclass(frozen=True)
class Cifar:
    """A version of one of the two data sets in a folder.

    Attributes:
        folder: where the batches lie.
        hundred: whether it is CIFAR-100.
        binary: whether the batches are in the binary format.
    """

    folder: Path
    hundred: bool
    binary: bool

    @property
    def columns(self) -> dict[str, str]:
        """Column → what the pickles call it, in the order of the binary records."""
        return {"coarse_label": "coarse_labels", "label": "fine_labels"} if self.hundred else {"label": "labels"}

    def files(self, names: Sequence[str]) -> list[Path]:
        """The files of these batches."""
        return [self.folder / (f"{name}.bin" if self.binary else name) for name in names]

    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Column → the names of its classes. Those of CIFAR-100 lie beside the batches.

        Raises:
            DataError: they cannot be read.
        """
        if not self.hundred:
            return {"label": CLASSES}
        keys = {"coarse_label": "coarse_label_names", "label": "fine_label_names"}
        if self.binary:
            texts = {column: _lines(self.folder / f"{key}.txt") for column, key in keys.items()}
        else:
            texts = _lists_of_texts(self.folder / "meta", keys)
        return {column: tuple(names) for column, names in texts.items()}


def find_cifar(path: Path) -> Cifar | None:
    """The batches in a folder or in the folder of the archive's name in it; the binary version where both are there."""
    for folder in (path / BINARY, path, path / PYTHON):
        for ending in (".bin", ""):
            if (folder / f"data_batch_1{ending}").is_file():
                return Cifar(folder, hundred=False, binary=bool(ending))
    for folder in (path / "cifar-100-binary", path, path / "cifar-100-python"):
        if (folder / "train.bin").is_file() and (folder / "fine_label_names.txt").is_file():
            return Cifar(folder, hundred=True, binary=True)
        if (folder / "train").is_file() and (folder / "meta").is_file():
            return Cifar(folder, hundred=True, binary=False)
    return None


def open_cifar(found: Cifar) -> RawData:
    """Open what :func:`find_cifar` found. The columns are ``label`` and, of CIFAR-100, ``coarse_label``.

    Raises:
        DataError: a batch is missing or not in its format.
    """
    splits: dict[SplitName, RawSplit] = {}
    for split, names in (_CIFAR100 if found.hundred else _CIFAR10).items():
        files = found.files(names)
        parts = [_batch(found, file)[1] for file in files]
        table = pa.table({column: np.concatenate([part[column] for part in parts]) for column in found.columns})
        images = Images(table.num_rows, key="cifar", items=partial(_items, found, files), files=files)
        splits[split] = RawSplit.from_table(images, table)
    return RawData("cifar100" if found.hundred else "cifar10", splits, found.class_names())


def _items(found: Cifar, files: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        yield from _batch(found, file)[0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _batch(found: Cifar, file: Path) -> Batch:
    try:
        return _read_binary(found, file) if found.binary else _read_python(found, file)
    except (OSError, ValueError) as error:
        name = "CIFAR-100" if found.hundred else "CIFAR-10"
        raise DataError(f"{file} cannot be read as a batch of {name}: {error}") from error


def _read_binary(found: Cifar, file: Path) -> Batch:
    data, labels = np.frombuffer(file.read_bytes(), np.uint8), len(found.columns)
    if not len(data) or len(data) % (labels + _PIXELS):
        raise ValueError(f"{len(data)} bytes are not a whole number of images of {labels + _PIXELS} bytes")
    records = data.reshape(-1, labels + _PIXELS)
    return records[:, labels:], {
        column: records[:, place].astype(np.int64) for place, column in enumerate(found.columns)
    }


def _read_python(found: Cifar, file: Path) -> Batch:
    pixels, lists = b"", {key: list[int]() for key in found.columns.values()}
    key = ""  # the text that was read last
    for operation, argument, _ in pickletools.genops(file.read_bytes()):
        if isinstance(argument, (str, bytes)) and operation.name != "GLOBAL":
            key = argument if isinstance(argument, str) else argument[:64].decode("latin-1")
            if len(argument) > len(pixels):
                pixels = argument.encode("latin-1") if isinstance(argument, str) else argument
        elif key in lists and isinstance(argument, int) and operation.name.startswith("BININT"):
            lists[key].append(argument)
    for key, values in lists.items():
        if not values or len(pixels) != len(values) * _PIXELS:
            raise ValueError(f"{len(values)} {key} and {len(pixels)} bytes of pixels do not belong together")
    labels = {column: np.array(lists[key], np.int64) for column, key in found.columns.items()}
    return np.frombuffer(pixels, np.uint8).reshape(-1, _PIXELS), labels


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read; it holds the names of CIFAR-100's classes: {error}") from error


def _lists_of_texts(file: Path, keys: Mapping[str, str]) -> dict[str, list[str]]:
    """The lists of texts that a pickled mapping has under some keys; nothing of the pickle is carried out."""
    lists: dict[str, list[str]] = {key: [] for key in keys.values()}
    current: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(file.read_bytes()):
            if isinstance(argument, (str, bytes)) and operation.name != "GLOBAL":
                text = argument if isinstance(argument, str) else argument.decode("latin-1")
                if text in lists:
                    current = lists[text]
                else:
                    current.append(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read; it holds the names of CIFAR-100's classes: {error}") from error
    if empty := [key for key, names in lists.items() if not names]:
        raise DataError(f"{file} has no {' and no '.join(empty)}: the names of CIFAR-100's classes")
    return {column: lists[key] for column, key in keys.items()}


def download_cifar10(folder: Path) -> Cifar:
    """Fetch the binary version (162 MiB) from its author, check it, and unpack it into ``folder``.

    Returns:
        The batches.

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
            with tempfile.TemporaryDirectory(dir=folder) as temporary:  # so that a part is never taken for the whole
                _unpack(archive, Path(temporary) / BINARY)
                (Path(temporary) / BINARY).replace(folder / BINARY)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"CIFAR-10 could not be fetched from {URL}: {error}; {hint}") from error
    return Cifar(folder / BINARY, hundred=False, binary=True)


def _unpack(archive: object, folder: Path) -> None:
    """Write the batches, and nothing else, whatever paths the archive names."""
    folder.mkdir(exist_ok=True)
    wanted = {f"{BINARY}/{name}.bin": f"{name}.bin" for names in _CIFAR10.values() for name in names}
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:  # type: ignore[call-overload]
        for member in tar:
            if member.name in wanted and (source := tar.extractfile(member)):
                (folder / wanted[member.name]).write_bytes(source.read())
