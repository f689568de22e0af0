"""Arrays that somebody else made: what is accepted, what is refused, and who is in which split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from smartedge.errors import DataError
from smartedge.lab.audit.features.table import table_of

COUNT = 300
RNG = np.random.default_rng(0)
GOOD: dict[str, Any] = {
    "features": RNG.standard_normal((COUNT, 4)),
    "labels": np.arange(COUNT) % 3,
    "sensitive": {"glasses": np.arange(COUNT) % 2 == 0},
}


def made(**changes: Any) -> Any:
    given = {**GOOD, **changes}
    return table_of(given.pop("features"), **given)


def test_splits_are_made_by_the_shares_stated_and_by_the_seed() -> None:
    table = made()
    assert [len(table.splits[name]) for name in ("train", "val", "test")] == [150, 60, 90]
    assert sorted(np.concatenate(list(table.splits.values()))) == list(range(COUNT))
    assert table.made == "made by images"
    assert table.digest() == made().digest() != made(seed=1).digest()


@pytest.mark.parametrize("kind", [int, str])
def test_nobody_is_in_two_splits(kind: type) -> None:
    persons = np.array([kind(i // 5) for i in range(COUNT)])
    persons[:3] = "" if kind is str else persons[:3]
    table = made(persons=persons)
    assert table.made == "made by persons"
    places = np.empty(COUNT, dtype=int)
    for number, rows in enumerate(table.splits.values()):
        places[rows] = number
    for person in set(persons[5:].tolist()):
        assert len(set(places[persons == person].tolist())) == 1, person
    shares = [len(rows) / COUNT for rows in table.splits.values()]
    assert np.allclose(shares, [0.5, 0.2, 0.3], atol=0.03)
    if kind is str:  # images without a name are persons of their own
        assert len(set(table.persons_N[:3].tolist())) == 3


def test_given_splits_are_taken_by_name_or_number() -> None:
    names = np.repeat(["train", "test", "val"], 100)
    numbers = np.repeat([0, 2, 1], 100)
    one, other = made(splits=names), made(splits=numbers)
    assert one.made is None and one.digest() == other.digest()
    assert one.splits["test"].tolist() == list(range(100, 200))


@pytest.mark.parametrize(
    ("values", "classes", "codes"),
    [
        (np.tile([True, False], COUNT // 2), ("no", "yes"), [1, 0]),
        (np.tile([1, -1], COUNT // 2), ("no", "yes"), [1, 0]),
        (np.tile([0.0, 1.0, np.nan], COUNT // 3), ("no", "yes"), [0, 1, -1]),
        (np.tile([7, 5, -1], COUNT // 3), ("5", "7"), [1, 0, -1]),
        (np.tile(["b", "", "a"], COUNT // 3), ("a", "b"), [1, -1, 0]),
        (np.tile([[1], [0]], (COUNT // 2, 1)), ("no", "yes"), [1, 0]),
        (np.tile(np.array(["b", None, "a"], dtype=object), COUNT // 3), ("a", "b"), [1, -1, 0]),
        (np.tile([1.0, -1.0, np.nan], COUNT // 3), ("no", "yes"), [1, 0, -1]),
        (np.tile(np.array([3, None, 2], dtype=object), COUNT // 3), ("2", "3"), [1, -1, 0]),
        (np.tile(np.array(["b", np.nan, "a "]), COUNT // 3), ("a", "b"), [1, -1, 0]),
        (np.tile(np.array(["b", np.nan, "a"], dtype=object), COUNT // 3), ("a", "b"), [1, -1, 0]),
        (np.tile(np.float16([1, 0]), COUNT // 2), ("no", "yes"), [1, 0]),
    ],
)
def test_columns(values: np.ndarray, classes: tuple[str, ...], codes: list[int]) -> None:
    (column,) = made(sensitive={"glasses": values}).sensitive
    assert column.classes == classes and column.codes_N[: len(codes)].tolist() == codes


@pytest.mark.parametrize(
    "unknown",
    [np.full(COUNT // 2, -1), np.full(COUNT // 2, np.nan), np.full(COUNT // 2, ""), np.full(COUNT // 2, "nan")],
)
def test_an_image_without_a_name_is_a_person_of_its_own(unknown: np.ndarray) -> None:
    known = np.arange(COUNT // 2) // 2
    table = made(persons=np.concatenate([unknown, known.astype(str if unknown.dtype.kind == "U" else unknown.dtype)]))
    assert table.persons_N is not None
    assert len(set(table.persons_N.tolist())) == COUNT // 2 + COUNT // 4


def with_nan() -> np.ndarray:
    features = GOOD["features"].copy()
    features[[17, 40], 2] = np.nan, np.inf
    return features


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": with_nan()},
            "2 of 300 images hold NaN, or numbers that are infinite or too large for float32, the first at position 17",
        ),
        ({"features": np.zeros(COUNT)}, r"has shape \(300,\).*\(images, 1\)"),
        ({"features": np.full((COUNT, 2), "x")}, "must be numbers"),
        ({"features": np.full((COUNT, 2), 1e300)}, "NaN, or numbers that are infinite or too large for float32"),
        ({"features": np.zeros((COUNT, 2, 2, 2, 2))}, "for maps"),
        ({"features": np.zeros((59, 2))}, "59 images are too few"),
        ({"labels": np.zeros(299)}, "labels: has 299 values, but there are features of 300 images"),
        (
            {"labels": np.where(np.arange(COUNT) == 5, -1, np.arange(COUNT) % 3)},
            "labels: 1 of 300 images have no label",
        ),
        ({"sensitive": {}}, "no sensitive column"),
        ({"sensitive": {"hat": np.zeros(COUNT)}}, r"hat: all images have the same 'hat' \(0\)"),
        ({"sensitive": {"hat": np.full(COUNT, np.nan)}}, "hat: all images have no 'hat'"),
        ({"sensitive": {"hat": np.linspace(0, 1, COUNT)}}, "hat: holds fractions"),
        ({"sensitive": {"path": np.arange(COUNT)}}, "path: has 300 different values"),
        ({"sensitive": {"hat": np.zeros((COUNT, 2))}}, "hat: has shape"),
        ({"sensitive": {"a\n\x1b[2J": np.arange(COUNT) % 2}}, r"a\\n\\x1b\[2J: the name of a column holds characters"),
        ({"sensitive": {"hat": np.array([object()] * COUNT)}}, "hat: holds Python objects"),
        ({"sensitive": {"hat": np.tile([-2, 0, 1], 100)}}, "hat: holds -2. A number below 0 is no class"),
        ({"sensitive": {"hat": np.tile([0.0, 1e300], 150)}}, "hat: holds 1e[+]300, which is no class"),
        ({"sensitive": {"hat": np.tile([b"a", b"\xff"], 150)}}, "hat: holds bytes that are no text"),
        ({"sensitive": {"hat": [[1], [1, 2]] * 150}}, "hat: cannot be turned into a NumPy array"),
        ({"sensitive": {"hat": np.ma.masked_less(np.arange(COUNT) % 3, 1)}}, "hat: some values are masked"),
        ({"features": np.ma.masked_less(GOOD["features"], -1)}, "features: some values are masked"),
        ({"features": [[1.0], [1.0, 2.0]] * 150}, "features: cannot be turned into a NumPy array"),
        ({"features": torch.zeros(COUNT, 2, requires_grad=True)}, "features: cannot be turned into a NumPy array"),
        ({"splits": np.tile(["train", "val", "test", ""], 75)}, "75 images are in no split"),
        ({"splits": np.repeat(["train", "dev", "test"], 100)}, "'dev' is not a split"),
        ({"splits": np.repeat([0, 1], 150)}, "no image is in test"),
        (
            {"splits": np.tile([0, 1, 2], 100), "persons": np.arange(COUNT) // 3},
            "100 persons have images in both train",
        ),
        ({"persons": np.arange(COUNT) // 150}, "too few persons"),
    ],
)
def test_what_cannot_be_used_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(**changes)


def test_classes_are_texts_that_can_be_printed() -> None:
    table = made(sensitive={"hat": np.tile(["a\nb", "\x1b[2J"], COUNT // 2)})
    assert table.sensitive[0].classes == ("\\x1b[2J", "a\\nb")


def test_protected_images_that_stand_in_another_split_are_counted() -> None:
    """Two of the protected images are those of train and val under other names; zero has one sign."""
    features = np.arange(4.0 * COUNT).reshape(COUNT, 4)
    splits = np.array(["train", "val", "test"] * (COUNT // 3))
    assert made(features=features, splits=splits).copies() == 0
    features[2], features[5], features[8] = features[0], features[1], features[11]  # 8 and 11 are both protected
    assert made(features=features, splits=splits).copies() == 2
    features[0], features[2] = 0.0, -0.0
    assert made(features=features, splits=splits).copies() == 2
