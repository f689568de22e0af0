"""Data sets of the Hugging Face hub, fetched by the library `datasets` and kept as parquet files."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from smartedge.data.layouts.columnar import find_tables, open_tables
from smartedge.data.raw import RawData, split_of
from smartedge.errors import DataError

__all__ = ["open_hub"]


def open_hub(name: str, cache_dir: Path) -> RawData:
    """Open ``user/name``; the first time, fetch it and write its splits to ``cache_dir/hub/user--name``.

    Raises:
        DataError: the library is not installed, or the data set cannot be fetched or has no split that is known.
    """
    folder = cache_dir / "hub" / re.sub(r"[^\w.-]+", "--", name)
    if not folder.is_dir():
        _fetch(name, folder)
    return open_tables(name.split("/")[-1], folder, *find_tables(folder))


def _fetch(name: str, folder: Path) -> None:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"hf:{name} needs the library 'datasets' (pip install datasets); or download the data set's parquet files "
            "and give their folder as data.path"
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        loaded = datasets.load_dataset(name)
        splits = {split: part for key, part in loaded.items() if (split := split_of(key))}
        if "train" not in splits:
            raise DataError(f"hf:{name} has no training split. Its splits are: {', '.join(loaded)}")
        for split, part in splits.items():
            part.to_parquet(str(temporary / f"{split}.parquet"))
        os.replace(temporary, folder)
    except DataError:
        raise
    except Exception as error:  # network, credentials, scripts, formats: the library raises anything
        raise DataError(
            f"hf:{name} could not be fetched: {error}; check the name and the connection, or download the data set's "
            "parquet files and give their folder as data.path"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
