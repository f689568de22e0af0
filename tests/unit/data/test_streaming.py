"""Images that are decoded each time they are read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from smartedge.data import DataSet, batches, open_dataset
from smartedge.data.layouts import stored
from smartedge.data.raw import Images
from smartedge.data.reading import readers as module
from smartedge.data.reading import streaming
from smartedge.data.reading.readers import Block, InBlocks
from smartedge.errors import DataError
from smartedge.images.decode import Item
from smartedge.images.size import ImageSize

COUNT = 120
BROKEN = 57  # this image cannot be decoded


def files() -> list[bytes]:
    """Pictures of noise, one of them cut short."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(COUNT):
        picture = Image.fromarray(rng.integers(256, size=(10, 14, 3), dtype=np.uint8))
        picture.save(buffer := io.BytesIO(), "PNG")
        found.append(buffer.getvalue()[: 60 if number == BROKEN else None])
    return found


def as_folder(path: Path) -> None:
    for number, data in enumerate(files()):
        place = path / "train" / "ab"[number % 2] / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def as_parquet(path: Path) -> None:
    path.mkdir()
    for part in range(2):  # with several row groups each
        rows = slice(part * COUNT // 2, (part + 1) * COUNT // 2)
        table = pa.table({"image": files()[rows], "label": (np.arange(COUNT) % 2)[rows]})
        pq.write_table(table, path / f"train-{part}.parquet", row_group_size=7)


def as_arrow(path: Path) -> None:
    path.mkdir()
    table = pa.table({"image": files(), "label": np.arange(COUNT) % 2})
    with pa.ipc.new_file(str(path / "train.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=11)


def as_stream(path: Path) -> None:
    """As `datasets` saves it, and with classes whose names change on the way."""
    path.mkdir()
    kind = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("image", pa.binary()), ("label", kind)])
    with pa.ipc.new_stream(str(path / "train.arrow"), schema) as writer:
        for first in range(0, COUNT, 12):
            names = pa.array(["a", "b"] if first < COUNT // 2 else ["b", "a"])
            codes = pa.array(np.arange(12) % 2, pa.int8())
            labels = pa.DictionaryArray.from_arrays(codes, names)
            writer.write_batch(pa.record_batch([pa.array(files()[first : first + 12]), labels], schema))


def as_tar(path: Path) -> None:
    path.mkdir()
    with tarfile.open(path / "train.tar", "w") as tar:
        for number, data in enumerate(files()):
            for ending, content in (("png", data), ("cls", str(number % 2).encode())):
                entry = tarfile.TarInfo(f"{number:03d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


LAYOUTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "folder": (as_folder, "label"),
    "parquet": (as_parquet, "label"),
    "arrow": (as_arrow, "label"),
    "stream": (as_stream, "label"),
    "tar": (as_tar, "cls"),
}


def opened(path: Path, cache: Path, cache_bytes: int | None, desired: str = "label", **more: object) -> DataSet:
    return open_dataset(str(path), desired, image_size=8, cache_dir=cache, cache_bytes=cache_bytes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_labels_are_those_of_a_cache(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, desired = LAYOUTS[layout]
    write(tmp_path / "set")
    kept = opened(tmp_path / "set", tmp_path / "kept", None, desired)
    streamed = opened(tmp_path / "set", tmp_path / "streamed", 0, desired)
    assert not list((tmp_path / "streamed").glob("*.npy"))
    assert streamed.skipped == kept.skipped != {}
    monkeypatch.setattr(streaming, "_look", None)
    again = opened(tmp_path / "set", tmp_path / "streamed", 0, desired)  # no part is looked at again
    monkeypatch.undo()
    for split, expected in kept.splits.items():
        for found in (streamed.splits[split], again.splits[split]):
            assert found.ids.tolist() == expected.ids.tolist()
            places = np.random.default_rng(1).permutation(len(expected))
            for part in np.array_split(places, 5):
                one, other = found.read(part), expected.read(part)
                assert torch.equal(one.images_BCHW, other.images_BCHW) and torch.equal(one.labels, other.labels)


def test_a_part_of_a_stream_is_read_without_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has no list of its parts, and reading each from the begin takes time with the square of their number."""
    as_stream(tmp_path / "set")
    file = tmp_path / "set" / "train.arrow"
    groups = stored.open_table(file).groups()
    assert [group.rows for group in groups] == [12] * 10
    streams, original = [], pa.ipc.open_stream

    def open_counted(source: object) -> pa.RecordBatchStreamReader:
        streams.append(original(source))
        return streams[-1]

    monkeypatch.setattr(pa.ipc, "open_stream", open_counted)
    for number in (9, 2, 0, 5, 6):
        images = [v for part in groups[number].values("image", 5) for v in part.to_pylist()]
        assert images == files()[number * 12 : number * 12 + 12]
        labels = [v for part in groups[number].values("label", 5) for v in part.to_pylist()]
        assert labels == (["a", "b"] if number < 5 else ["b", "a"]) * 6
    # The first part and the sixth hold dictionaries; beside them each call reads the part that was asked for.
    assert [each.stats.num_record_batches for each in streams] == [3, 3, 2, 2, 1, 1, 2, 2, 3, 3]
    with file.open("rb+") as short:  # a copy that ended between two parts
        short.truncate(groups[9].values.args[1][-1])
    with pytest.raises(pa.ArrowInvalid, match="has become shorter"):
        groups[9].values("image", 5)


def test_a_subset_is_looked_at_alone(tmp_path: Path) -> None:
    as_parquet(tmp_path / "set")
    limit = {"train": 10, "val": 4, "test": 4}
    kept = opened(tmp_path / "set", tmp_path / "kept", None, limit=limit)
    streamed = opened(tmp_path / "set", tmp_path / "streamed", 0, limit=limit)
    assert streamed.splits["train"].ids.tolist() == kept.splits["train"].ids.tolist()
    found, expected = (each.splits["train"].read(np.arange(10)) for each in (streamed, kept))
    assert torch.equal(found.images_BCHW, expected.images_BCHW)


def test_an_epoch_has_every_image_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    as_parquet(tmp_path / "set")
    split = opened(tmp_path / "set", tmp_path / "cache", 0).splits["train"]

    def order(seed: int, epoch: int) -> list[int]:
        with batches(split, 8, seed=seed, epoch=epoch, shuffle=True) as found:
            return [image for batch in found for image in batch.ids.tolist()]

    first = order(0, 0)
    assert sorted(first) == split.ids.tolist() != first
    assert order(0, 0) == first
    assert order(0, 1) != first != order(1, 0)


def test_images_that_changed_after_opening_are_named(tmp_path: Path) -> None:
    as_folder(tmp_path / "set")
    split = opened(tmp_path / "set", tmp_path / "cache", 0).splits["train"]
    file = sorted((tmp_path / "set" / "train" / "a").iterdir())[0]
    place = 0 if split.ids[0] == 0 else None
    assert place == 0
    file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000\.png: image cannot be decoded; it could be read before"):
        split.read(np.array([0]))


def test_layouts_that_are_read_from_the_front_only_are_refused(tmp_path: Path) -> None:
    arrays = {"train_images": np.zeros((40, 8, 8), np.uint8), "train_labels": np.arange(40) % 2}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=r"data.cache_bytes: 0 .*cannot be read one by one; leave it out"):
        opened(tmp_path / "set.npz", tmp_path / "cache", 0)


def test_few_images_are_in_memory_while_a_set_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be large: 256 photographs of 20 MB would be 5 GB."""
    read, most = 0, 0

    def items() -> Iterator[Item]:
        nonlocal read
        for _ in range(300):
            read += 1
            yield b"no picture"

    def count(_: Item, *__: object) -> str:
        nonlocal most
        most = max(most, read - looked[0])
        return "broken"

    looked = [0]
    monkeypatch.setattr(streaming, "decode", count)
    monkeypatch.setattr(streaming.DecodingProgress, "update", lambda _, done: looked.__setitem__(0, done))
    images = Images(300, key="k", items=items)
    assert len(streaming._look(images, "d", ImageSize(8, 8), "crop", None)) == 300
    assert most <= 32


class Counting:
    """Blocks that count how often they are begun, and how many images are taken from them."""

    def __init__(self, counts: list[int], each: int) -> None:
        self.begun = [0] * len(counts)
        self.taken = 0
        starts = np.cumsum([0, *counts])
        self.blocks = [
            Block(
                count, lambda number=number, first=first, count=count: self._items(number, first, count), each * count
            )
            for number, (count, first) in enumerate(zip(counts, starts.tolist(), strict=False))
        ]

    def _items(self, number: int, first: int, count: int) -> Iterator[Item]:
        self.begun[number] += 1
        for index in range(first, first + count):
            self.taken += 1
            yield str(index).encode()


@pytest.mark.parametrize(("counts", "each"), [([50] * 40, 2**16), ([2000], 2**17), ([3, 700, 1, 40], 2**20)])
def test_a_pass_reads_every_block_once_and_holds_little(counts: list[int], each: int) -> None:
    """Small blocks, one that is much larger than a window, and both."""
    source = Counting(counts, each)
    reader, total = InBlocks(source.blocks), sum(counts)
    ids = np.flatnonzero(np.random.default_rng(0).random(total) < 0.9)
    order = reader.shuffled(ids, np.random.default_rng(1))
    assert sorted(order.tolist()) == list(range(len(ids)))
    most = 0
    for part in np.array_split(ids[order], -(-len(ids) // 16)):
        assert reader.items(part) == [str(index).encode() for index in part.tolist()]
        most = max(most, sum(map(len, reader._held.values())) * each)
    assert source.begun == [1] * len(counts)
    assert source.taken <= total
    assert most <= module.HELD_BYTES
    gaps = np.abs(np.diff(ids[order]))
    assert np.median(gaps) > 5  # neighbours in the file are not neighbours in the order


def test_a_block_that_became_shorter_is_an_error() -> None:
    reader = InBlocks([Block(9, lambda: iter([b"", b""]), 9)])
    with pytest.raises(DataError, match=r"fewer images than when the data set was opened"):
        reader.items(np.array([0]))


def test_any_order_can_be_read(tmp_path: Path) -> None:
    source = Counting([30, 4, 500], 2**17)
    reader = InBlocks(source.blocks)
    wanted = np.random.default_rng(0).integers(534, size=300)
    for part in np.array_split(wanted, 20):
        assert reader.items(part) == [str(index).encode() for index in part.tolist()]
