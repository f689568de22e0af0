"""A folder of labelled images, for an edge without torch: ``train``, ``val``, ``test``, each with a folder per class.

The images, their ids and their labels are those that :func:`smartedge.data.open_dataset` gives for the same folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import DataError
from smartedge.images.decode import Fit, decode, is_hidden, walk
from smartedge.images.size import ImageSize
from smartedge.types import SPLITS, SplitName, Task

__all__ = ["LabelledFolder"]


@dataclass(frozen=True)
class LabelledFolder:
    """Files and labels of each split. An image's id is its place in the split's list.

    Attributes:
        files: split → files, in order.
        labels: split → int64 (N,), places in the task's names.
    """

    files: Mapping[SplitName, Sequence[Path]]
    labels: Mapping[SplitName, NDArray[np.int64]]

    @classmethod
    def open(cls, folder: Path, task: Task) -> LabelledFolder:
        """List a folder.

        Raises:
            DataError: the task has several labels per image, a split is missing or empty, or a class is unknown.
        """
        if task.kind != "single":
            raise DataError(
                f"{folder}: folders name one class per image, and this front learned several labels "
                f"({', '.join(task.names)}); release these images on an edge that has torch"
            )
        files: dict[SplitName, list[Path]] = {}
        labels: dict[SplitName, NDArray[np.int64]] = {}
        for split in SPLITS:
            files[split], numbers = _list(folder / split, task)
            labels[split] = np.array(numbers, dtype=np.int64)
        return cls(files, labels)

    def fingerprint(self) -> str:
        """Of the files' names, sizes and times of change, and of the labels: 32 hexadecimal digits."""
        digest = hashlib.sha256()
        for split, files in self.files.items():
            for file in files:
                status = file.stat()
                digest.update(
                    f"{split} {file} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape")
                )
            digest.update(self.labels[split].tobytes())
        return digest.hexdigest()[:32]

    def usable(
        self, split: SplitName, image_size: int | ImageSize, fit: Fit
    ) -> tuple[NDArray[np.int64], dict[Path, str]]:
        """Ids of the images that can be decoded, and what is wrong with the others.

        Every image is decoded: the header of a stream says how many frames will come.
        """
        ids, problems = [], {}
        for number, file in enumerate(self.files[split]):
            found = decode(file, image_size, fit)
            if isinstance(found, str):
                problems[file] = found
            else:
                ids.append(number)
        return np.array(ids, dtype=np.int64), problems

    def batches(
        self, split: SplitName, ids: NDArray[np.int64], size: int, image_size: int | ImageSize, fit: Fit
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]]:
        """Ids, pixels (uint8 (B, 3, H, W)) and labels, ``size`` images at a time.

        Raises:
            DataError: an image was changed or removed since it was listed.
        """
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            pixels = []
            for number in part.tolist():
                file = self.files[split][number]
                found = decode(file, image_size, fit)
                if isinstance(found, str):
                    raise DataError(f"{file}: {found}; it could be read before. Restore it, and continue with --resume")
                pixels.append(found.transpose(2, 0, 1))
            yield part, np.stack(pixels), self.labels[split][part]


def _list(folder: Path, task: Task) -> tuple[list[Path], list[int]]:
    try:
        classes = sorted(child for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))
        found = [sorted(walk(child)) for child in classes]
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be read ({error.strerror}); --source needs the folders train, val and "
            f"test, each with a folder per class: {', '.join(task.names)}"
        ) from error
    if unknown := [child.name for child in classes if child.name not in task.names]:
        raise DataError(
            f"{folder}: {', '.join(unknown[:5])}: no class of this front; its classes are {', '.join(task.names)}"
        )
    files, labels = [], []
    for child, own in zip(classes, found, strict=True):
        files += own
        labels += [task.names.index(child.name)] * len(own)
    if not files:
        raise DataError(f"{folder}: holds no images in folders named {', '.join(task.names)}")
    return files, labels
