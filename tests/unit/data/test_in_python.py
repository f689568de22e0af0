"""Data sets that are given in Python."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ChainDataset, ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from smartedge.data import DataSet, open_dataset
from smartedge.data.layouts.in_python import keep_given
from smartedge.errors import DataError

COUNT = 100  # more than are in memory at once
PIXELS = np.random.default_rng(0).integers(256, size=(COUNT, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(COUNT) % 3


class Pairs(Dataset):  # type: ignore[type-arg]
    """As torchvision's: pictures of Pillow, and the names of classes."""

    classes = ("ant", "bee", "cat")

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        if place >= COUNT:
            raise IndexError(place)
        return Image.fromarray(PIXELS[place]), int(LABELS[place])


class Raises:
    """Without a length, and with a bug."""

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        return PIXELS[place], 1 // (3 - place)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[dict[str, object]]:
        for pixels, label in zip(PIXELS, LABELS, strict=True):
            yield {"image": torch.from_numpy(pixels).permute(2, 0, 1), "label": label}


class Feature:
    """As `datasets.Image` and `ClassLabel`."""

    names = ("ant", "bee", "cat")


class Hugging:
    """As a `Dataset` of Hugging Face."""

    def __init__(self, decoded: bool = True) -> None:
        self.decoded = decoded
        self.features = {"image": type("Image", (), {"__init__": lambda self, decode=True: None})(), "label": Feature()}

    def cast_column(self, name: str, feature: object) -> Hugging:
        assert name == "image" and type(feature).__name__ == "Image"
        return Hugging(decoded=False)

    def __iter__(self) -> Iterator[dict[str, object]]:
        assert not self.decoded
        for pixels, label in zip(PIXELS, LABELS, strict=True):
            Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
            yield {"image": {"bytes": buffer.getvalue(), "path": None}, "label": int(label)}


FORMS = {
    "map-style": Pairs,
    "iterable": Stream,
    "hugging face": Hugging,
    "arrays": lambda: (PIXELS, LABELS),
    "channels first": lambda: (PIXELS.transpose(0, 3, 1, 2), LABELS),
    "16 bits": lambda: (PIXELS.astype(np.uint16) * 256 + 255, LABELS),
    "fractions": lambda: TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255, torch.from_numpy(LABELS)),
}


@pytest.fixture
def kept(tmp_path: Path, cache: Path) -> Callable[..., DataSet]:
    """``kept(data, columns=("label",))`` keeps a data set and opens it by the first column, or by all."""

    def keep(data: object, *columns: str) -> DataSet:
        keep_given(data, tmp_path / "data", columns or ("label",))
        desired = columns if len(columns) > 1 else (columns or ("label",))[0]
        return open_dataset(str(tmp_path / "data"), desired, image_size=8, cache_dir=cache)

    return keep


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_pixels_and_labels_stay_the_same(form: Callable[[], object], kept: Callable[..., DataSet]) -> None:
    data = kept({"train": form(), "test": form()})
    test = data.splits["test"].read(np.arange(COUNT))
    np.testing.assert_array_equal(test.images_BCHW.numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert test.labels.tolist() == LABELS.tolist()
    assert data.task.names == (("ant", "bee", "cat") if form in (Pairs, Hugging) else ("0", "1", "2"))


def test_splits_may_be_called_as_elsewhere(kept: Callable[..., DataSet]) -> None:
    data = kept({"train": (PIXELS, LABELS), "validation": (PIXELS[:6], LABELS[:6]), "test": (PIXELS[:4], LABELS[:4])})
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [len(PIXELS), 6, 4]


def test_the_files_are_private(kept: Callable[..., DataSet], tmp_path: Path) -> None:
    kept((PIXELS, LABELS))
    assert (tmp_path / "data" / "train.parquet").stat().st_mode & 0o077 == 0
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_several_labels_and_grey_images(kept: Callable[..., DataSet]) -> None:
    labels = np.stack([LABELS > 0, LABELS > 1], axis=1).astype(float)
    labels[3, 0] = np.nan
    data = kept((PIXELS[..., 0], labels), "x", "y")
    train = data.splits["train"]
    np.testing.assert_array_equal(train.labels.numpy(), labels[train.ids])
    assert (train.read(np.array([0])).images_BCHW[0] == torch.from_numpy(PIXELS[train.ids[0], ..., 0])).all()


@pytest.mark.parametrize(
    "image",
    [
        Image.new("I", (8, 8), 128 * 256),  # what Pillow itself would make of these is white, and black
        Image.new("F", (8, 8), 0.5),
        torch.full((3, 8, 8), 0.5, requires_grad=True),
        torch.full((3, 8, 8), 0.5, dtype=torch.bfloat16),
        Path("grey.png"),
        "grey.png",
        io.BytesIO,
    ],
    ids=["32 bits", "floating point", "gradient", "bfloat16", "path", "name", "open file"],
)
def test_forms_of_an_image(
    image: object, kept: Callable[..., DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 128).save("grey.png")
    data = Path("grey.png").read_bytes()
    images = [image(data) if image is io.BytesIO else image for _ in range(20)]
    train = kept([(each, place % 2) for place, each in enumerate(images)]).splits["train"]
    assert (train.read(np.arange(4)).images_BCHW == 128).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": [], "test": []}, r"data\['train'\] holds no images"),
        ({"test": (PIXELS, LABELS)}, "the split 'train' is missing"),
        ({"train": (PIXELS, LABELS), "holdout": (PIXELS, LABELS)}, "there is no split holdout"),
        ((PIXELS, LABELS[:3]), "has 100 images and 3 labels"),
        ((PIXELS / 127.5 - 1, LABELS), r"record 0: floating-point pixels reach from -1 to 0.95.*normalises"),
        ((PIXELS.astype(np.int32), LABELS), "pixels are int32"),
        ((PIXELS[..., :2], LABELS), r"an image has shape \(8, 8, 2\)"),
        ((PIXELS, np.stack([LABELS] * 2, axis=1)), "has 2 label"),
        ([(PIXELS[0], 1)] * 70 + [(PIXELS[0], "one")], "a label of records 64 to 70 is unlike the first ones"),
        ([(PIXELS[0], 1), (PIXELS[0], "one")], "the values of 'label' cannot be one column"),
        ([{"picture": PIXELS[0], "label": 1}], "record 0 has no 'image'; its keys are picture, label"),
        ([PIXELS[0]], "record 0 is a ndarray; expected a pair"),
        (DataLoader(Pairs()), "is a DataLoader"),
        ({"train": {"image": list(PIXELS), "label": LABELS}}, "is a table of columns; give its rows"),
        ([("nowhere.png", 1)], r"record 0: the image file 'nowhere\.png' cannot be read"),
        ([({"bytes": None, "path": "/nowhere.png"}, 1)], r"the image file '/nowhere\.png' cannot be read"),
        ([(Image.new("I", (8, 8), 70_000), 1)], "pixels are int32"),
        (7, "is a int; give a Dataset"),
        (Raises(), "record 3: its own code raised ZeroDivisionError: "),
        ({"train": [], "val": [], "validation": []}, "train, val, validation name one split twice"),
    ],
)
def test_what_is_no_data_set(data: object, message: str, kept: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match=message):
        kept(data)


class Renamed(Pairs):
    """Other names for the same numbers."""

    classes = ("bee", "ant", "cat")


class Transformed(Pairs):
    """Its labels are not the numbers of its classes."""

    target_transform = staticmethod(str)

    def __getitem__(self, place: int) -> tuple[Image.Image, str]:
        image, label = super().__getitem__(place)
        return image, "xyz"[label]


class Counted(Stream):
    """A stream that knows how long it is, as many do."""

    def __len__(self) -> int:
        return COUNT


def test_names_of_classes_in_parts_and_joined(kept: Callable[..., DataSet]) -> None:
    joined = ConcatDataset([Pairs(), Subset(Pairs(), range(10))])
    assert kept({"train": joined, "test": Subset(Pairs(), range(6))}).task.names == ("ant", "bee", "cat")


def test_joined_data_sets_with_other_classes(kept: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match="one number means two classes: ant, bee, cat in one and bee, ant, cat in"):
        kept({"train": ConcatDataset([Subset(Pairs(), range(40)), Renamed()])})


def test_a_part_and_a_whole_with_other_classes(kept: Callable[..., DataSet]) -> None:
    with pytest.raises(DataError, match="one number means two classes of column 'label'"):
        kept({"train": Subset(Pairs(), range(60)), "test": Renamed()})


def test_labels_that_a_transform_made_have_no_names_of_classes(kept: Callable[..., DataSet]) -> None:
    assert kept({"train": Transformed()}).task.names == ("x", "y", "z")


@pytest.mark.parametrize("stream", [Counted, lambda: ChainDataset([Stream(), Counted()])])
def test_streams_with_a_length(stream: Callable[[], object], kept: Callable[..., DataSet]) -> None:
    data = kept({"train": stream()})
    assert sum(map(len, data.splits.values())) in (COUNT, 2 * COUNT)


@pytest.mark.parametrize(
    ("first", "later"), [(1, 0.5), (True, 5), (0, True), (1, "1.5"), ("a", [1])], ids=lambda value: repr(value)
)
def test_labels_of_another_type_later(first: object, later: object, kept: Callable[..., DataSet]) -> None:
    records = [(PIXELS[n], first if n < 64 else later) for n in range(COUNT)]
    with pytest.raises(DataError, match="a label of records 64 to 99 is unlike the first ones"):
        kept({"train": records})


def test_whole_numbers_may_later_have_a_point(kept: Callable[..., DataSet]) -> None:
    records = [(PIXELS[n], int(LABELS[n]) if n < 64 else float(LABELS[n])) for n in range(COUNT)]
    assert kept({"train": records}).task.names == ("0", "1", "2")


class Ends(Pairs):
    """Its own code ends in the middle: by a ``next`` without a default, or by leaving the process."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        if place == 7:
            raise self.error
        return super().__getitem__(place)


class Shorter(Stream):
    def __len__(self) -> int:
        return COUNT + 5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Ends(StopIteration()), "record 7: its own code raised RuntimeError: generator raised StopIteration"),
        (Ends(SystemExit(3)), "record 7: its own code raised SystemExit"),
        (Shorter(), "says that it has 105 records, and gave 100"),
        ([(torch.rand(3, 8, 8).to_sparse(), 0)], "record 0: an image of type Tensor is no array of pixels"),
        ([(torch.empty(3, 8, 8, device="meta"), 0)], "record 0: an image of type Tensor is no array of pixels"),
        ([(Image.new("LA", (8, 8)).convert("La"), 0)], "record 0: a picture of mode La cannot become RGB"),
    ],
)
def test_data_sets_that_end_early_or_hold_no_pixels_are_refused(given: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        keep_given(given, tmp_path / "kept", ["kind"])


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_either_byte_order(order: str, tmp_path: Path) -> None:
    """Pillow's own conversion makes white of all that is above 255."""
    pixels = np.full((8, 8), 30_000, f"{order}u2")
    picture = Image.new("I;16B" if order == ">" else "I;16", (8, 8), 30_000)
    keep_given([(pixels, 0), (picture, 1)] * 20, tmp_path / "kept", ["kind"])
    split = open_dataset(str(tmp_path / "kept"), "kind", image_size=8, cache_dir=tmp_path / "cache").splits["train"]
    assert split.read(np.arange(len(split))).images_BCHW.unique().tolist() == [30_000 // 256]
