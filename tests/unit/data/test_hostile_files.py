"""Tables, arrays and addresses of other programs: each is read rightly, or an error names it and what to do."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from smartedge.data import DataSet, open_dataset
from smartedge.errors import DataError

Picture = Callable[..., bytes]
COUNT = 24


@pytest.fixture
def opened(cache: Path) -> Callable[..., DataSet]:
    def open_it(path: Path | str) -> DataSet:
        return open_dataset(str(path), "label", image_size=8, cache_dir=cache)

    return open_it


@pytest.fixture
def labelled(tmp_path: Path, picture: Picture) -> Callable[[str], Path]:
    """Images 0.png, 1.png, ... and a table of labels with this content."""

    def write(content: str) -> Path:
        for number in range(COUNT):
            (tmp_path / f"{number}.png").write_bytes(picture(number))
        (tmp_path / "labels.csv").write_text(content)
        return tmp_path

    return write


class KeyService(pe.KmsClient):
    """Keeps no secret."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)


@pytest.mark.parametrize("open_footer", [True, False])
def test_encrypted_columns_are_named(open_footer: bool, tmp_path: Path, picture: Picture, opened: Any) -> None:
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["label"]}, plaintext_footer=open_footer)
    properties = pe.CryptoFactory(KeyService).file_encryption_properties(pe.KmsConnectionConfig(), config)
    table = pa.table({"image": [picture(number) for number in range(COUNT)], "label": [0, 1] * (COUNT // 2)})
    pq.write_table(table, tmp_path / "d.parquet", encryption_properties=properties)
    with pytest.raises(DataError, match=r"d\.parquet is no Parquet file that can be read: .*encrypted"):
        opened(tmp_path / "d.parquet")


def test_arrays_in_another_form_say_how_to_write_them(tmp_path: Path, opened: Any) -> None:
    images = np.asfortranarray(np.zeros((COUNT, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=np.array(["a", "b"] * 12, object))
    with pytest.raises(DataError, match=r"in C order: write numpy\.ascontiguousarray\(images, numpy\.uint8\)"):
        opened(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", train_images=images.copy("C"), train_labels=np.array(["a", "b"] * 12, object))
    with pytest.raises(DataError, match=r"as numbers or texts \(labels\.astype\(str\)\)"):
        opened(tmp_path / "d.npz")


@pytest.mark.parametrize("separator", [";", "|"])
def test_the_first_line_of_excel_names_the_separator(separator, labelled, opened):
    rows = (f"{number}.png{separator}{'ant, red' if number % 2 else 'wasp, a, b'}\r\n" for number in range(COUNT))
    data = opened(labelled(f"sep={separator}\r\nfile_name{separator}label\r\n" + "".join(rows)))
    assert data.task.names == ("ant, red", "wasp, a, b")
    assert sum(map(len, data.splits.values())) == COUNT


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(labelled, opened):
    rows = [f"{number}.png,{'ant' if number % 2 else 'wasp'}\n" for number in range(COUNT)]
    rows[3] = '3.png,"ant\n'
    rows[9] = '9.png,"ant\n'
    with pytest.raises(DataError, match=r"labels\.csv: the cell that begins with 'ant' holds the rows below it"):
        opened(labelled("file_name,label\n" + "".join(rows)))


def test_a_cell_of_several_lines_is_a_cell(labelled, opened):
    rows = (f'{number}.png,{number % 2},"two lines,\nof a remark"\n' for number in range(COUNT))
    assert sum(map(len, opened(labelled("file_name,label,remark\n" + "".join(rows))).splits.values())) == COUNT


@pytest.mark.parametrize("address", ["s3://bucket/faces", "https://example.com/faces.zip", "file:///faces"])
def test_an_address_is_no_folder(address, opened):
    with pytest.raises(DataError, match=f"{address} is an address, and no folder: fetch the data set"):
        opened(address)


@pytest.mark.parametrize("begin", ["", "data:image/png;base64,"])
def test_images_in_base64_are_named(begin, tmp_path, picture, opened):
    texts = [begin + base64.b64encode(picture(number)).decode() for number in range(COUNT)]
    pq.write_table(pa.table({"image": texts, "label": [0, 1] * (COUNT // 2)}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="text in base64, and no file's name"):
        opened(tmp_path)


def test_labels_of_another_byte_order(tmp_path, opened):
    images = np.zeros((COUNT, 8, 8, 3), np.uint8)
    for name, kind in (("big", ">i4"), ("little", "<i4")):
        np.savez(tmp_path / f"{name}.npz", train_images=images, train_labels=(np.arange(COUNT) % 3).astype(kind))
    assert opened(tmp_path / "big.npz").task == opened(tmp_path / "little.npz").task


@pytest.mark.parametrize(("others", "noted"), [(0, True), (1, False)])
def test_one_hot_rows_are_noted(others, noted, tmp_path, opened):
    labels = np.eye(3, dtype=np.int64)[np.arange(COUNT) % 3]
    labels[0] += others
    labels = labels.clip(max=1)
    images = np.zeros((COUNT, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=labels)
    data = opened(tmp_path / "d.npz")
    assert data.task.kind == "multi"
    assert any("one yes among label_0, label_1, label_2" in note for note in data.notes) == noted
