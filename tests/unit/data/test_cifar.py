"""CIFAR-10 and CIFAR-100 as their author distributes them."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from smartedge.data import open_dataset
from smartedge.data.layouts import cifar
from smartedge.errors import DataError

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def content(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (20, 3072) and labels (20,) of one batch."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(20, 3072), dtype=np.uint8), rng.permutation(20) % 10


def binary(seed: int) -> bytes:
    pixels, labels = content(seed)
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1).tobytes()


def python(seed: int) -> bytes:
    """What Python 2's cPickle wrote: a dict of strings to strings, lists, and an array."""
    pixels, labels = content(seed)
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(",
            *(b"K" + bytes([label]) for label in labels[:15]),
            b"e(",
            *(b"K" + bytes([label]) for label in labels[15:]),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01K\x14M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xff",
            b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes(),
            b"tbU\x09filenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu.",
        ]
    )


def write(folder: Path, layout: str) -> Path:
    place = folder / f"cifar-10-batches-{layout}"
    place.mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        file = place / (name + ".bin" if layout == "bin" else name)
        file.write_bytes(binary(seed) if layout == "bin" else python(seed))
    return place


@pytest.mark.parametrize("layout", ["bin", "py"])
@pytest.mark.parametrize("inside", [False, True])
def test_both_versions(layout: str, inside: bool, tmp_path: Path, cache: Path) -> None:
    place = write(tmp_path / "d", layout)
    data = open_dataset(str(place if inside else tmp_path / "d"), "label", image_size=32, cache_dir=cache)
    assert data.name == "cifar10"
    assert data.task.names == cifar.CLASSES
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [90, 10, 20]
    pixels, labels = content(5)
    test = data.splits["test"]
    assert test.labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(test.read(np.array([7])).images_BCHW[0].numpy(), pixels[7].reshape(3, 32, 32))


def test_a_pickle_is_not_carried_out(tmp_path: Path, cache: Path) -> None:
    place = write(tmp_path / "d", "py")
    trace = tmp_path / "trace"
    (place / "data_batch_2").write_bytes(f"cos\nsystem\n(S'touch {trace}'\ntR.".encode())
    with pytest.raises(DataError, match="data_batch_2 cannot be read as a batch of CIFAR-10: 0 labels"):
        open_dataset(str(tmp_path / "d"), "label", image_size=8, cache_dir=cache)
    assert not trace.exists()


@pytest.mark.parametrize("layout", ["bin", "py"])
def test_damaged_or_missing_batches(layout: str, tmp_path: Path, cache: Path) -> None:
    place = write(tmp_path / "d", layout)
    file = sorted(place.iterdir())[-1]
    file.write_bytes(file.read_bytes()[:-10_000])
    with pytest.raises(DataError, match=r"test_batch.* cannot be read as a batch of CIFAR-10"):
        open_dataset(str(place), "label", image_size=8, cache_dir=cache)
    file.unlink()
    with pytest.raises(DataError, match=r"test_batch.* cannot be read as a batch of CIFAR-10"):
        open_dataset(str(place), "label", image_size=8, cache_dir=cache)


def test_it_is_fetched_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write(tmp_path / "d", "bin")
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place, "cifar-10-batches-bin")
        tar.add(archive.parent / "d", "../evil", recursive=False)
    monkeypatch.setattr(cifar, "URL", archive.as_uri())
    with pytest.raises(DataError, match="another file than expected"):
        open_dataset("cifar10", "label", image_size=8, cache_dir=cache)
    monkeypatch.setattr(cifar, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    first = open_dataset("cifar10", "label", image_size=8, cache_dir=cache)
    assert sorted(path.name for path in (cache / "cifar10").iterdir()) == ["cifar-10-batches-bin"]
    archive.unlink()
    again = open_dataset("cifar10", "label", image_size=8, cache_dir=cache)
    assert again.splits["train"].labels.tolist() == first.splits["train"].labels.tolist()


def test_it_cannot_be_fetched(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "URL", (tmp_path / "absent.tar.gz").as_uri())
    with pytest.raises(DataError, match=r"could not be fetched .* fetch .* yourself, unpack it"):
        open_dataset("cifar10", "label", image_size=8, cache_dir=cache)


def hundred(seed: int) -> dict[str, object]:
    """One file of CIFAR-100, as it is pickled."""
    pixels, labels = content(seed)
    names = [f"{number}.png" for number in range(20)]
    fine = [int(label) * 7 for label in labels]
    return {"filenames": names, "fine_labels": fine, "coarse_labels": [label % 3 for label in fine], "data": pixels}


def pickled(value: object) -> bytes:
    """What Python 2 writes for a mapping of texts to bytes, lists of texts and lists of small numbers."""

    def text(word: str) -> bytes:
        return b"U" + bytes([len(word)]) + word.encode()

    def of(value: object) -> bytes:
        if isinstance(value, bytes):
            return b"T" + struct.pack("<i", len(value)) + value
        if isinstance(value, list):
            return b"](" + b"".join(text(v) if isinstance(v, str) else b"K" + bytes([v]) for v in value) + b"e"
        raise TypeError(value)

    assert isinstance(value, dict)
    return b"\x80\x02}(" + b"".join(text(key) + of(each) for key, each in value.items()) + b"u."


def write_hundred(place: Path, layout: str) -> None:
    place.mkdir(parents=True)
    fine, coarse = [f"fine_{number}" for number in range(100)], [f"coarse_{number}" for number in range(20)]
    for seed, name in enumerate(("train", "test")):
        found = hundred(seed)
        if layout == "python":
            (place / name).write_bytes(pickled({**found, "data": found["data"].tobytes()}))  # type: ignore[attr-defined]
        else:
            both = np.array([found["coarse_labels"], found["fine_labels"]], np.uint8).T
            (place / f"{name}.bin").write_bytes(np.concatenate([both, found["data"]], axis=1).tobytes())  # type: ignore[list-item]
    if layout == "python":
        (place / "meta").write_bytes(pickled({"fine_label_names": fine, "coarse_label_names": coarse}))
    else:
        (place / "fine_label_names.txt").write_text("\n".join(fine))
        (place / "coarse_label_names.txt").write_text("\n".join(coarse))


@pytest.mark.parametrize("layout", ["binary", "python"])
@pytest.mark.parametrize("inside", [False, True])
def test_both_versions_of_cifar100(layout: str, inside: bool, tmp_path: Path, cache: Path) -> None:
    place = tmp_path / "d" / f"cifar-100-{layout}"
    write_hundred(place, layout)
    data = open_dataset(
        str(place if inside else tmp_path / "d"), "label", sensitive=["coarse_label"], image_size=32, cache_dir=cache
    )
    assert data.name == "cifar100"
    assert data.task.names[7] == "fine_7"
    assert data.sensitive["coarse_label"].names[2] == "coarse_2"
    found, test = hundred(1), data.splits["test"]
    assert test.labels.tolist() == found["fine_labels"]
    assert test.sensitive_labels["coarse_label"].tolist() == found["coarse_labels"]
    images = test.read(np.array([7])).images_BCHW[0].numpy()
    np.testing.assert_array_equal(images, content(1)[0][7].reshape(3, 32, 32))


def test_names_of_cifar100_that_cannot_be_read(tmp_path: Path, cache: Path) -> None:
    write_hundred(tmp_path / "cifar-100-python", "python")
    (tmp_path / "cifar-100-python" / "meta").write_bytes(pickled({"fine_label_names": ["a"]}))
    with pytest.raises(DataError, match=r"meta has no coarse_label_names"):
        open_dataset(str(tmp_path), "label", image_size=32, cache_dir=cache)


def test_a_download_that_was_killed_while_it_was_unpacked_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
        for name in NAMES:
            (tmp_path / name).write_bytes(binary(0))
            tar.add(tmp_path / name, f"{cifar.BINARY}/{name}.bin")
    archive = (tmp_path / "cifar.tar.gz").read_bytes()
    monkeypatch.setattr(cifar.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(archive))
    monkeypatch.setattr(cifar, "MD5", hashlib.md5(archive, usedforsecurity=False).hexdigest())
    kept, write_bytes = tmp_path / "kept", Path.write_bytes

    def killed(path: Path, data: bytes) -> int:
        if path.name == "data_batch_3.bin":
            raise KeyboardInterrupt
        return write_bytes(path, data)

    with monkeypatch.context() as midway:
        midway.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            cifar.download_cifar10(kept)
    assert cifar.find_cifar(kept) is None
    found = cifar.download_cifar10(kept)
    assert cifar.find_cifar(kept) == found and len(list(found.folder.iterdir())) == len(NAMES)
