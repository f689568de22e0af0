"""Tar files in WebDataset's layout."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from smartedge.data import DataSet, open_dataset
from smartedge.data.layouts import webdataset
from smartedge.errors import DataError

Picture = Callable[..., bytes]


@pytest.fixture
def opened(cache: Path) -> Callable[..., DataSet]:
    """``opened(folder, desired="cls", **more)`` opens a data set of small images."""

    def open_it(folder: Path, desired: str | list[str] = "cls", **more: object) -> DataSet:
        return open_dataset(str(folder), desired, image_size=8, cache_dir=cache, **more)  # type: ignore[arg-type]

    return open_it


def write(file: Path, members: Mapping[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file


def samples(picture: Picture, count: int, first: int = 0, folder: str = "") -> dict[str, bytes]:
    """Pictures of the shade of their number, with a class and a mapping each."""
    members = {}
    for number in range(first, first + count):
        facts = {"smile": number % 3 == 0, "camera": ["a", "b"][number // 2 % 2], "box": [1, 2]}
        members[f"{folder}{number:05d}.jpg"] = picture(number)
        members[f"{folder}{number:05d}.cls"] = str(number % 2).encode()
        members[f"{folder}{number:05d}.json"] = json.dumps(facts).encode()
    return members


@pytest.mark.parametrize("folder", ["", "part.a/", "./"])
def test_shards_by_split(folder: str, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    write(tmp_path / "d" / "set-train-000000.tar", samples(picture, 20, 0, folder))
    write(tmp_path / "d" / "set-train-000001.TAR", samples(picture, 20, 20, folder))
    write(tmp_path / "d" / "set-test-000000.tar", samples(picture, 10, 50, folder))
    data = opened(tmp_path / "d", sensitive=["smile", "camera"])
    assert data.task.names == ("no", "yes")
    assert data.sensitive["camera"].names == ("a", "b")
    test = data.splits["test"].read(np.arange(10))
    assert test.images_BCHW[:, 0, 4, 4].tolist() == list(range(50, 60))
    assert test.labels.tolist() == [0, 1] * 5
    assert test.sensitive["smile"].tolist() == [int(number % 3 == 0) for number in range(50, 60)]
    assert data.splits["train"].read(np.array([35])).images_BCHW[0, 0, 4, 4] == data.splits["train"].ids[35]


def test_it_is_listed_once(
    tmp_path: Path, picture: Picture, opened: Callable[..., DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "d.tar", samples(picture, 20))
    assert len(opened(file).splits["train"]) == 16
    listed = []
    monkeypatch.setattr(
        webdataset, "_list", lambda path, list_it=webdataset._list: listed.append(path) or list_it(path)
    )
    opened(file)
    assert not listed
    write(file, samples(picture, 30))
    assert len(opened(file).splits["train"]) == 24
    assert listed == [file]


def test_an_image_without_a_label_and_a_label_without_an_image(
    tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    members = samples(picture, 80)
    del members["00003.cls"], members["00005.jpg"]
    data = opened(write(tmp_path / "d.tar", members))
    assert data.skipped == {"no label in column 'cls'": 1, "no image": 1}


@pytest.mark.parametrize("listed", ["now", "before"])
def test_what_is_no_image_and_no_label_is_said(
    listed: str, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    file = write(tmp_path / "d.tar", {**samples(picture, 20), "00019.mask.png": b"0", "00019.2": b"1"})
    for _ in range(1 if listed == "now" else 2):
        notes = opened(file).notes
    assert any(f"by their names: {file} holds 1 .mask.png, 1 .2" in note for note in notes)


def test_names_of_classes(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    members = samples(picture, 40)
    members |= {name: [b"cat\n", b"dog\n"][number % 2] for number, name in enumerate(members) if name.endswith("cls")}
    assert opened(write(tmp_path / "d.tar", members)).task.names == ("cat", "dog")


def test_a_number_that_is_lacking_is_noted(tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]) -> None:
    for number in (0, 1, 3):
        write(tmp_path / "d" / f"train-{number:06d}.tar", samples(picture, 20, 20 * number))
    assert any(
        "files train-* are numbered, and these numbers are missing: 2" in n for n in opened(tmp_path / "d").notes
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"00001.png": b""}, "00001 has two images, 00001.jpg and 00001.png"),
        ({"00000.txt": b"x"}, "the files of 00000 do not lie side by side"),
        ({"00019.cls": b"\xff\xfe\xfa"}, r"00019\.cls cannot be read"),
        ({"00019.json": b"[1, 2]"}, r"00019\.json holds no mapping"),
        ({"00019.json": b'{"camera": 3}'}, "the values of 'camera' have different types"),
    ],
)
def test_what_is_not_in_the_layout(
    change: dict[str, bytes], message: str, tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    members = samples(picture, 20)
    if "00001.png" in change:
        members = dict(list(members.items())[:6])
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path / "d.tar", {**members, **change}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.npy": b"", "2.npy": b""}, r"holds no images: .*found 2 \.npy"),
        ({"cat/1.jpg": b"", "dog/1.jpg": b""}, r"images and no labels: .*1\.cls or \.json .*unpack it"),
    ],
)
def test_no_images_or_no_labels(
    members: dict[str, bytes], message: str, tmp_path: Path, opened: Callable[..., DataSet]
) -> None:
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path / "d.tar", members))


def test_an_image_that_claims_to_be_larger_than_the_memory(
    tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    """A sparse file of a tar says how large it is without its holes."""
    entry = tarfile.TarInfo("99999.png")
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + (2**60).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    file = write(tmp_path / "d.tar", samples(picture, 20))
    file.write_bytes(bytes(header) + file.read_bytes())
    with pytest.raises(DataError, match=r"99999\.png is a sparse file, or larger than 1 GiB; take it out"):
        opened(file)


def test_a_file_that_is_no_tar(tmp_path: Path, opened: Callable[..., DataSet]) -> None:
    (tmp_path / "train.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(DataError, match="git-LFS pointer"):
        opened(tmp_path)
    (tmp_path / "train.tar").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is no tar file that can be read"):
        opened(tmp_path)
    (tmp_path / "train.tar.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="unpack it, and give its folder"):
        opened(tmp_path / "train.tar.gz")


def test_a_tar_file_of_which_a_part_would_be_lost(
    tmp_path: Path, picture: Picture, opened: Callable[..., DataSet]
) -> None:
    file = write(tmp_path / "d.tar", samples(picture, 40))
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        headers = [member.offset for member in tar if member.name.endswith(".jpg")]
    damaged = bytearray(whole)
    damaged[headers[20]] ^= 1
    for content, said in [
        (whole[: headers[20]], "has no end: it was cut off"),
        (bytes(damaged), f"is damaged at byte {headers[20]}"),
        (whole + whole, "holds more behind its end"),
    ]:
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            opened(file)
    file.write_bytes(whole)
    assert len(opened(file).splits["train"]) == 32


def test_a_limit_reads_no_other_image(
    tmp_path: Path, picture: Picture, opened: Callable[..., DataSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pread, places = write(tmp_path / "d.tar", samples(picture, 200)), os.pread, set()
    monkeypatch.setattr(os, "pread", lambda file, size, place: places.add(place) or pread(file, size, place))
    data = opened(file, limit={"train": 20, "val": 5, "test": 5})
    assert len(places) == 30
    shades = data.splits["train"].read(np.arange(20)).images_BCHW[:, 0, 4, 4]
    assert shades.tolist() == data.splits["train"].ids.tolist()
    opened(file, limit={"train": 21, "val": 5, "test": 5}, cache_bytes=0)
    assert len(places) == 31
