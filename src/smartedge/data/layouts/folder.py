"""Image folders: with a table of labels (``metadata.csv`` and the like), or one folder per class."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from smartedge.data.layouts.foreign import recognise
from smartedge.data.layouts.tables import FILE_COLUMN, find_table, read_table, resolve, tables_of_splits
from smartedge.data.raw import MOST_PARTS, Images, RawData, RawSplit, list_some, split_in, split_of, words
from smartedge.data.reading.readers import Anywhere
from smartedge.decode import SUFFIXES, is_hidden, walk
from smartedge.errors import DataError
from smartedge.types import SplitName

__all__ = ["open_folder"]

# Words in names of folders that hold images, and what belongs to each image.
_IMAGES = frozenset({"image", "images", "img", "imgs", "input", "inputs", "photo", "photos", "jpegimages"})
_OUTLINES = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "annot", "gt", "groundtruth", "truth", "manual"}
    | {"segmentation", "segmentations", "segmentationclass", "segmentationobject", "trimap", "trimaps"}
)
_LEAST_PART = 4096  # images: a part of the decoded images is a file of its own


def open_folder(path: Path) -> RawData:
    """Open a folder of images, divided into ``train``, ``val`` and ``test`` folders, or all training.

    In each, or once for all: a table of labels (see :func:`~smartedge.data.layouts.tables.find_table`) with the file of
    every image; or one folder per class, whose name is the class in the column ``label``. Or a table for each split
    (``train.csv``, ``test.csv``) lies beside the images. Hidden files and folders are left out. Links to folders are
    followed.

    Raises:
        DataError: the folder holds no images in either layout; a table cannot be read; a class folder holds no image;
            or it cannot be told whether a folder is a split or a class.
    """
    notes: list[str] = []
    name, path = path.name, _with_splits(path, notes)
    folders = _split_folders(path, notes)
    if len(tables := tables_of_splits(path)) > 1:
        splits = _by_tables(path, tables, folders, notes)
        return RawData(name, splits, notes=tuple(notes))
    table = find_table(path)
    if folders and table is not None and all(find_table(folder) is None for folder in folders.values()):
        splits = _by_table(path, table, folders, notes)
    else:
        if folders and table is not None:
            notes.append(f"{table} is not used: the folders of the splits have tables of their own")
        splits = {split: _open_split(folder, notes) for split, folder in (folders or {"train": path}).items()}
        if folders and table is None:
            _note_loose(path, notes)
        if table is None and find_table(folders.get("train", path)) is None:
            _refuse_one_class(path, splits["train"])
    return RawData(name, splits, notes=tuple(notes))


def _with_splits(path: Path, notes: list[str]) -> Path:
    """The folder, or the one in it that is divided, where the folder holds images nowhere else (``images/train/``)."""
    if find_table(path) is not None or tables_of_splits(path):
        return path
    children = [child for child in path.iterdir() if child.is_dir() and not is_hidden(child) and _holds_images(child)]
    if len(children) != 1 or split_in(children[0].name):
        return path
    below = [child for child in children[0].iterdir() if child.is_dir()]
    if not any(split_of(child.name) == "train" for child in below):
        return path
    notes.append(f"the splits of {path} lie in {children[0].name}/")
    return children[0]


def _split_folders(path: Path, notes: list[str]) -> dict[SplitName, Path]:
    """The folders of the splits, where the folder is divided; nothing where it is not.

    A folder is a split where its whole name is one (``train``). Words of a name count (``seg_train``) where two or more
    splits are named so.
    """
    children = sorted(child for child in path.iterdir() if child.is_dir() and not is_hidden(child))
    exact = [(split, child) for child in children if (split := split_of(child.name))]
    words = [(split, child) for child in children if (split := split_in(child.name))]
    found = words if len({split for split, _ in words}) > 1 else exact
    folders: dict[SplitName, Path] = {}
    for split, folder in found:
        if split in folders:
            raise DataError(f"{folders[split]} and {folder} are both the {split} split; leave one of them")
        folders[split] = folder
    others = [child for child in children if child not in folders.values() and _holds_images(child)]
    if folders and "train" not in folders:
        raise DataError(
            f"{path} has {' and '.join(folder.name for folder in folders.values())}, but no folder 'train'; "
            "rename the folder of the training images"
        )
    if len(folders) == 1 and others:
        raise DataError(
            f"{path}: it cannot be told whether {folders['train'].name!r} is the training split or a class beside "
            f"{list_some(other.name for other in others)}; rename it, or put the classes into a folder 'train'"
        )
    if folders and others:
        notes.append(f"not used, because they are no split of {path}: {list_some(other.name for other in others)}")
    return folders


def _holds_images(folder: Path) -> bool:
    return next(walk(folder), None) is not None


def _open_split(folder: Path, notes: list[str]) -> RawSplit:
    if (file := find_table(folder)) is None:
        return _by_class(folder, notes)
    table, said = read_table(file)
    notes.extend(said)
    split, files = _listed(folder, table, notes)
    _note_unlisted(folder, [folder], files, notes)
    return split


def _by_table(path: Path, file: Path, folders: Mapping[SplitName, Path], notes: list[str]) -> dict[SplitName, RawSplit]:
    """The splits of one table beside the folders of the splits: the first folder of a file's path names its split."""
    table, said = read_table(file)
    notes.extend(said)
    top = np.array([name.split("/")[0] for name in table[FILE_COLUMN].to_pylist()])
    splits: dict[SplitName, RawSplit] = {}
    used: list[Path] = []
    for split, folder in folders.items():
        rows = np.flatnonzero(top == folder.name)
        if not len(rows):
            raise DataError(
                f"{file} lists no image in {folder.name}/: name files like {folder.name}/image.jpg, or give "
                f"{folder.name}/ a table of its own; if its images have no labels, move it elsewhere"
            )
        splits[split], files = _listed(path, table.take(pa.array(rows)), notes)
        used += files
    if lost := len(top) - len(used):
        notes.append(f"{lost} row(s) of {file} name no image in the folder of a split and are not used")
    _note_unlisted(path, list(folders.values()), used, notes)
    return splits


def _by_tables(
    path: Path, tables: Mapping[SplitName, Path], folders: Mapping[SplitName, Path], notes: list[str]
) -> dict[SplitName, RawSplit]:
    """The splits of a table each. Their images lie in the folder of the split, if there is one, or anywhere below."""
    splits: dict[SplitName, RawSplit] = {}
    used: list[Path] = []
    for split, file in tables.items():
        table, said = read_table(file)
        notes.extend(said)
        splits[split], files = _listed(path, table, notes, first=folders.get(split))
        if both := len(set(files) & set(used)):
            notes.append(f"{both} image(s) of {path} are in two splits; figures on val or test are then too good")
        used += files
    notes.append(f"the tables divide {path}: {list_some(file.name for file in tables.values())}")
    _note_unlisted(path, [path], used, notes)
    return splits


def _listed(
    folder: Path, table: pa.Table, notes: list[str], *, first: Path | None = None
) -> tuple[RawSplit, list[Path]]:
    """The images that a table names in a folder. Names without a place are looked for in ``first``, if it is given.

    Raises:
        DataError: two rows give one image different labels.
    """
    names = table[FILE_COLUMN].to_pylist()
    files = resolve(folder, names, walk(folder if first is None else first))
    moved = [
        name for name, file in zip(names, files, strict=True) if "/" in name and file.parent != (folder / name).parent
    ]
    if moved:
        notes.append(
            f"{len(moved)} row(s) of the table of {folder} name an image at another place ({moved[0]}); the only image "
            "of that name is taken"
        )
    table = table.drop_columns([FILE_COLUMN])
    if len(set(files)) < len(files):
        rows = _once(folder, files, table)
        notes.append(f"{len(files) - len(rows)} row(s) of the table of {folder} repeat another row and are not used")
        files, table = [files[row] for row in rows], table.take(pa.array(rows))
    return RawSplit.from_table(_images(files), table), files


def _once(folder: Path, files: Sequence[Path], table: pa.Table) -> list[int]:
    """The first row of every image; all of those that name none."""
    often = {file for file, count in Counter(files).items() if count > 1 and file != folder}
    repeated = [row for row, file in enumerate(files) if file in often]
    first: dict[Path, dict[str, object]] = {}
    again = set()
    for row, values in zip(repeated, table.take(pa.array(repeated, pa.int64())).to_pylist(), strict=True):
        kept = first.setdefault(files[row], values)
        if kept != values:
            column = next(column for column in values if values[column] != kept[column])
            raise DataError(
                f"two rows name the image {files[row]} and differ in column {column!r}: {kept[column]!r} and "
                f"{values[column]!r}; leave one row for each image"
            )
        if kept is not values:
            again.add(row)
    return [row for row in range(len(files)) if row not in again]


def _note_unlisted(place: Path, folders: Sequence[Path], files: Sequence[Path], notes: list[str]) -> None:
    if unlisted := len({file for folder in folders for file in walk(folder)} - set(files)):
        notes.append(f"{unlisted} image(s) in {place} have no row in its metadata file and are not used")


def _by_class(folder: Path, notes: list[str]) -> RawSplit:
    files: list[Path] = []
    labels: list[str] = []
    others: Counter[str] = Counter()
    empty: list[str] = []
    nested: dict[str, list[str]] = {}
    places: dict[Path, Path] = {}
    for directory in sorted(child for child in _innermost(folder).iterdir() if child.is_dir() and not is_hidden(child)):
        own: Counter[str] = Counter()
        images = sorted(walk(directory, own))
        if inner := dict.fromkeys(each.parent.name for each in images if each.parent != directory):
            nested[directory.name] = list(inner)
        files += images
        labels += [_readable(directory)] * len(images)
        others += own
        if not images:
            empty.append(f"{directory.name} ({_counted(own) or 'empty'})")
        if (twin := places.setdefault(directory.resolve(), directory)) is not directory:
            raise DataError(f"{twin} and {directory} are one folder under two names, so two classes; remove the link")
    names = list(dict.fromkeys(labels))
    if not files:
        raise DataError(_no_classes(folder, others))
    _refuse_no_classes(folder, names, nested)
    if empty:
        foreign = recognise(Path(f"a file{ending}") for ending in others)
        raise DataError(
            f"{folder}: a class without images would be lost: {list_some(empty)}. If it is no class, move it out of "
            f"{folder}, else save its images as one of {', '.join(sorted(SUFFIXES))}. {foreign}".rstrip(". ")
        )
    if others:
        told = _counted(others)
        notes.append(f"{others.total()} file(s) in {folder} are not images by their name and are not used: {told}")
    _note_loose(_innermost(folder), notes)
    if nested:
        below = list_some(f"{name}/{each}" for name, within in nested.items() for each in within)
        notes.append(f"the classes of {folder} are its outermost folders; those below are part of them: {below}")
    return RawSplit.from_table(_images(files), pa.table({"label": labels}))


def _loose(folder: Path) -> int:
    """How many images lie in the folder itself."""
    return sum(1 for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not is_hidden(file))


def _note_loose(folder: Path, notes: list[str]) -> None:
    if loose := _loose(folder):
        notes.append(f"{loose} image(s) that lie in {folder} itself, in no folder of a class, are not used")


def _no_classes(folder: Path, others: Counter[str]) -> str:
    """Why a folder is no data set of classes in folders, in words."""
    if loose := _loose(folder):
        return (
            f"{folder}: its {loose} images lie in no folder of a class, and there is no table of their labels "
            f"(metadata.csv, labels.csv, ... with a column {FILE_COLUMN!r}). Write such a table, or a folder for each "
            f"class. Found: {_contents(folder, others)}"
        )
    return (
        f"{folder} holds no images that can be used. Looked for: Parquet, Arrow and tar files; a table such as "
        f"metadata.csv with a column {FILE_COLUMN!r}; one folder per class, of images ({', '.join(sorted(SUFFIXES))}). "
        f"Found: {_contents(folder, others)}"
    )


def _refuse_no_classes(folder: Path, names: Sequence[str], nested: Mapping[str, Sequence[str]]) -> None:
    """Refuse folders of images and of what belongs to each image, and folders that look like splits.

    Raises:
        DataError: they are so.
    """
    named = {name: set(words(name)) for name in names}
    outlines = [name for name, each in named.items() if each & _OUTLINES]
    if outlines and any(each & _IMAGES for each in named.values()):
        raise DataError(
            f"{folder}: {' and '.join(names)} are no classes but images and what belongs to them, as for segmentation, "
            "which is not learned here. For classes write a table metadata.csv with the columns file_name and label"
        )
    if len(names) > 1 and len(nested) == len(names):
        inner, *more = (set(each) for each in nested.values())
        if len(inner) > 1 and all(each == inner for each in more):
            raise DataError(
                f"{folder}: {list_some(names)} hold folders of the same names ({list_some(sorted(inner))}), so it "
                "cannot be told which are the classes. If the outer ones are splits, call them train, val and test; if "
                "they are the classes, write a table metadata.csv with the columns file_name and label"
            )


def _refuse_one_class(path: Path, train: RawSplit) -> None:
    """Say what else was looked for where all images lie in one folder, which therefore names no class."""
    names = set(train.read(["label"])["label"].to_pylist())
    if len(names) == 1:
        raise DataError(
            f"{path}: all training images lie in the folder {names.pop()!r}, so folders name no classes, and there is "
            f"no table of labels (metadata.csv, labels.csv, train.csv, ... with a column {FILE_COLUMN!r}). "
            f"Found: {_contents(path)}"
        )


def _innermost(folder: Path) -> Path:
    """The folder, or the one of its name within it: archives often hold ``training_set/training_set/``."""
    within = folder / folder.name
    return (
        _innermost(within) if within.is_dir() and [each.name for each in folder.iterdir()] == [folder.name] else folder
    )


def _readable(directory: Path) -> str:
    """The folder's name as a class.

    Raises:
        DataError: it is not valid text.
    """
    try:
        directory.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name of the folder {directory!a} is not UTF-8; rename it: it names a class") from error
    return directory.name


def _contents(folder: Path, within: Counter[str] | None = None) -> str:
    """What a folder holds, in words. ``within``: the endings of what its folders hold, where these are no images."""
    children = [child for child in folder.iterdir() if not is_hidden(child)]
    folders = [child.name + "/" for child in children if child.is_dir()]
    files = sorted(child for child in children if child.is_file())
    endings = Counter(file.suffix.lower() or "no ending" for file in files)
    found = [f"{count} file(s) with {ending}" for ending, count in endings.most_common(3)]
    said = "; ".join([*found, *([list_some(sorted(folders), 3)] if folders else [])]) or "nothing"
    if within:
        said += f" with {_counted(within)}"
        files += [Path(f"a file{ending}") for ending in within]
    foreign = recognise(files)
    return f"{said}. {foreign}" if foreign else said


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in endings.most_common(5))


def _images(files: Sequence[Path]) -> Images:
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
