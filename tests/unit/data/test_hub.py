"""Data sets of the hub, with a double for the library that fetches them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from smartedge.data import open_dataset
from smartedge.errors import DataError


class Part:
    """Stands for `datasets.Dataset`, of which one method is used."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def to_parquet(self, path: str) -> None:
        shutil.copy(self.file, path)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_it_is_fetched_once(
    library: ModuleType, tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]
) -> None:
    file = write_parquet(tmp_path / "source.parquet", {"x": [i % 2 for i in range(20)]})
    asked = []

    def load_dataset(name: str) -> dict[str, Part]:
        asked.append(name)
        return {"train": Part(file), "validation": Part(file), "unsupervised": Part(file)}

    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    for _ in range(2):
        data = open_dataset("hf:someone/things", "x", image_size=8, cache_dir=cache)
        assert data.name == "things"
        assert [len(data.splits[split]) for split in ("train", "val", "test")] == [18, 20, 2]
    assert asked == ["someone/things"]
    assert [path.name for path in (cache / "hub").iterdir()] == ["someone--things"]


def test_it_cannot_be_fetched(library: ModuleType, cache: Path) -> None:
    def load_dataset(name: str) -> None:
        raise ConnectionError("no route to the hub")

    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="hf:someone/things could not be fetched: no route to the hub"):
        open_dataset("hf:someone/things", "x", image_size=8, cache_dir=cache)
    assert list((cache / "hub").iterdir()) == []


def test_no_training_split(library: ModuleType, cache: Path) -> None:
    library.load_dataset = lambda name: {"extra": None}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"has no training split\. Its splits are: extra"):
        open_dataset("hf:someone/things", "x", image_size=8, cache_dir=cache)


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the library 'datasets'"):
        open_dataset("hf:someone/things", "x", image_size=8, cache_dir=cache)
