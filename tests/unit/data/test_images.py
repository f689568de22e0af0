"""Decoding, and the cache of decoded images."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from smartedge.data import open_dataset
from smartedge.data.raw import Images
from smartedge.data.reading import images as module
from smartedge.data.reading.images import default_cache_dir, open_images
from smartedge.errors import DataError
from smartedge.images.decode import Item, decode

Picture = Callable[..., bytes]


def source(folder: Path, count: int, picture: Picture, first: int = 0) -> Images:
    """``count`` files of one colour each, from the shade ``first`` on."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        file.write_bytes(picture(first + i))
    return Images(count, key="files", items=lambda: iter(files), files=files)


def test_the_second_time_nothing_is_decoded(
    tmp_path: Path, cache: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = source(tmp_path / "d", 5, picture)
    first = open_images(images, name="d", image_size=8, cache_dir=cache)
    decoded = first.read(np.arange(5))
    assert decoded[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(list(cache.iterdir())) == 2

    def never(*_: object) -> None:
        pytest.fail("decoded again")

    monkeypatch.setattr(module, "decode", never)
    again = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert (again.read(np.array([4, 0])) == decoded[[4, 0]]).all()


def test_a_changed_file_is_decoded_again(tmp_path: Path, cache: Path, picture: Picture) -> None:
    images = source(tmp_path / "d", 3, picture)
    open_images(images, name="d", image_size=8, cache_dir=cache)
    file = images.files[1]
    before = file.stat()
    file.write_bytes(picture(200))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    again = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert again.read(np.arange(3))[:, 0, 0, 0].tolist() == [0, 200, 2]
    file.unlink()
    assert open_images(images, name="d", image_size=8, cache_dir=cache).bad == {1: "image file missing"}


def test_sizes_and_sources_are_kept_apart(tmp_path: Path, cache: Path, picture: Picture) -> None:
    images = source(tmp_path / "d", 3, picture)
    for size in (8, 16):
        store = open_images(images, name="d", image_size=size, cache_dir=cache)
        assert store.read(np.arange(3)).shape == (3, 3, size, size)
    other = open_images(source(tmp_path / "e", 3, picture), name="d", image_size=8, cache_dir=cache)
    assert other.read(np.arange(3)).shape == (3, 3, 8, 8)
    assert len(list(cache.glob("*.npy"))) == 3


@pytest.mark.parametrize("damage", ["pixels cut", "pixels replaced", "pixels gone", "notes cut", "notes gone"])
def test_damaged_files_are_made_again(damage: str, tmp_path: Path, cache: Path, picture: Picture) -> None:
    images = source(tmp_path / "d", 3, picture)
    open_images(images, name="d", image_size=8, cache_dir=cache)
    (pixels,), (notes,) = cache.glob("*.npy"), cache.glob("*.json")
    if damage == "pixels replaced":
        np.save(pixels, np.zeros((3, 3, 8, 9), np.uint8))
    else:
        file = pixels if damage.startswith("pixels") else notes
        file.write_bytes(file.read_bytes()[:-4])
        if damage.endswith("gone"):
            file.unlink()
    again = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert again.read(np.arange(3))[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_many_at_once(tmp_path: Path, cache: Path, picture: Picture) -> None:
    images = source(tmp_path / "d", 30, picture)
    results: list[list[int]] = []

    def open_and_read() -> None:
        store = open_images(images, name="d", image_size=8, cache_dir=cache)
        results.append(store.read(np.arange(30))[:, 0, 0, 0].tolist())

    threads = [threading.Thread(target=open_and_read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(30))] * 4
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]


def test_a_failure_leaves_nothing_behind(cache: Path, picture: Picture) -> None:
    def items() -> object:
        yield picture(1)
        raise DataError("the source broke")

    with pytest.raises(DataError, match="the source broke"):
        open_images(Images(2, key="x", items=items), name="d", image_size=8, cache_dir=cache)  # type: ignore[arg-type]
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot keep decoded images in .*file.*data\.cache_dir"):
        open_images(source(tmp_path / "d", 1, picture), name="d", image_size=8, cache_dir=tmp_path / "file" / "cache")


def test_only_what_is_needed_is_decoded(
    tmp_path: Path, cache: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = source(tmp_path / "d", 9, picture)
    (tmp_path / "d" / "4.png").write_bytes(b"garbage")
    (tmp_path / "d" / "5.png").write_bytes(b"garbage")
    decoded: list[object] = []
    monkeypatch.setattr(module, "decode", lambda item, size, fit: (decoded.append(item), decode(item, size, fit))[1])
    rows = np.array([1, 4, 7])
    store = open_images(images, name="d", image_size=8, cache_dir=cache, rows=rows)
    assert len(decoded) == 3
    assert store.bad == {4: "image cannot be decoded"}
    whole = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert len(decoded) == 3 + 9
    assert torch.equal(store.read(np.array([7, 1])), whole.read(np.array([7, 1])))
    assert store.read(np.array([7, 1])).float().var() > 0
    again = open_images(images, name="d", image_size=8, cache_dir=cache, rows=np.array([2]))  # all are there already
    assert len(decoded) == 3 + 9
    assert torch.equal(again.read(np.array([2])), whole.read(np.array([2])))


def test_a_limit_is_applied_before_decoding(
    tmp_path: Path, cache: Path, write_parquet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val", "test"):
        write_parquet(tmp_path / "d" / f"{split}.parquet", {"x": [i % 2 for i in range(100)]})
    decoded: list[object] = []
    monkeypatch.setattr(module, "decode", lambda item, size, fit: (decoded.append(item), decode(item, size, fit))[1])
    limit = {"train": 10, "val": 4, "test": 6}
    data = open_dataset(str(tmp_path / "d"), "x", image_size=8, limit=limit, cache_dir=cache)  # type: ignore[arg-type]
    assert {split: len(part) for split, part in data.splits.items()} == limit
    assert len(decoded) == 20
    train = data.splits["train"]
    shades = train.read(np.arange(10)).images_BCHW[:, 0, 4, 4].tolist()
    assert shades == [10 * i % 256 for i in train.ids.tolist()]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is decoded, in order."""
    items: list[object] = []
    monkeypatch.setattr(module, "decode", lambda item, size, fit: (items.append(item), decode(item, size, fit))[1])
    return items


def in_parts(folder: Path, counts: list[int], picture: Picture) -> Images:
    """Pictures in parts, each of the shade of its number."""
    starts = np.cumsum([0, *counts]).tolist()
    parts = [
        dataclasses.replace(source(folder / str(number), count, picture, first=starts[number]), key="part")
        for number, count in enumerate(counts)
    ]
    files = [file for part in parts for file in part.files]
    return Images(len(files), key="whole", items=lambda: iter(files), files=files, parts=parts)


def shades(store: module.ImageStore, indices: list[int]) -> list[int]:
    return store.read(np.array(indices))[:, 0, 4, 4].tolist()


def test_parts_are_read_as_one(tmp_path: Path, cache: Path, picture: Picture) -> None:
    images = in_parts(tmp_path, [3, 1, 4], picture)
    images.files[5].write_bytes(b"no image")
    store = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert shades(store, [7, 0, 3, 2, 4, 0]) == [7, 0, 3, 2, 4, 0]
    assert store.bad == {5: "image cannot be decoded"}
    some = open_images(images, name="d", image_size=9, cache_dir=cache, rows=np.array([1, 4, 7]))
    assert shades(some, [7, 1, 4]) == [7, 1, 4]
    assert len(list(cache.glob("*-9px-*.npy"))) == 2  # nothing of the middle part is needed


def test_what_was_decoded_before_an_interruption_is_kept(
    tmp_path: Path, cache: Path, picture: Picture, decoded: list[object]
) -> None:
    images = in_parts(tmp_path, [3, 2, 4], picture)

    def interrupted() -> Iterator[Item]:
        yield images.files[5]
        raise KeyboardInterrupt

    broken = dataclasses.replace(images.parts[2], items=interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_images(
            dataclasses.replace(images, parts=[*images.parts[:2], broken]), name="d", image_size=8, cache_dir=cache
        )
    assert not list(cache.glob(".*.tmp"))
    decoded.clear()
    store = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert decoded == images.files[5:]
    assert shades(store, list(range(9))) == list(range(9))


def test_only_a_part_that_changed_is_decoded_again(
    tmp_path: Path, cache: Path, picture: Picture, decoded: list[object]
) -> None:
    images = in_parts(tmp_path, [3, 2, 4], picture)
    open_images(images, name="d", image_size=8, cache_dir=cache)
    images.files[4].write_bytes(picture(99, size=(30, 30)))
    decoded.clear()
    store = open_images(images, name="d", image_size=8, cache_dir=cache)
    assert decoded == images.files[3:5]
    assert shades(store, [2, 3, 4, 5]) == [2, 3, 99, 5]


def test_parts_of_one_data_set_do_not_make_room_for_each_other(
    tmp_path: Path, cache: Path, picture: Picture, decoded: list[object]
) -> None:
    images = in_parts(tmp_path, [3, 2, 4], picture)
    for _ in range(2):
        open_images(images, name="d", image_size=8, cache_dir=cache, cache_bytes=1)
    assert len(decoded) == 9


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_data_sets_in_several_files_have_parts(
    kind: str,
    tmp_path: Path,
    cache: Path,
    picture: Picture,
    write_parquet: Callable[..., Path],
    decoded: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smartedge.data.layouts.image_files._LEAST_PART", 30)
    for number in range(4):
        if kind == "parquet":
            write_parquet(tmp_path / "d" / f"train-{number}.parquet", {"label": [0, 1] * 10})
        else:
            (tmp_path / "d" / f"class{number}").mkdir(parents=True)
            for image in range(20):
                (tmp_path / "d" / f"class{number}" / f"{image:02d}.png").write_bytes(picture(image))
    open_dataset(str(tmp_path / "d"), "label", image_size=8, cache_dir=cache)
    assert len(decoded) == 80
    if kind == "parquet":
        write_parquet(tmp_path / "d" / "train-2.parquet", {"label": [0, 1] * 15})
    else:
        (tmp_path / "d" / "class3" / "new.png").write_bytes(picture(1))
    decoded.clear()
    open_dataset(str(tmp_path / "d"), "label", image_size=8, cache_dir=cache)
    assert len(decoded) == (30 if kind == "parquet" else 41)


def test_what_was_not_used_for_long_gives_way(tmp_path: Path, cache: Path, picture: Picture) -> None:
    images = source(tmp_path / "d", 2, picture)
    for age, size in ((3, 8), (2, 9), (1, 10)):
        open_images(images, name="d", image_size=size, cache_dir=cache)
        for file in cache.glob(f"*-{size}px-*.json"):
            os.utime(file, (1_000_000 - age, 1_000_000 - age))
    open_images(images, name="d", image_size=8, cache_dir=cache)  # used just now
    old = open_images(images, name="d", image_size=9, cache_dir=cache)
    for file in cache.glob("*-9px-*.json"):
        os.utime(file, (1, 1))
    room = sum(file.stat().st_size for file in cache.glob("*.npy"))
    open_images(images, name="d", image_size=11, cache_dir=cache, cache_bytes=room)
    assert sorted(file.name.split("-")[1] for file in cache.glob("*.npy")) == ["11px", "8px"]
    assert old.read(np.array([1])).shape == (1, 3, 9, 9)  # who has it open can still read it


def test_progress_shows_on_a_terminal_only(
    tmp_path: Path,
    cache: Path,
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", -1.0)
    images = source(tmp_path / "d", 3, picture)
    open_images(images, name="d", image_size=8, cache_dir=cache)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    open_images(images, name="d", image_size=16, cache_dir=cache)
    assert "decoding d" in capsys.readouterr().err


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "smartedge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "smartedge"


def test_bad_images_are_left_out_and_counted(
    tmp_path: Path, cache: Path, picture: Picture, write_parquet: Callable[..., Path]
) -> None:
    pictures = [{"bytes": picture(i), "path": None} for i in range(60)]
    pictures[3]["bytes"] = b"garbage"
    pictures[5]["bytes"] = None  # type: ignore[assignment]
    for split in ("train", "val", "test"):
        write_parquet(tmp_path / "d" / f"{split}.parquet", {"x": [i % 2 for i in range(60)]}, images=pictures)
    data = open_dataset(str(tmp_path / "d"), "x", image_size=8, cache_dir=cache)
    assert data.skipped == {"image cannot be decoded": 3, "no image": 3}
    said = [note for note in data.notes if "left out of the" in note]
    assert len(said) == 3 and "row 3: image cannot be decoded" in said[0] and "row 5: no image" in said[0]
    train = data.splits["train"]
    assert train.ids[:5].tolist() == [0, 1, 2, 4, 6]
    batch = train.read(np.array([3, 4]))
    assert batch.images_BCHW[:, 0, 0, 0].tolist() == [4, 6]
    assert batch.labels.tolist() == [0, 0]


def test_too_many_bad_images_are_an_error(
    tmp_path: Path, cache: Path, picture: Picture, write_parquet: Callable[..., Path]
) -> None:
    pictures = [{"bytes": picture(i) if i > 1 else b"garbage", "path": None} for i in range(20)]
    write_parquet(tmp_path / "d" / "train.parquet", {"x": [i % 2 for i in range(20)]}, images=pictures)
    message = r"2 of the 20 images in the train split .*train\.parquet, row 0: image cannot be decoded; .*row 1"
    with pytest.raises(DataError, match=message):
        open_dataset(str(tmp_path / "d"), "x", image_size=8, cache_dir=cache)
