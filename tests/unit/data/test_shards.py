"""A data set in parts: disjoint, whole together, and nobody in two of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from smartedge.data import DataSet, open_dataset, shard
from smartedge.errors import DataError
from smartedge.types import SplitName

LIMIT: dict[SplitName, int] = {"train": 50, "val": 20, "test": 21}


def ids(dataset: DataSet, split: str) -> list[int]:
    part = dataset.audit if split == "audit" else dataset.splits[split]  # type: ignore[index]
    assert part is not None
    return part.ids.tolist()


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_the_parts_are_disjoint_equally_large_and_together_the_whole(drawn_faces: Path, parts: int) -> None:
    whole = open_dataset("drawn", "smile", image_size=16, limit=LIMIT, cache_dir=drawn_faces, audit_share=0.3)
    pieces = [shard(whole, part, parts) for part in range(1, parts + 1)]
    for split in ("train", "val", "test", "audit"):
        together = [ids(piece, split) for piece in pieces]
        assert sorted(chain(*together)) == ids(whole, split)
        sizes = [len(each) for each in together]
        assert max(sizes) - min(sizes) <= 1
    first = pieces[0].splits["test"]
    where = np.isin(whole.splits["test"].ids, first.ids)
    assert first.labels.tolist() == whole.splits["test"].labels[where].tolist()


def test_the_parts_follow_from_the_seed(drawn_faces: Path) -> None:
    whole = open_dataset("drawn", "smile", image_size=16, limit=LIMIT, cache_dir=drawn_faces)
    assert ids(shard(whole, 2, 3), "train") == ids(shard(whole, 2, 3), "train")
    assert ids(shard(whole, 2, 3), "train") != ids(shard(whole, 2, 3, seed=1), "train")
    in_a_row = ids(whole, "train")[17:34]
    assert ids(shard(whole, 2, 3), "train") != in_a_row, "they are drawn"


def test_nobody_is_in_two_parts(tmp_path: Path, cache: Path, write_parquet: Callable[..., Path]) -> None:
    rng = np.random.default_rng(5)
    persons = [f"p{number}" if number else None for number in rng.integers(60, size=400).tolist()]
    file = write_parquet(tmp_path / "faces.parquet", {"kind": rng.integers(2, size=400).tolist(), "identity": persons})
    whole = open_dataset(str(file), "kind", image_size=16, cache_dir=cache)
    most = max(persons.count(name) for name in set(persons) if name)
    pieces = [shard(whole, part, 4) for part in range(1, 5)]
    for split in ("train", "test"):
        together = [ids(piece, split) for piece in pieces]
        assert sorted(chain(*together)) == ids(whole, split)
        shown = [{persons[id_] for id_ in part} - {None} for part in together]
        assert sum(map(len, shown)) == len(set.union(*shown))
        sizes = [len(part) for part in together]
        assert max(sizes) - min(sizes) <= 2 * most
    assert any(None in {persons[id_] for id_ in ids(piece, "train")} for piece in pieces)


def test_a_part_without_images_is_refused(drawn_faces: Path) -> None:
    few: dict[SplitName, int] = {"train": 50, "val": 2, "test": 9}
    whole = open_dataset("drawn", "smile", image_size=16, limit=few, cache_dir=drawn_faces)
    empty = [part for part in range(1, 4) if not has_part(whole, part)]
    assert len(empty) == 1
    with pytest.raises(DataError, match=f"part {empty[0]} of 3 has nothing of the val split; use fewer parts"):
        shard(whole, empty[0], 3)


def has_part(whole: DataSet, part: int) -> bool:
    try:
        return bool(shard(whole, part, 3))
    except DataError:
        return False
