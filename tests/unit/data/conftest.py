"""Small data sets for the tests of this folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def encoded(shade: int, size: tuple[int, int] = (20, 16), kind: str = "PNG") -> bytes:
    """A plain picture, as the bytes of a file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 7)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """``picture(shade, size=(w, h), kind="PNG")`` gives an encoded picture of one colour (shade, 255 - shade, 7)."""
    return encoded


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty folder for decoded images."""
    return tmp_path / "cache"


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """``write_parquet(path, columns, features=None, images=None)`` in the Hugging Face layout."""

    def write(
        path: Path,
        columns: dict[str, Any],
        features: dict[str, Any] | None = None,
        images: list[Any] | None = None,
        column: str = "image",
    ) -> Path:
        count = len(next(iter(columns.values())))
        if images is None:
            images = [{"bytes": encoded(10 * i % 256), "path": f"{i}.png"} for i in range(count)]
        table = pa.table({column: images, **columns})
        if features is not None:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=16)
        return path

    return write


@pytest.fixture
def coins() -> Callable[..., list[bool]]:
    """``coins(n, seed)`` gives n fair coins of which at least one shows each side."""

    def throw(count: int, seed: int = 0) -> list[bool]:
        return [True, False, *(np.random.default_rng(seed).random(count - 2) < 0.5).tolist()]

    return throw
