"""What changes the meaning of a label is an error; what is chosen, ignored or lost is said."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from smartedge.data import DataSet, open_dataset
from smartedge.data.reading import images as images_module
from smartedge.data.reading.images import default_cache_dir
from smartedge.errors import DataError
from smartedge.locks import lock_at_once

Write = Callable[..., Path]
Picture = Callable[..., bytes]
CATS = {"animal": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
DOGS = {"animal": {"names": ["dog", "cat"], "_type": "ClassLabel"}}


@pytest.fixture
def opened(cache: Path) -> Callable[..., DataSet]:
    """``opened(folder, desired="label", **more)`` opens a data set of small images."""

    def open_it(folder: Path, desired: str | list[str] = "label", **more: object) -> DataSet:
        return open_dataset(str(folder), desired, image_size=8, cache_dir=cache, **more)  # type: ignore[arg-type]

    return open_it


@pytest.fixture
def classes(tmp_path: Path, picture: Picture) -> Callable[..., Path]:
    """``classes(folder, ant=3, wasp=2)`` writes so many pictures of each class into ``folder``."""

    def write(folder: str, **counts: int) -> Path:
        for kind, count in counts.items():
            place = tmp_path / folder / kind
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (place / f"{number}.png").write_bytes(picture(number))
        return tmp_path / folder.split("/")[0]

    return write


# -- the meaning of a label


@pytest.mark.parametrize("second", ["test.parquet", "train-00001-of-00002.parquet"])
def test_class_names_that_differ_between_files(
    second: str, tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    first = "train.parquet" if second == "test.parquet" else "train-00000-of-00002.parquet"
    write_parquet(tmp_path / "d" / first, {"animal": [0, 1] * 10}, CATS)
    write_parquet(tmp_path / "d" / second, {"animal": [0, 1] * 10}, DOGS)
    with pytest.raises(DataError, match=r"one number means two classes of column 'animal': .*cat, dog"):
        opened(tmp_path / "d", "animal")


@pytest.mark.parametrize("twin", ["CAT", "cat ", "c\uff41t"])
def test_classes_that_a_reader_takes_for_one(
    twin: str, tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"animal": ["cat", twin, "dog"] * 10})
    with pytest.raises(DataError, match="differ in case, spaces, dashes or the form of a letter alone"):
        opened(tmp_path / "d", "animal")


def test_types_that_differ_between_splits(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"label": [0, 1] * 10})
    write_parquet(tmp_path / "d" / "test.parquet", {"label": ["0", "1"]})
    with pytest.raises(DataError, match="holds texts in test, whole numbers in train"):
        opened(tmp_path / "d")


def test_a_split_without_a_single_label_is_named(
    tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"label": ["a", "b"] * 10})
    write_parquet(tmp_path / "d" / "test.parquet", {"label": pa.nulls(4)})
    with pytest.raises(DataError, match=r"4 of the 4 images in the test split .*row 0: no label in column 'label'"):
        opened(tmp_path / "d")


def test_numbers_beyond_64_bits(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"label": pa.array([2**64 - 1, 0] * 10, pa.uint64())})
    with pytest.raises(DataError, match="numbers beyond 64 bits"):
        opened(tmp_path / "d")


# -- classes that appear or vanish


@pytest.mark.parametrize("hidden", [".cache", "__MACOSX", "@eaDir", "$5"])
def test_a_hidden_folder_is_no_class_and_is_named(
    hidden: str, classes: Callable[..., Path], opened: Callable[..., DataSet], picture: Picture
) -> None:
    folder = classes("bugs", ant=20, wasp=20)
    (folder / hidden).mkdir()
    (folder / hidden / "0.png").write_bytes(picture(3))
    (folder / "ant" / "._0.png").write_bytes(b"a resource fork")
    data = opened(folder)
    assert data.task.names == ("ant", "wasp")
    assert sum(len(split) for split in data.splits.values()) == 40
    assert [note for note in data.notes if hidden in note and "if it is a class, rename it" in note]
    assert not [note for note in data.notes if "._0" in note or "no images by their name" in note]


def test_hidden_images_are_counted_and_a_hidden_class_beside_one_is_named(
    classes: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    folder = classes("bugs", ant=20, wasp=20)
    (folder / "ant" / "0.png").rename(folder / "ant" / "$0.png")
    assert [note for note in opened(folder).notes if note.endswith("or hidden; not used: 1 hidden .png")]
    (folder / "wasp").rename(folder / ".wasp")
    with pytest.raises(DataError, match=r"Found: ant/; \.wasp/ \(hidden, so not used\)"):
        opened(folder)


def test_a_class_whose_files_are_no_images_is_not_lost(
    classes: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    folder = classes("bugs", ant=20, wasp=20)
    (folder / "bee").mkdir()
    (folder / "bee" / "1.cr2").write_bytes(b"raw")
    with pytest.raises(DataError, match=r"a class without images would be lost: bee \(1 \.cr2\)"):
        opened(folder)


def test_portable_grey_maps_are_images(classes: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = classes("bugs", ant=20, wasp=20)
    (folder / "bee").mkdir()
    for number in range(20):
        (folder / "bee" / f"{number}.pgm").write_bytes(b"P5 8 8 255\n" + bytes([number]) * 64)
    assert opened(folder).task.names == ("ant", "bee", "wasp")


def test_links_to_folders_are_followed(
    tmp_path: Path, classes: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    folder = classes("bugs", ant=20, wasp=20)
    elsewhere = classes("elsewhere", bee=20)
    (folder / "bee").mkdir()
    (folder / "bee" / "more").symlink_to(elsewhere / "bee", target_is_directory=True)
    (folder / "bee" / "round").symlink_to(folder / "bee", target_is_directory=True)  # leads back
    data = opened(folder)
    assert data.task.names == ("ant", "bee", "wasp")
    assert sum(len(split) for split in data.splits.values()) == 60


def test_a_class_that_no_training_image_has(classes: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    classes("bugs/train", ant=10, wasp=10)
    folder = classes("bugs/test", ant=3, bee=3)
    with pytest.raises(DataError, match="some test images are of a class that no training image has: bee"):
        opened(folder)


def test_a_class_that_a_split_lacks_is_noted(classes: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    classes("bugs/train", ant=20, wasp=20)
    folder = classes("bugs/test", ant=3)
    assert "column 'label' of bugs: no test image is of class wasp" in opened(folder).notes


@pytest.mark.parametrize("sensitive", [(), ("x",)])
def test_one_class_cannot_be_learned_or_hidden(
    sensitive: tuple[str, ...], tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"x": [True] * 20, "y": [True, False] * 10})
    with pytest.raises(DataError, match=r"column 'x' of d: all training images are of one class \(yes\)"):
        opened(tmp_path / "d", "y" if sensitive else "x", sensitive=sensitive)


def test_a_list_of_columns_needs_one_that_can_be_learned(
    tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    write_parquet(tmp_path / "d" / "train.parquet", {"x": [True] * 20, "y": [True, False] * 10, "z": [False] * 20})
    assert "nothing can be learned of x: all training images of d are alike" in opened(tmp_path / "d", ["x", "y"]).notes
    with pytest.raises(DataError, match=r"each column of data\.desired has one value alone"):
        opened(tmp_path / "d", ["x", "z"])


# -- which images belong to which split


def test_a_column_divides_a_data_set(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    places = ["train", "Training", "validation", "test"] * 10
    write_parquet(tmp_path / "d.parquet", {"x": [i // 4 % 2 for i in range(40)], "Split": places})
    data = opened(tmp_path / "d.parquet", "x")
    assert data.splits["test"].ids.tolist() == list(range(3, 40, 4))
    assert data.splits["val"].ids.tolist() == list(range(2, 40, 4))
    assert len(data.splits["train"]) == 20
    assert data.notes == ("d was divided by its column 'Split'",)


def test_a_column_that_does_not_divide_is_noted(
    tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    write_parquet(tmp_path / "d.parquet", {"x": [0, 1] * 20, "split": ["b", "holdout"] * 20})
    assert any(
        "does not divide it, because it holds b, holdout" in note for note in opened(tmp_path / "d.parquet", "x").notes
    )


@pytest.mark.parametrize(
    ("train", "test"), [("my_train", "my_test"), ("TRAIN", "TEST"), ("data.train", "data.test"), ("train0", "test0")]
)
def test_files_whose_names_hold_the_split(
    train: str, test: str, tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]
) -> None:
    write_parquet(tmp_path / "d" / f"{train}.parquet", {"x": [0, 1] * 20})
    write_parquet(tmp_path / "d" / f"{test}.PARQUET", {"x": [0, 1] * 5})
    write_parquet(tmp_path / "d" / "extra.parquet", {"x": [0, 1] * 5})
    data = opened(tmp_path / "d", "x")
    assert len(data.splits["test"]) == 10
    assert "not used, because their names name no split: extra.parquet" in data.notes


def test_nested_files(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    write_parquet(tmp_path / "d" / "default" / "train" / "0000.parquet", {"x": [0, 1] * 20})
    write_parquet(tmp_path / "d" / "default" / "test" / "0000.parquet", {"x": [0, 1] * 5})
    assert len(opened(tmp_path / "d", "x").splits["test"]) == 10


def test_absent_shards(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    for number in (0, 3):
        write_parquet(tmp_path / "d" / f"train-{number:05d}-of-00004.parquet", {"x": [0, 1] * 20})
    with pytest.raises(DataError, match=r"of the 4 files train-\*-of-00004\.parquet, .* missing: 1, 2"):
        opened(tmp_path / "d", "x")


@pytest.mark.parametrize(("train", "test"), [("training_set", "test_set"), ("seg_train", "seg_test")])
def test_folders_whose_names_hold_the_split(
    train: str, test: str, classes: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    classes(f"bugs/{train}", ant=20, wasp=20)
    classes("bugs/unlabelled", some=2)
    data = opened(classes(f"bugs/{test}", ant=3, wasp=3))
    assert data.task.names == ("ant", "wasp")
    assert len(data.splits["test"]) == 6
    assert any("no split of" in note and "unlabelled" in note for note in data.notes)


def test_a_class_called_train(classes: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match="whether 'train' is the training split or a class beside bus"):
        opened(classes("vehicles", train=20, bus=20))


def test_one_table_beside_the_splits(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    rows = ["file_name,smile"]
    for split, count in (("train", 20), ("test", 6)):
        (tmp_path / "d" / split).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "d" / split / f"{number}.png").write_bytes(picture(number))
            rows.append(f"{split}/{number}.png,{number % 2}")
    (tmp_path / "d" / "metadata.csv").write_text("\n".join([*rows, "elsewhere/1.png,0", ""]))
    data = opened(tmp_path / "d", "smile")
    assert len(data.splits["test"]) == 6
    assert data.splits["test"].read(np.array([5])).images_BCHW[0, 0, 4, 4] == 5
    assert any(note.startswith("1 row(s)") for note in data.notes)


# -- tables


@pytest.mark.parametrize(
    ("name", "head", "encoding"),
    [
        ("labels.csv", "id,label", "utf-8"),
        ("Labels.TSV", "Image Index\tlabel", "utf-16"),
        ("train.csv", "filename;label", "utf-8-sig"),
        ("labels.csv", "id,label", "utf-32"),
        ("annotations.csv", "image_path,label", "cp1252"),
    ],
)
def test_tables_of_other_names_and_encodings(
    name: str, head: str, encoding: str, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    (tmp_path / "d" / "images").mkdir(parents=True)
    between = next(mark for mark in ",;\t" if mark in head)
    rows = [head]
    for number in range(20):
        (tmp_path / "d" / "images" / f"p{number}.png").write_bytes(picture(number))
        rows.append(f"p{number}{'' if head.startswith('id') else '.png'}{between}{('café', 'thé')[number % 2]}")
    (tmp_path / "d" / name).write_bytes("\n".join(rows).encode(encoding))
    data = opened(tmp_path / "d")
    assert data.task.names == ("café", "thé")
    assert sum(len(split) for split in data.splits.values()) == 20
    assert any("Windows-1252" in note for note in data.notes) == (encoding == "cp1252")


@pytest.mark.parametrize("apart", [False, True])
def test_a_table_for_each_split(apart: bool, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    first = 0
    for split, count in (("train", 20), ("val", 4), ("test", 6)):
        folder = tmp_path / "d" / (split if apart else "images")
        folder.mkdir(parents=True, exist_ok=True)
        rows = ["image_id,label"]
        for number in range(count):
            name = number if apart else first + number
            (folder / f"{name}.png").write_bytes(picture(first + number))
            rows.append(f"{name},{'ab'[number % 2]}")
        (tmp_path / "d" / f"{split}.csv").write_text("\n".join(rows))
        first += count
    (tmp_path / "d" / "sample_submission.csv").write_text("image_id,label\n0,a\n")
    data = opened(tmp_path / "d")
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [20, 4, 6]
    assert data.splits["test"].read(np.arange(6)).images_BCHW[:, 0, 4, 4].tolist() == list(range(24, 30))
    for split in ("val", "test"):
        (tmp_path / "d" / f"{split}.csv").unlink()
    if not apart:
        assert len(opened(tmp_path / "d").splits["train"]) == 16


@pytest.mark.parametrize(
    ("train", "test"), [("training_set/training_set", "test_set/test_set"), ("train/images", "test/images")]
)
def test_classes_one_folder_further_down(
    train: str, test: str, classes: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    (classes(f"bugs/{train}", ant=20, wasp=20) / ".DS_Store").write_bytes(b"0")
    (tmp := classes(f"bugs/{test}", ant=3, wasp=3) / Path(test).parts[0] / ".DS_Store").write_bytes(b"0")
    data = opened(tmp.parent.parent)
    assert (f"the classes of {tmp.parent} lie in images/" in data.notes) == test.endswith("images")
    assert data.task.names == ("ant", "wasp")
    assert len(data.splits["test"]) == 6


def test_one_folder_names_no_class(classes: Callable[..., Path], opened: Callable[..., DataSet]) -> None:
    folder = classes("bugs", images=20)
    (folder / "annotations.json").write_text("{}")
    with pytest.raises(DataError, match=r"lie in the folder 'images', .*Found: 1 file\(s\) with \.json; images/"):
        opened(folder)


def test_a_table_does_not_lead_out_of_its_folder(tmp_path: Path, opened: Callable[..., DataSet]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metadata.csv").write_text("file_name,label\n../secret.png,1\n")
    with pytest.raises(DataError, match=r"outside the folder: \.\./secret\.png"):
        opened(tmp_path / "d")


def test_pointers_of_git_lfs(tmp_path: Path, write_parquet: Write, opened: Callable[..., DataSet]) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.parquet").write_bytes(pointer)
    with pytest.raises(DataError, match=r"train\.parquet is a git-LFS pointer, .*git lfs pull"):
        opened(tmp_path / "d", "x")


# -- the cache of decoded images


def test_an_image_that_becomes_readable(
    tmp_path: Path, write_parquet: Write, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    files = [{"bytes": None, "path": f"{number}.png"} for number in range(40)]
    for number in range(39):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    write_parquet(tmp_path / "train.parquet", {"x": [0, 1] * 20}, images=files)
    assert opened(tmp_path, "x").skipped == {"image file missing": 1}
    (tmp_path / "39.png").write_bytes(picture(39))
    assert opened(tmp_path, "x").skipped == {}


def test_an_image_named_by_path_that_changes(
    tmp_path: Path, write_parquet: Write, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    files = [{"bytes": None, "path": f"{number}.png"} for number in range(40)]
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(picture(1))
    write_parquet(tmp_path / "train.parquet", {"x": [0, 1] * 20}, images=files)

    def shade(data: DataSet) -> int:
        return int(data.splits["train"].read(np.array([0])).images_BCHW[0, 0, 4, 4])

    assert shade(opened(tmp_path, "x")) == 1
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(picture(200))
    assert shade(opened(tmp_path, "x")) == 200


def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, cache: Path, classes: Callable[..., Path], opened: Callable[..., DataSet]
) -> None:
    cache.mkdir()
    killed, young, writing = (cache / f".{name}.npy.00.tmp" for name in ("killed", "young", "writing"))
    for file in (killed, young, writing):
        file.write_bytes(b"half")
    long_ago = time.time() - 2 * images_module.LEFT_OVER_S
    os.utime(killed, (long_ago, long_ago))
    os.utime(writing, (long_ago, long_ago))
    with writing.open("rb") as held:
        assert lock_at_once(held.fileno())
        opened(classes("bugs", ant=20, wasp=20))
    assert sorted(file.name for file in cache.glob(".*.tmp")) == [".writing.npy.00.tmp", ".young.npy.00.tmp"]


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DataError, match=r"no home folder .*data\.cache_dir"):
        default_cache_dir()
