"""The same features in three formats, and files that are refused."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from smartedge.errors import ConfigError, DataError
from smartedge.lab.audit.features.files import read_table

COUNT = 60
FEATURES = np.random.default_rng(0).standard_normal((COUNT, 2, 3, 4)).astype(np.float32)
LABELS = np.arange(COUNT) % 2
SPLITS = np.tile([0, 1, 2], COUNT // 3)
GLASSES = np.arange(COUNT) % 4 == 0


def npz(path: Path) -> Path:
    file = path / "faces.npz"
    np.savez(file, features=FEATURES, labels=LABELS, splits=SPLITS, glasses=GLASSES)
    return file


def tensors(path: Path) -> Path:
    file = path / "faces.safetensors"
    arrays = {"features": FEATURES, "labels": LABELS, "splits": SPLITS, "glasses": GLASSES}
    save_file({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, file)
    return file


def parquet(path: Path) -> Path:
    file = path / "faces.parquet"
    columns = {"features": FEATURES.tolist(), "labels": LABELS, "splits": SPLITS, "glasses": GLASSES}
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize("write", [npz, tensors, parquet])
def test_three_formats_hold_the_same(write: Callable[[Path], Path], tmp_path: Path) -> None:
    table = read_table(write(tmp_path))
    assert np.array_equal(table.features_NF, FEATURES) and table.features_NF.dtype == np.float32
    assert table.desired is not None and np.array_equal(table.desired.codes_N, LABELS)
    assert [column.name for column in table.sensitive] == ["glasses"]
    assert np.array_equal(table.sensitive[0].codes_N, GLASSES)
    assert table.splits["val"].tolist() == list(range(1, COUNT, 3)) and table.persons_N is None


def test_texts_and_missing_values_of_parquet(tmp_path: Path) -> None:
    file = tmp_path / "faces.parquet"
    hair = ["dark", None, "fair"] * 20
    worn = pa.array([True, None, False] * 20)
    pq.write_table(pa.table({"features": FEATURES.reshape(COUNT, -1).tolist(), "hair": hair, "worn": worn}), file)
    table = read_table(file)
    assert {column.name: column.codes_N[:3].tolist() for column in table.sensitive} == {
        "hair": [0, -1, 1],
        "worn": [1, -1, 0],
    }


def test_decimals_and_nothing_at_all_in_parquet(tmp_path: Path) -> None:
    rows = FEATURES.reshape(COUNT, -1).tolist()
    decimals = pa.array([Decimal(number % 2) for number in range(COUNT)])
    pq.write_table(pa.table({"features": rows, "hat": decimals}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").sensitive[0].codes_N[:2].tolist() == [0, 1]
    pq.write_table(pa.table({"features": rows, "hat": pa.nulls(COUNT)}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="all images have no 'hat'"):
        read_table(tmp_path / "b.parquet")


def test_half_precision_and_a_choice_of_columns(tmp_path: Path) -> None:
    file = tmp_path / "faces.safetensors"
    halved = torch.from_numpy(FEATURES).to(torch.bfloat16)
    save_file({"features": halved, "hat": torch.arange(COUNT) % 2, "path": torch.arange(COUNT)}, file)
    with pytest.raises(DataError, match=r"faces\.safetensors: path: has 60 different values.*--attributes"):
        read_table(file)
    table = read_table(file, attributes=("hat",))
    assert np.array_equal(table.features_NF, halved.float().numpy())
    with pytest.raises(ConfigError, match=r"no column 'moustache'. Its columns are: hat, path"):
        read_table(file, attributes=("moustache",))


@pytest.mark.parametrize("write", [npz, tensors, parquet])
def test_what_would_not_fit_is_refused_before_it_is_read(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * FEATURES.nbytes))
    with pytest.raises(DataError, match=f"{file.name}: its arrays take .* of memory.*--attributes"):
        read_table(file)


def zeros(file: Path, name: str, numbers: int) -> None:
    """An array of zeros, which takes hardly any room in the file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (numbers,)})
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as array:
        array.write(header.getvalue())
        for _ in range(numbers // 2**20):
            array.write(bytes(2**20))


def test_a_bomb_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = npz(tmp_path)
    zeros(file, "bomb", 2**26)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**26))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"take 0\.1 GB of memory"):
            read_table(file)
        assert read_table(file, attributes=("glasses",)).sensitive[0].name == "glasses"  # the bomb is not read
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_parquet_file_of_few_bytes_for_each_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(COUNT * 100_000, dtype=np.float32)), 100_000)
    pq.write_table(pa.table({"features": equal, "hat": LABELS}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 10_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**26))
    with pytest.raises(DataError, match=r"take 0\.0 GB of memory"):
        read_table(tmp_path / "bomb.parquet")


def test_a_long_text_as_a_label(tmp_path: Path) -> None:
    rows = FEATURES.reshape(COUNT, -1).tolist()
    pq.write_table(pa.table({"features": rows, "hat": ["no", "y" * 10_000] * (COUNT // 2)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="hat: holds a text of 10000 characters"):
        read_table(tmp_path / "a.parquet")


def pickled(file: Path) -> None:
    np.savez(file, features=FEATURES, glasses=np.array([{"a": 1}] * COUNT, dtype=object))


def claims_too_much(file: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("features.npy", header.getvalue())


def turned_bits(file: Path) -> None:
    np.savez_compressed(file, features=FEATURES, hat=np.arange(COUNT) % 2)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        start = archive.infolist()[0].header_offset
    content[start + 60 : start + 90] = b"\xff" * 30
    file.write_bytes(content)


def one_array(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, FEATURES)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("pickled.npz", pickled, "pickled.*never loaded"),
        ("torn.npz", lambda file: file.write_bytes(b"PK\x03\x04 torn"), "is not an .npz file that can be read"),
        ("claims.npz", claims_too_much, "is not an .npz file that can be read"),
        ("bits.npz", turned_bits, "is not an .npz file that can be read"),
        ("one-array.npz", one_array, "is not an .npz file that can be read"),
        ("text.safetensors", lambda file: file.write_text("hello"), "is not a .safetensors file"),
        ("text.parquet", lambda file: file.write_text("hello"), "is not a Parquet file"),
        ("other.csv", lambda file: file.write_text("1,2"), "read from .npz, .safetensors or .parquet"),
        ("absent.npz", lambda file: None, "there is no such file"),
        ("bare.npz", lambda file: np.savez(file, x=FEATURES), "has no array 'features'. It holds: x"),
        (
            "ragged.parquet",
            lambda file: pq.write_table(pa.table({"features": [[1.0], [1.0, 2.0]], "hat": [0, 1]}), file),
            "not all of one length",
        ),
        (
            "gaps.parquet",
            lambda file: pq.write_table(pa.table({"features": [[1.0, None], [1.0, 2.0]], "hat": [0, 1]}), file),
            "has missing numbers",
        ),
    ],
)
def test_files_that_cannot_be_used(name: str, write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)
