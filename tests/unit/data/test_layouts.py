"""Folders, tables and tar files that look like something else: read as people mean them, or named by an error."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from smartedge.data import DataSet, open_dataset
from smartedge.data.raw import split_in, words
from smartedge.errors import DataError

Picture = Callable[..., bytes]
COUNT = 24


@pytest.fixture
def opened(cache: Path) -> Callable[..., DataSet]:
    def open_it(path: Path) -> DataSet:
        return open_dataset(str(path), "label", image_size=8, cache_dir=cache)

    return open_it


@pytest.fixture
def folders(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    """``folders("a/cat", "a/dog")`` writes twelve pictures into each folder of a data set."""

    def write(*places: str) -> Path:
        for place in places:
            (tmp_path / "d" / place).mkdir(parents=True)
            for number in range(12):
                (tmp_path / "d" / place / f"{number}.png").write_bytes(picture(number))
        return tmp_path / "d"

    return write


@pytest.fixture
def table(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    """``table(head, "a,train", "b,test")`` writes a table whose rows repeat these values, and its images."""

    def write(head: str, *values: str) -> Path:
        lines = [head, *(f"{number}.png,{values[number % len(values)]}" for number in range(COUNT))]
        (tmp_path / "d").mkdir()
        for number in range(COUNT):
            (tmp_path / "d" / f"{number}.png").write_bytes(picture(number))
        (tmp_path / "d" / "labels.csv").write_text("\n".join(lines))
        return tmp_path / "d"

    return write


@pytest.mark.parametrize(
    ("name", "parts", "split"),
    [
        ("seg_train2", ["seg", "train"], "train"),
        ("TrainData", ["train", "data"], "train"),
        ("PublicTest", ["public", "test"], "test"),
        ("TRAIN", ["train"], "train"),
        ("HTMLTest", ["html", "test"], "test"),
        ("trainset", ["trainset"], "train"),
        ("latest", ["latest"], None),
        ("val_train", ["val", "train"], None),
    ],
)
def test_words_of_a_name(name: str, parts: list[str], split: str | None) -> None:
    assert (words(name), split_in(name)) == (parts, split)


@pytest.mark.parametrize(("train", "test"), [("TrainData", "TestData"), ("trainset", "testset"), ("trainval", "test")])
def test_names_of_splits(train: str, test: str, folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    data = opened(folders(f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog"))
    assert data.task.names == ("cat", "dog")
    assert len(data.splits["test"]) == COUNT


@pytest.mark.parametrize(("one", "other"), [("entrenamiento", "prueba"), ("fold_0", "fold_1"), ("seen", "unseen")])
def test_splits_of_other_names_are_no_classes(
    one: str, other: str, folders: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    with pytest.raises(DataError, match=rf"{one}, {other} hold folders of the same names \(cat, dog\)"):
        opened(folders(f"{one}/cat", f"{one}/dog", f"{other}/cat", f"{other}/dog"))


def test_classes_with_one_folder_each_of_the_same_name(
    folders: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    assert opened(folders("cat/images", "dog/images")).task.names == ("cat", "dog")


@pytest.mark.parametrize(
    "names",
    [
        ("JPEGImages", "SegmentationClass"),
        ("imagesTr", "labelsTr"),
        ("Task1_Training_GroundTruth", "Task1_Training_Input"),
        ("gtFine", "leftImg8bit"),
        ("1st_manual", "images", "mask"),
    ],
)
def test_images_and_their_outlines_are_no_classes(
    names: tuple[str, ...], folders: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    with pytest.raises(DataError, match="are no classes but images and what belongs to them"):
        opened(folders(*names))


def test_masks_that_people_wear_are_classes(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    assert opened(folders("with_mask", "without_mask")).task.names == ("with_mask", "without_mask")


def test_one_folder_under_two_names(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = folders("cat", "dog")
    (folder / "kitten").symlink_to(folder / "cat")
    with pytest.raises(DataError, match=r"cat and .*kitten are one folder under two names"):
        opened(folder)


def test_images_without_classes_are_counted(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match=r"its 12 images lie in no folder of a class, and there is no table"):
        opened(folders("train", "val"))


@pytest.mark.parametrize(
    ("column", "train", "apart"),
    [("is_valid", "False", "True"), ("Data Split", "train", "val"), ("split", "trainval", "val")],
)
def test_columns_that_divide(
    column: str, train: str, apart: str, table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    data = opened(table(f"file,label,{column}", f"a,{train}", f"b,{train}", f"a,{apart}", f"b,{apart}"))
    assert sorted(data.splits["val"].ids.tolist()) == sorted([*range(2, COUNT, 4), *range(3, COUNT, 4)])


def test_a_column_of_numbered_splits_divides_as_celeba_does(
    table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    data = opened(table("file,label,partition", "a,0", "b,0", "a,1", "b,2", "b,0", "a,0"))
    assert {split: len(images) for split, images in data.splits.items()} == {"train": 16, "val": 4, "test": 4}


@pytest.mark.parametrize(
    ("column", "values"),
    [("fold", "012"), ("type", "001"), ("split", "012"), ("partition", "0011"), ("is_train_station", "01")],
)
def test_numbers_that_name_no_splits(
    column: str, values: str, table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    rows = [f"{label},{value}" for value in values for label in "ab"]
    notes = opened(table(f"file,label,{column}", *rows)).notes
    assert not any("was divided by its column" in note for note in notes)


@pytest.mark.parametrize("column", ["dataset_type", "mode", "usage", "Data Subset", "inTrainingSet", "is_train_img"])
def test_columns_of_other_names_that_divide(
    column: str, table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    train, test = ("1", "0") if column.startswith("i") else ("train", "test")
    data = opened(table(f"file,label,{column}", f"a,{train}", f"b,{train}", f"a,{test}", f"b,{test}"))
    assert f"d was divided by its column {column!r}" in data.notes
    assert len(data.splits["test"]) == COUNT // 2


def test_evaluation_images_beside_training_images_do_not_train(
    table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    with pytest.raises(DataError, match="holds eval beside train, so it cannot be told which images train"):
        opened(table("file,label,split", "a,train", "b,train", "a,eval", "b,eval"))


def test_a_column_that_contradicts_the_files_is_said(
    tmp_path: Path, write_parquet: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    for split, said in (("train", ["train", "train", "val", "val"]), ("test", ["test"] * 4)):
        write_parquet(tmp_path / "d" / f"{split}.parquet", {"label": [0, 1] * 12, "split": said * 6})
    assert (
        "column 'split' of d is not used, since its files or folders divide it: it names val images in the train split"
        in opened(tmp_path / "d").notes
    )


def test_folders_in_the_names_of_a_table_divide(
    tmp_path: Path, picture: Callable[..., bytes], opened: Callable[..., DataSet]
) -> None:
    rows = ["file_name,label"]
    for number in range(COUNT):
        name = f"images/{'train' if number < 16 else 'test'}/{number}.png"
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(picture(number))
        rows.append(f"{name},{'ab'[number % 2]}")
    (tmp_path / "d" / "labels.csv").write_text("\n".join(rows))
    data = opened(tmp_path / "d")
    assert len(data.splits["test"]) == 8
    assert "the folders of the images divide" in " ".join(data.notes)


@pytest.mark.parametrize("within", ["dataset", "a/b"])
def test_splits_of_several_words_further_down(
    within: str, folders: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    places = [f"{within}/{split}_set/{name}" for split in ("training", "test") for name in ("cat", "dog")]
    data = opened(folders(*places))
    assert data.task.names == ("cat", "dog")
    assert len(data.splits["test"]) == COUNT
    assert any(note.endswith(f"lie in {within}/") for note in data.notes)


@pytest.mark.parametrize("whole", [True, False])
def test_a_link_does_not_put_an_image_into_two_classes(
    whole: bool, folders: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    folder = folders("cat", "dog")
    (folder / "dog" / "more").symlink_to(folder / "cat" if whole else folder / "cat" / "0.png")
    (folder / "dog" / "more").rename(folder / "dog" / ("more" if whole else "more.png"))
    with pytest.raises(DataError, match=r"cat/0\.png and .*dog/more.* are one image in two classes, by a link"):
        opened(folder)


def test_two_names_of_one_image_in_one_class(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = folders("cat", "dog")
    (folder / "dog" / "more.png").symlink_to(folder / "dog" / "0.png")
    assert opened(folder).task.names == ("cat", "dog")


def test_what_is_not_unpacked_is_said(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = folders("cat", "dog")
    (folder / "fox.zip").write_bytes(b"PK\x03\x04")
    assert any(note.startswith("what fox.zip in") for note in opened(folder).notes)


def test_a_second_table_is_said(table: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = table("file,label", "a", "b")
    [first] = folder.glob("*.csv")
    (folder / "annotations.csv").write_text(first.read_text().replace("b", "a"))
    data = opened(folder)
    assert data.task.names == ("a", "b")
    assert any(note.startswith("annotations.csv in") and note.endswith(first.name) for note in data.notes)


def test_a_table_in_two_encodings(tmp_path: Path, opened: Callable[..., DataSet]) -> None:
    lines = [b"file,label", *(f"{n}.png,k\xe4se".encode("latin-1" if n % 2 else "utf-8") for n in range(COUNT))]
    (tmp_path / "labels.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="in two encodings: line 2 is UTF-8, and line 3 is not"):
        opened(tmp_path)


@pytest.mark.parametrize("odd", ["holdout", ""])
def test_a_split_beside_the_test_that_is_not_known(
    odd: str, table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    with pytest.raises(
        DataError, match=f"holds {odd or 'nothing'} beside test, train, so it cannot be told which images train"
    ):
        opened(table("file,label,split", "a,train", "b,test", f"a,{odd}"))


def test_a_split_without_labels(folders: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = folders("train", "test")
    for name, head in (("train", "id,label"), ("test", "id")):
        ends = [f",{number % 2}" if name == "train" else "" for number in range(12)]
        (folder / f"{name}.csv").write_text("\n".join([head, *(f"{i}{end}" for i, end in enumerate(ends))]))
    with pytest.raises(DataError, match=r"in its test split.*If the images of that split have no labels, move it"):
        opened(folder)


@pytest.mark.parametrize("begin", ["iVBORw0KGgoAAAA", "/9j/4AAQSkZJRg", "data:image/png;base64,iVB"])
def test_a_table_of_images_in_base64(begin: str, tmp_path: Path, opened: Callable[..., DataSet]) -> None:
    (tmp_path / "train.csv").write_text("\n".join(["image,label", *(f'"{begin}{n}",{n % 2}' for n in range(COUNT))]))
    with pytest.raises(DataError, match="the table holds images as texts in base64"):
        opened(tmp_path)


def test_a_table_that_is_guessed_to_be_western_shows_a_word(
    table: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    folder = table("file,label", *["a"] * 5, "b")
    file = next(folder.glob("*.csv"))
    file.write_bytes(file.read_text(encoding="utf-8").replace(",b", ",猫").encode("shift_jis"))
    notes = opened(folder).notes
    assert any(
        "read as Windows-1252, so that one word in it is '”L'. If this is not the right word" in n for n in notes
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("file,label\n0.png,あ\n".encode("euc-jp") + b"1.png,\x81\n", "is neither UTF-8 nor Windows-1252"),
        ("file,label\n0.png,a\n".encode("utf-16") + b"1", "labels.csv begins as utf-16, but byte 40 is not"),
    ],
)
def test_a_table_in_no_encoding_that_is_known(
    data: bytes, message: str, tmp_path: Path, opened: Callable[..., DataSet]
) -> None:
    (tmp_path / "labels.csv").write_bytes(data)
    with pytest.raises(DataError, match=rf"{message}.*; save it as UTF-8"):
        opened(tmp_path)


@pytest.mark.parametrize("label", [[1], {"name": "cat"}])
def test_lists_and_mappings_in_a_tar_file(
    label: object, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for number in range(COUNT):
            for ending, data in (("png", picture(number)), ("json", json.dumps({"label": label, "x": 1}).encode())):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match=r"column 'label' of .* holds several labels in one value \('[\[{]\.\.\."):
        opened(tmp_path)
