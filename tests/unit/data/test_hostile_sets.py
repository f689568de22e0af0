"""Data sets as people have them: each is read rightly, or an error names the file and what to do."""

from __future__ import annotations

import decimal
import gzip
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from smartedge.data import DataSet, open_dataset
from smartedge.data.layouts.foreign import recognise
from smartedge.errors import DataError
from smartedge.images.decode import decode

Write = Callable[..., Path]
Picture = Callable[..., bytes]
COUNT = 24


@pytest.fixture
def opened(cache: Path) -> Callable[..., DataSet]:
    """``opened(folder, desired="label")`` opens a data set of small images."""

    def open_it(folder: Path, desired: str | list[str] = "label") -> DataSet:
        return open_dataset(str(folder), desired, image_size=8, cache_dir=cache)

    return open_it


@pytest.fixture
def folders(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    """``folders("train/ant", "train/wasp")`` writes so many class folders of some images each."""

    def write(*names: str, count: int = COUNT // 2) -> Path:
        for place, name in enumerate(names):
            (tmp_path / "d" / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / "d" / name / f"{number}.png").write_bytes(picture(number + 100 * place))
        return tmp_path / "d"

    return write


@pytest.fixture
def table(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    """``table(lines)`` writes images 0.png, 1.png, ... and a metadata.csv."""

    def write(lines: list[str], *, images: str = "{}.png", encoding: str = "utf-8") -> Path:
        for number in range(COUNT):
            file = tmp_path / "d" / images.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number))
        (tmp_path / "d" / "metadata.csv").write_bytes("\n".join(lines).encode(encoding))
        return tmp_path / "d"

    return write


def size(data: DataSet) -> int:
    return sum(len(split) for split in data.splits.values())


def rows(*values: str, between: str = ",", name: str = "{}.png", head: str = "file_name,label") -> list[str]:
    return [head, *(name.format(i) + between + values[i % len(values)] for i in range(COUNT))]


# -- names of classes


@pytest.mark.parametrize("twin", ["ant\u200b", "ant\x1a", "\u0430nt", "a-nt", "a_nt"])
def test_classes_that_look_like_one(twin: str, folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    one = "a nt" if twin[1] in "-_" else "ant"
    with pytest.raises(DataError, match="differ in case, spaces, dashes or the form of a letter alone"):
        opened(folders(one, twin, "wasp"))


def test_numbers_of_other_signs_are_no_twins(tmp_path: Path, write_parquet: Write, opened: Any) -> None:
    write_parquet(tmp_path / "d.parquet", {"label": ["-1", "1", "none"] * 10})
    assert opened(tmp_path / "d.parquet").task.names == ("-1", "1", "none")


def test_folders_below_a_class_are_part_of_it(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    data = opened(folders("animal/cat", "animal/dog", "plant/oak"))
    assert data.task.names == ("animal", "plant")
    assert any("those below are part of them: animal/cat, animal/dog, plant/oak" in note for note in data.notes)


@pytest.mark.parametrize("name", ["$RECYCLE.BIN", "lost+found", "System Volume Information"])
def test_what_systems_keep_is_no_class(name: str, folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    assert opened(folders("ant", "wasp", name)).task.names == ("ant", "wasp")


def test_a_link_to_the_folder_above(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = folders("ant", "wasp")
    (folder / "ant" / "up").symlink_to(folder, target_is_directory=True)
    assert size(opened(folder)) == COUNT


# -- splits


def test_splits_below_one_folder(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = folders(*(f"images/{split}/{kind}" for split in ("train", "val", "test") for kind in ("ant", "wasp")))
    (folder / "labels" / "train").mkdir(parents=True)
    data = opened(folder)
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [COUNT] * 3
    assert f"the splits of {folder} lie in images/" in data.notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00001-of-00002-0123abcd"], r"of the 2 files train-\*-of-00002\.parquet, .* missing: 0"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], "several series, of 1 and 2 files"),
        (["train-00000-of-00001-aa", "train-00000-of-00001-bb"], "the same part of one series"),
    ],
)
def test_series_of_files(
    names: list[str], message: str, tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    for name in names:
        write_parquet(tmp_path / "d" / f"{name}.parquet", {"label": [0, 1] * 10})
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "d")


def test_configurations_are_joined_aloud(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    for place in ("en", "fr"):
        write_parquet(tmp_path / "d" / place / "train.parquet", {"label": [0, 1] * 10})
    assert "the train split joins the files of several folders: en, fr" in opened(tmp_path / "d").notes


@pytest.mark.parametrize(
    ("column", "values", "tests"),
    [
        ("is_test", [True, False, False, False], 6),
        ("is_train", [0, 1, 1, 1], 6),
        ("Set", ["test", "train", "train", "train"], 6),
        ("set", ["base", "jungle", "base", "jungle"], None),
        ("is_test", [None, True, False, False], None),
    ],
)
def test_columns_that_divide(
    column: str, values: list[Any], tests: int | None, tmp_path: Path, write_parquet: Write, opened: Any
) -> None:
    labels = [i // 4 % 2 for i in range(COUNT)]
    write_parquet(tmp_path / "d.parquet", {"label": labels, column: values * (COUNT // 4)})
    data = opened(tmp_path / "d.parquet")
    assert (f"d was divided by its column {column!r}" in data.notes) == (tests is not None)
    assert len(data.splits["test"]) == (2 if tests is None else tests)
    assert any("does not divide it" in note for note in data.notes) == (None in values)


def test_an_image_in_two_splits_is_said(table: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = table(rows("a", "b"), images="images/{}.png")
    (folder / "metadata.csv").rename(folder / "train.csv")
    shutil.copy(folder / "train.csv", folder / "test.csv")
    assert any(note.startswith(f"{COUNT} image(s) of {folder} are in two splits") for note in opened(folder).notes)


# -- tables


@pytest.mark.parametrize(
    ("lines", "images", "names"),
    [
        (rows("a", "b", between="|", head="file_name|label"), "{}.png", ("a", "b")),
        (rows(" a", "a ", "b", head=" file_name , label "), "{}.png", ("a", "b")),
        (rows("a", "b", name="im\\{}.png"), "im/{}.png", ("a", "b")),
        (rows("a", "b", name="{:04d}", head="id,label"), "im/{:04d}.png", ("a", "b")),
        (rows("007", "7", "08"), "{}.png", ("007", "08", "7")),
        (rows("1", "99999999999999999999"), "{}.png", ("1", "99999999999999999999")),
        (rows("2024-01-01", "2024-01-02"), "{}.png", ("2024-01-01", "2024-01-02")),
        (rows("+1", "2", "3.0"), "{}.png", ("1", "2", "3")),
        (rows("Y", "N"), "{}.png", ("no", "yes")),
        (rows("TRUE", "false"), "{}.png", ("no", "yes")),
        (rows("T", "F"), "{}.png", ("no", "yes")),
        ([*rows("a", "b"), "\x1a"], "{}.png", ("a", "b")),  # the end of a file in DOS
        ([*rows("a", "b")[:-1], f"{COUNT - 1}.png,b\x1a"], "{}.png", ("a", "b")),
        ([*rows("a", "b"), ",", " ,"], "{}.png", ("a", "b")),
    ],
)
def test_tables_that_are_read(
    lines: list[str], images: str, names: tuple[str, ...], table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    data = opened(table(lines, images=images))
    assert data.task.names == names and size(data) == COUNT
    assert data.splits["train"].read(np.array([1])).images_BCHW[0, 0, 4, 4] == data.splits["train"].ids[1]


@pytest.mark.parametrize(
    ("lines", "encoding", "message"),
    [
        (rows("0,5", "1,5", between=";", head="file_name;label"), "utf-8", "holds fractions such as 0.5"),
        (rows("a", "b", name="/data/old/{}.png"), "utf-8", "outside the folder: /data/old/0.png, .*write the names"),
        (rows("a", "b", name="C:\\im\\{}.png"), "utf-8", "outside the folder: C:/im/0.png"),
        (rows("mass", "nodule", "mass|nodule"), "utf-8", r"several labels in one value \('mass\|nodule'\)"),
        (rows("mass", "mass|nodule"), "utf-8", r"several labels in one value \('mass\|nodule'\)"),
        (["# by a program", *rows("a", "b")], "utf-8", "Every line needs the same columns as the first one"),
        (rows("a,b", "b,a", head="file_name,label,label"), "utf-8", "more than one column 'label'; rename one"),
        (rows("\"['a', 'b']\"", "['a']"), "utf-8", "several labels in one value"),
        ([*rows("a", "b"), "0.png,b"], "utf-8", r"two rows name the image .*0\.png and differ in column 'label'"),
        (rows("a", "b"), "utf-16-le", r"metadata\.csv is no text"),
        (rows(*(f"a photo of {i} birds" for i in range(COUNT))), "utf-8", "24 different values on 24 images"),
        (["file_name,label"], "utf-8", "the train split holds no images"),
        (rows("a", "b", head="0.png,a"), "utf-8", "Its columns, which the first line names, are: 0.png, a"),
    ],
)
def test_tables_that_are_refused(
    lines: list[str], encoding: str, message: str, table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    with pytest.raises(DataError, match=message):
        opened(table(lines, encoding=encoding))


def test_whole_paths_within_the_folder(tmp_path: Path, table: Any, opened: Callable[..., DataSet]) -> None:
    assert size(opened(table(rows("a", "b", name=f"{tmp_path}/d/{{}}.png")))) == COUNT


@pytest.mark.parametrize(("there", "written"), [("{}.png", "{}.PNG"), ("{}.PNG", "{}.png")])
def test_names_that_differ_in_case(there: str, written: str, table: Callable[..., Path], opened: Any) -> None:
    assert size(opened(table(rows("a", "b", name=written), images=there))) == COUNT


@pytest.mark.parametrize(("there", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_form_of_unicode(there: str, written: str, table: Callable[..., Path], opened: Any) -> None:
    """macOS splits é into a letter and an accent, Linux does not: a table of one, images of the other."""
    lines = rows("a", "b", name=unicodedata.normalize(written, "été{}.png"))
    assert size(opened(table(lines, images=unicodedata.normalize(there, "été{}.png")))) == COUNT


def test_images_beside_the_folders_of_classes_are_said(folders: Callable[..., Path], opened: Any) -> None:
    folder = folders("train/ant", "train/bee")
    image = next((folder / "train" / "ant").iterdir()).read_bytes()
    for place in (folder / "train", folder):
        (place / "stray.png").write_bytes(image)
    notes = " ".join(opened(folder).notes)
    for place in (folder / "train", folder):
        assert f"1 image(s) that lie in {place} itself, in no folder of a class, are not used" in notes


def test_yes_and_no_in_several_ways(table: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match=r"writes yes and no in several ways \(0, 1, False, True\)"):
        opened(table(rows("True", "1", "0", "False")))
    assert opened(table(rows("1", "2", "f"))).task.names == ("1", "2", "f")  # not only words of yes and no


def test_rows_that_repeat_are_used_once(table: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    data = opened(table([*rows("a", "b"), "./0.png,a"]))
    assert size(data) == COUNT
    assert any(note.startswith("1 row(s) of the table") for note in data.notes)


def test_words_for_a_lacking_value_are_said(table: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    data = opened(table(rows(*["a"] * 12, *["b"] * 11, "NA")))
    assert any(note.endswith("cells NA of column 'label' are taken for lacking values") for note in data.notes)
    assert data.skipped == {"no label in column 'label'": 1}


@pytest.mark.parametrize("name", ["metadata.csv", "train.parquet"])
def test_folders_are_no_tables(name: str, folders: Callable[..., Path], opened: Any) -> None:
    folder = folders("ant", "wasp")
    (folder / name).mkdir()
    with pytest.raises(DataError, match=rf"a class without images would be lost: {name}"):
        opened(folder)


# -- Parquet


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([decimal.Decimal("1.0"), decimal.Decimal("2.0")] * 12), ("1", "2")),
        (pa.array(np.array([0, 1] * 12, np.float16)), ("no", "yes")),
        (pa.array(["a", "b"] * 12).dictionary_encode(), ("a", "b")),
        (pa.array(["a", "b"] * 12).cast(pa.string_view()), ("a", "b")),
        (pa.array([-1, 5] * 12, pa.int8()), ("-1", "5")),
    ],
)
def test_types_of_labels(
    values: Any, names: tuple[str, ...], tmp_path: Path, write_parquet: Write, opened: Any
) -> None:
    write_parquet(tmp_path / "d.parquet", {"label": values})
    assert opened(tmp_path / "d.parquet").task.names == names


def test_types_of_images(tmp_path: Path, write_parquet: Write, picture: Picture, opened: Any) -> None:
    images = [picture(shade) for shade in (7, 8)] * 12
    longest = max(map(len, images))
    for number in range(COUNT):
        (tmp_path / f"{number}.png").write_bytes(images[number])
    for kind in (
        pa.array(images).dictionary_encode(),
        pa.array(images, pa.binary_view()),
        pa.array([each.ljust(longest, b"\0") for each in images], pa.binary(longest)),
        pa.array([f"{number}.png" for number in range(COUNT)]),
    ):
        write_parquet(tmp_path / "d.parquet", {"label": [0, 1] * 12}, images=kind)
        assert size(opened(tmp_path / "d.parquet")) == COUNT
    with pytest.raises(DataError, match=r"'image' is of type list<element: uint8>"):
        opened(write_parquet(tmp_path / "d.parquet", {"label": [0]}, images=pa.array([[1]], pa.list_(pa.uint8()))))
    with pytest.raises(DataError, match=r"row 0: image cannot be decoded"):  # such as base64
        opened(write_parquet(tmp_path / "d.parquet", {"label": [0, 1]}, images=["A" * 5000] * 2))
    with pytest.raises(DataError, match=r"names the file '/etc/x\.png', which lies outside"):
        opened(write_parquet(tmp_path / "d.parquet", {"label": [0, 1]}, images=["/etc/x.png"] * 2))


def test_arrays_as_keras_names_them(tmp_path: Path, opened: Any) -> None:
    arrays = {"x_train": np.zeros((20, 8, 8), np.uint8), "y_train": [[0], [1]] * 10}
    np.savez(tmp_path / "mnist.npz", **arrays, x_test=np.zeros((4, 8, 8), np.uint8), y_test=[0, 1] * 2)
    assert len(opened(tmp_path / "mnist.npz").splits["test"]) == 4


def test_a_compressed_tar_file_is_named(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "train.tar").write_bytes(gzip.compress(bytes(10240)))
    with pytest.raises(DataError, match=r"train\.tar is no tar file .*: it is compressed by gzip; decompress it"):
        opened(tmp_path / "train.tar")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1e20, 1.0] * 12), "numbers beyond 64 bits"),
        (pa.array([["a"], ["a", "b"]] * 12), "make a yes/no column for each label"),
    ],
)
def test_types_that_are_no_labels(values: Any, message: str, tmp_path: Path, write_parquet: Write, opened: Any) -> None:
    write_parquet(tmp_path / "d.parquet", {"label": values})
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "d.parquet")


# -- images


@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
def test_what_is_no_file_is_not_waited_for(target: str, tmp_path: Path) -> None:
    place = tmp_path / "image.png"
    if target == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(target)
    assert decode(place, 8) == "not a file but a folder, pipe or device"


def test_a_palette_with_transparent_colours(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 3)
    image.putpalette([number % 256 for number in range(768)])
    image.save(tmp_path / "image.png", transparency=bytes([0, 255, 128, 40]))
    pixels = decode(tmp_path / "image.png", 8)
    assert isinstance(pixels, np.ndarray) and pixels[0, 0].tolist() == [9, 10, 11]


def test_a_heic_photograph_is_named(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"\x00\x00\x00\x20ftypheic" + bytes(20))
    assert decode(tmp_path / "image.jpg", 8) == "a HEIC image, which is not read (save it as JPEG)"


# -- what may not be read, and what changes


@pytest.mark.parametrize("closed", ["train.parquet", "ant/more", "labels.csv"])
def test_what_may_not_be_read_is_named(
    closed: str, folders: Callable[..., Path], write_parquet: Write, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders("ant/more", "wasp")
    if closed.endswith("parquet"):
        write_parquet(folder / closed, {"label": [0, 1] * 10})
    elif closed.endswith("csv"):
        (folder / closed).write_text("file_name,label")
    (folder / closed).chmod(0)
    if os.geteuid() == 0:  # who may read everything
        refused = folder / closed
        monkeypatch.setattr("os.scandir", _refusing(os.scandir, refused))
        monkeypatch.setattr("io.open", _refusing(open, refused))
        monkeypatch.setattr("pyarrow.parquet.ParquetFile", _refusing(None, refused))
    try:
        with pytest.raises(DataError, match=r"Permission denied|Failed to open") as caught:
            opened(folder)
        assert str(folder / closed) in str(caught.value)
    finally:
        (folder / closed).chmod(0o755)


def _refusing(function: Any, refused: Path) -> Any:
    def refuse(place: Any, *more: Any, **named: Any) -> Any:
        if isinstance(place, str | os.PathLike) and Path(place) == refused:
            raise PermissionError(13, "Permission denied", str(place))
        return function(place, *more, **named)

    return refuse


def test_a_file_of_the_same_size_and_time_is_decoded_again(folders: Callable[..., Path], opened: Any) -> None:
    folder = folders("ant", "wasp")
    file = folder / "ant" / "0.png"
    before, status = file.read_bytes(), file.stat()

    def shades() -> list[int]:
        split = opened(folder).splits["train"]
        return split.read(np.arange(len(split))).images_BCHW[:, 0, 4, 4].tolist()

    assert 250 not in shades()
    for place in (folder / "ant").iterdir():
        Image.new("RGB", (20, 16), (250, 5, 7)).save(folder / "new.png")
        data = (folder / "new.png").read_bytes()
        place.write_bytes(data + bytes(max(0, len(before) - len(data))))
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "new.png").unlink()
    assert 250 in shades()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("~nobody-has-this-name/images", "home directory"),
        ("x" * 300, "the name is too long for this file system: choose a shorter one"),
        ("a\0b", "there is no data set"),
    ],
)
def test_paths_that_are_none(path: str, says: str, opened: Any) -> None:
    with pytest.raises(DataError, match=says):
        opened(path)


# -- data sets of other programs


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("train-00000-of-00001.tfrecord", "TFRecord files: read them in Python"),
        ("imagenet.tfrecord-00000-of-00016", "TFRecord"),
        ("data.mdb", "LMDB"),
        ("train-images-idx3-ubyte.gz", "MNIST's IDX files: open them with torchvision"),
        ("instances_train2017.json", "COCO's: write a table"),
        ("train_32x32.mat", "MATLAB"),
        ("faces.npz", "give the file itself"),
        ("obj.names", "annotations of objects: write a table"),
        ("x.tar.gz", "unpack it"),
    ],
)
def test_other_programs_data_sets_are_named(name: str, says: str, tmp_path: Path, opened: Any) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(json.dumps({}).encode())
    with pytest.raises(DataError, match=f"{name} looks like .*{says}"):
        opened(tmp_path / "d")
    assert recognise([Path("photo.png")]) == ""


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (".dcm", "with 6 .dcm. a file.dcm looks like medical scans: save each as PNG"),
        (".HEIC", "with 6 .heic. a file.heic looks like HEIC photographs"),
        (".jxl", "pictures of a kind that is not read: save them as PNG or JPEG"),
        (".npy", "with 6 .npy. a file.npy looks like NumPy's arrays"),
        (".mpo", "pictures under an ending that is not known: save them as JPEG"),
    ],
)
def test_what_the_folders_of_classes_hold_is_named(ending: str, says: str, tmp_path: Path, opened: Any) -> None:
    for name in ("ant", "bee"):
        for number in range(3):
            (tmp_path / "d" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "d" / name / f"{number}{ending}").write_bytes(b"0")
    with pytest.raises(DataError, match=re.escape(f"ant/, bee/ with 6 {ending.lower()}")) as caught:
        opened(tmp_path / "d")
    assert says in str(caught.value)


@pytest.mark.parametrize("other", ["masks", "labels"])
def test_pictures_and_what_belongs_to_them_are_no_classes(other: str, folders: Any, opened: Any) -> None:
    folder = folders("images", "masks")
    if other == "labels":  # boxes, as YOLO has them
        shutil.rmtree(folder / "masks")
        (folder / "labels").mkdir()
        (folder / "labels" / "0.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(
        DataError, match=rf"images, {other} are no classes .* boxes \(YOLO\).* write a table metadata.csv"
    ):
        opened(folder)


@pytest.mark.parametrize("name", ["train.parquet", "train.tar", "labels.csv", "bee"])
@pytest.mark.parametrize("target", ["nowhere", "itself", "fifo"])
def test_links_that_lead_nowhere_lose_nothing(name: str, target: str, folders: Any, opened: Any) -> None:
    """As git-annex leaves them where the content was not fetched."""
    folder = folders("ant", "wasp")
    if target == "fifo":
        os.mkfifo(folder / name)
        if name == "bee":
            assert size(opened(folder)) == COUNT
            return
    else:
        (folder / name).symlink_to(name if target == "itself" else "/nowhere/at/all")
    with pytest.raises(DataError, match=rf"{name} is .*leads nowhere.*; fetch what belongs there"):
        opened(folder)


def test_annotations_beside_images_are_named(folders: Callable[..., Path], opened: Any) -> None:
    folder = folders("ant", "bee")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "0.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match=r"Annotations \(1 .xml\).* looks like annotations of objects: write a table"):
        opened(folder)


def test_images_that_are_found_elsewhere_are_said(table: Callable[..., Path], opened: Any) -> None:
    data = opened(table(rows("a", "b", name="https://example.org/{}.png")))
    assert any("name an image at another place (https://example.org/0.png)" in note for note in data.notes)


@pytest.mark.parametrize("names", [["cat", "Cat"], ["cat", "cat"], [" cat", "cat"]])
def test_names_of_numbered_classes_that_look_like_one(
    names: list[str], tmp_path: Path, write_parquet: Write, opened: Any
) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    write_parquet(tmp_path / "d" / "train.parquet", {"label": [0, 1] * 12}, features)
    with pytest.raises(DataError, match="differ in case, spaces"):
        opened(tmp_path / "d")


@pytest.mark.parametrize("features", [{"label": {"names": 3, "_type": "ClassLabel"}}, {"image": 5}, 7])
def test_metadata_of_another_form_are_left_alone(
    features: Any, tmp_path: Path, write_parquet: Write, opened: Any
) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"label": [0, 1] * 12}, features)
    assert opened(tmp_path / "d").task.names == ("no", "yes")


def test_two_columns_that_could_be_the_images(
    tmp_path: Path, write_parquet: Write, picture: Picture, opened: Any
) -> None:
    columns = {"right": [picture(7)] * 24, "label": [0, 1] * 12}
    write_parquet(tmp_path / "d" / "train.parquet", columns, None, [picture(7)] * 24, "left")
    with pytest.raises(DataError, match="left and right could be it: rename one of them"):
        opened(tmp_path / "d")


def test_a_folder_in_place_of_a_file_is_named_and_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    assert decode(tmp_path, 8) == "not a file but a folder, pipe or device"
    assert len(os.listdir("/dev/fd")) == before


def test_a_page_that_was_saved_as_an_image_is_named() -> None:
    assert "HTML page, not an image" in str(decode(b"  <!DOCTYPE html><html>404</html>", 8))


@pytest.mark.parametrize(("bits", "noted"), [(10, True), (12, True), (14, True), (16, False)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "npz"])
@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_pictures_of_fewer_bits_than_they_are_kept_in_are_noted(
    bits: int, noted: bool, kind: str, cache_bytes: int | None, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(2**bits, size=(40, 9, 9)).astype(np.uint16)
    place = tmp_path / "d"
    if kind == "npz":
        if cache_bytes == 0:
            pytest.skip("arrays are not streamed")
        labels = (np.arange(40) % 2)[:, None]
        np.savez(tmp_path / "d.npz", train_images=values, train_labels=labels)
        place = tmp_path / "d.npz"
    else:
        for number, pixels in enumerate(values):
            (place / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / "ab"[number % 2] / f"{number:02}.{kind.lower()}", kind)
    data = open_dataset(str(place), "label", image_size=8, cache_dir=tmp_path / "cache", cache_bytes=cache_bytes)
    assert any("nearly black" in note for note in data.notes) is noted
