"""Image folders: with a table of labels (``metadata.csv`` and the like), or one folder per class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from smartedge.data.layouts.foreign import is_archive, recognise
from smartedge.data.layouts.image_files import images_of
from smartedge.data.layouts.tabled import by_names, by_table, by_tables, whole_table
from smartedge.data.layouts.tables import FILE_COLUMN, find_table, tables_of_splits
from smartedge.data.raw import RawData, RawSplit, split_in, split_of, words
from smartedge.errors import DataError, list_some
from smartedge.images.decode import SUFFIXES, is_hidden, walk
from smartedge.types import SplitName

__all__ = ["open_folder"]

# Words in names of folders that hold images, and what belongs to each image.
_IMAGES = frozenset({"image", "images", "img", "imgs", "input", "inputs", "photo", "photos", "jpegimages"})
_OUTLINES = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "annot", "gt", "groundtruth", "truth", "manual"}
    | {"segmentation", "segmentations", "segmentationclass", "segmentationobject", "trimap", "trimaps"}
)


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
        splits = by_tables(path, tables, folders, notes)
        return RawData(name, splits, notes=tuple(notes))
    table = find_table(path)
    if folders and table is not None and all(find_table(folder) is None for folder in folders.values()):
        splits = by_table(path, table, folders, notes)
    elif not folders and table is not None:
        splits = by_names(path, table, notes)
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
    within = path
    while not _named_splits(within):
        children = [child for child in _folders(within) if not child.is_symlink() and _holds_images(child)]
        if len(children) != 1:
            return path
        within = children[0]
    if within == path or "train" not in dict(_named_splits(within)):
        return path
    notes.append(f"the splits of {path} lie in {within.relative_to(path)}/")
    return within


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out.

    Raises:
        DataError: a link leads nowhere: it may have been a class or a split.
    """
    children = sorted(child for child in path.iterdir() if not is_hidden(child.name))
    if lost := [child for child in children if child.is_symlink() and not child.exists()]:
        raise DataError(f"{lost[0]} is a link that leads nowhere; fetch what belongs there, or remove it")
    return [child for child in children if child.is_dir()]


def _named_splits(path: Path) -> list[tuple[SplitName, Path]]:
    """The folders that are splits by their names.

    The whole name counts (``train``). Words of a name count (``seg_train``) where two or more splits are named so.
    """
    exact = [(split, child) for child in _folders(path) if (split := split_of(child.name))]
    words = [(split, child) for child in _folders(path) if (split := split_in(child.name))]
    return words if len({split for split, _ in words}) > 1 else exact


def _split_folders(path: Path, notes: list[str]) -> dict[SplitName, Path]:
    """The folders of the splits, where the folder is divided; nothing where it is not."""
    found = _named_splits(path)
    folders: dict[SplitName, Path] = {}
    for split, folder in found:
        if split in folders:
            raise DataError(f"{folders[split]} and {folder} are both the {split} split; leave one of them")
        folders[split] = folder
    others = [child for child in _folders(path) if child not in folders.values() and _holds_images(child)]
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
    file = find_table(folder)
    return _by_class(folder, notes) if file is None else whole_table(folder, file, notes)


def _by_class(folder: Path, notes: list[str]) -> RawSplit:
    files: list[Path] = []
    labels: list[str] = []
    others: Counter[str] = Counter()
    empty: list[str] = []
    nested: dict[str, list[str]] = {}
    places: dict[Path, Path] = {}
    place = _innermost(folder)
    if place.name != folder.name:
        notes.append(f"the classes of {folder} lie in {place.relative_to(folder)}/")
    for directory in _folders(place):
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
    if not files:
        raise DataError(_no_classes(folder, others))
    _refuse_shared(folder, files, labels)
    _refuse_no_classes(folder, [child.name for child in _folders(place)], nested)
    if empty:
        foreign = recognise(Path(f"a file{ending}") for ending in others)
        raise DataError(
            f"{folder}: a class without images would be lost: {list_some(empty)}. If it is no class, move it out of "
            f"{folder}, else save its images as one of {', '.join(sorted(SUFFIXES))}. {foreign}".rstrip(". ")
        )
    if others:
        told = _counted(others)
        notes.append(f"{others.total()} file(s) in {folder} are no images by their name, or hidden; not used: {told}")
    _note_loose(place, notes)
    _note_hidden(place, notes)
    if nested:
        below = list_some(f"{name}/{each}" for name, within in nested.items() for each in within)
        notes.append(f"the classes of {folder} are its outermost folders; those below are part of them: {below}")
    return RawSplit.from_table(images_of(files), pa.table({"label": labels}))


def _refuse_shared(folder: Path, files: Sequence[Path], labels: Sequence[str]) -> None:
    """Refuse an image that links put into two classes."""
    root = folder.resolve()
    places = {place: place.resolve() for place in {file.parent for file in files}}
    links = {file: file.resolve() for file in files if file.is_symlink()}
    if not links and all(real == root / place.relative_to(folder) for place, real in places.items()):
        return
    seen: dict[Path, tuple[Path, str]] = {}
    for file, label in zip(files, labels, strict=True):
        other, first = seen.setdefault(links.get(file) or places[file.parent] / file.name, (file, label))
        if first != label:
            raise DataError(
                f"{other} and {file} are one image in two classes, by a link; remove it from one of them. For images "
                "of several classes write a table metadata.csv with a yes/no column for each class"
            )


def _loose(folder: Path) -> int:
    """How many images lie in the folder itself."""
    return sum(1 for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not is_hidden(file.name))


def _note_loose(folder: Path, notes: list[str]) -> None:
    if packed := sorted(file.name for file in folder.iterdir() if is_archive(file) and not is_hidden(file.name)):
        notes.append(f"what {list_some(packed)} in {folder} may hold is not used, since it is not unpacked")
    if loose := _loose(folder):
        notes.append(f"{loose} image(s) that lie in {folder} itself, in no folder of a class, are not used")


def _hidden(folder: Path) -> list[str]:
    """The names of the hidden folders in a folder that hold images."""
    hidden = (each for each in sorted(folder.iterdir()) if is_hidden(each.name) and each.is_dir())
    return [each.name for each in hidden if _holds_images(each)]


def _note_hidden(folder: Path, notes: list[str]) -> None:
    if found := _hidden(folder):
        notes.append(
            f"{list_some(found)} in {folder} is not used although it holds images, because folders whose names begin "
            "with '.', '_', '@' or '$' mostly belong to programs; if it is a class, rename it"
        )


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
            f"{folder}: {list_some(names)} are no classes but images and what belongs to them, as for segmentation "
            "or boxes (YOLO), which are not learned here. For classes write a table metadata.csv with the columns "
            "file_name and label"
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
    """The folder, or the only one in it where that is called like it (``training_set/training_set/``) or ``images``."""
    children = _folders(folder)
    if len(children) != 1 or not (children[0].name == folder.name or {*words(children[0].name)} <= _IMAGES):
        return folder
    within = _innermost(children[0])
    return within if sum(map(_holds_images, _folders(within))) > 1 else folder


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
    children = [child for child in folder.iterdir() if not is_hidden(child.name)]
    folders = [child.name + "/" for child in children if child.is_dir()]
    files = sorted(child for child in children if child.is_file())
    endings = Counter(file.suffix.lower() or "no ending" for file in files)
    found = [f"{count} file(s) with {ending}" for ending, count in endings.most_common(3)]
    hidden = [f"{name}/ (hidden, so not used)" for name in _hidden(folder)]
    said = "; ".join([*found, *([list_some(sorted(folders), 3)] if folders else []), *hidden]) or "nothing"
    if within:
        said += f" with {_counted(within)}"
        files += [Path(f"a file{ending}") for ending in within]
    foreign = recognise(files)
    return f"{said}. {foreign}" if foreign else said


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in endings.most_common(5))
