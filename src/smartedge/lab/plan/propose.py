"""Looks at a data set, and proposes settings that train on it as they are (``smartedge init``)."""

from __future__ import annotations

import difflib
import functools
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from smartedge.config import Config, load_config
from smartedge.data.dividing import SPLIT_COLUMNS
from smartedge.data.labels import BOOLEAN, read_column
from smartedge.data.raw import PERSON_COLUMN, RawData
from smartedge.data.sources import open_raw
from smartedge.errors import DataError, list_some
from smartedge.files import open_regular
from smartedge.images.decode import Item, decode
from smartedge.images.size import ImageSize
from smartedge.methods.base import get_method
from smartedge.models.bottleneck import usual_bottleneck
from smartedge.models.cutting.cut import Cut, list_cuts
from smartedge.models.zoo.networks import build

__all__ = ["DataSummary", "crossing", "propose", "summarise"]

_USUAL_NAMES = ("label", "labels", "class", "target", "category", "fine_label", "y")
_SEEN = 24  # images whose size is looked at
_SIDE = 64  # pixels of the shorter side of an image, where the data have more
_LONG = 1.25  # longer side ÷ shorter side, from which on a square would lose much of an image
_MOST_LONG = 4.0  # of what is proposed
_ALIKE = 0.05  # images have one shape where half of them differ by no more from each other, as a share
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: a tag, and the values that mean a quarter of a turn
_FEW_STEPS = 300  # of training in all; below that, more epochs


@dataclass(frozen=True)
class DataSummary:
    """What a data set holds."""

    path: str
    images: int  # of the training split, from which others may still be taken
    columns: dict[str, tuple[str, ...]]  # columns that can be learned → their classes
    refused: dict[str, str]  # other columns → why not
    side: int  # the shorter side of an image, pixels; the median of some
    jpeg: float  # bytes of one image as JPEG of quality 90, at image_size
    image_size: ImageSize  # proposed
    groups: dict[str, tuple[str, ...]]  # one name for several columns

    @property
    def usual(self) -> str:
        """The column that is most likely to be learned: one with a usual name, else the first."""
        named = {name.lower(): name for name in self.columns}
        return next((named[name] for name in _USUAL_NAMES if name in named), next(iter(self.columns)))

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.path}: {self.images} images of about {self.side} pixels{self._shape()}; columns that can "
            f"be learned: {list_some((f'{name} ({len(classes)})' for name, classes in self.columns.items()), 12)}"
        )

    def _shape(self) -> str:
        """What is proposed where it is no square of colours."""
        return f", read as {self.image_size}" if isinstance(self.image_size.plain, str) else ""


def summarise(path: str) -> DataSummary:
    """Open a data set without decoding more than a few images.

    Raises:
        DataError: it is not there, is in no known layout, or has no column that can be learned.
    """
    raw = open_raw(path, ImageSize.of(_SIDE))
    if "train" not in raw.splits:
        raise DataError(f"{raw.name} has no training split; it has: {', '.join(raw.splits)}")
    train = raw.splits["train"]
    columns: dict[str, tuple[str, ...]] = {}
    refused: dict[str, str] = {}
    for name in train.columns:
        try:
            columns[name] = _classes(raw, name)
        except DataError as error:
            refused[name] = str(error)
    if not columns and not raw.groups:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
        raise DataError(f"{raw.name}: none of its columns can be learned{reasons or '; it has none'}")
    items = list(itertools.islice(train.images.items(), _SEEN))
    sides = [seen for item in items if (seen := _sides(item)) is not None] or [(_SIDE, _SIDE)]
    image_size = _proposed(sides)
    pixels = [found for item in items if not isinstance(found := decode(item, image_size), str)]
    jpeg = float(np.mean([_jpeg_bytes(each) for each in pixels] or [0]))
    groups = {name: tuple(members) for name, members in raw.groups.items()}
    side = int(np.median([min(each) for each in sides]))
    return DataSummary(path, train.images.count, columns, refused, side, jpeg, image_size, groups)


def _proposed(sides: Sequence[tuple[int, int]]) -> ImageSize:
    """A square, or a rectangle where the images are all longer in one direction; in multiples of 8 pixels.

    The shorter side is rounded up, so that small images keep every pixel.

    Args:
        sides: height and width of some images.
    """
    shorter = min(_SIDE, max(16, -(-int(np.median([min(each) for each in sides])) // 8) * 8))
    low, ratio, high = np.quantile([width / height for height, width in sides], [0.25, 0.5, 0.75])
    if high > (1 + _ALIKE) * low or max(ratio, 1 / ratio) < _LONG:
        return ImageSize(shorter, shorter)
    longer = int(shorter * min(_MOST_LONG, max(ratio, 1 / ratio))) // 8 * 8
    return ImageSize(shorter, longer) if ratio > 1 else ImageSize(longer, shorter)


def propose(data: DataSummary, desired: Sequence[str], sensitive: Sequence[str], method: str | None = None) -> Config:
    """Settings for a data set.

    With something to hide they are those of ``examples/private-faces.yaml``: four noisy numbers cross, each image once,
    and adversarial exits learn along.

    Args:
        data: the data set.
        desired: the columns to learn; empty: :attr:`DataSummary.usual`.
        sensitive: the columns to hide.
        method: of training; None: the default.

    Raises:
        DataError: a column does not exist, or cannot be learned.
        ConfigError: the values do not fit together.
    """
    wanted = tuple(desired) or (data.usual if data.columns else next(iter(data.groups)),)
    for name in (*wanted, *sensitive):
        if name not in data.columns and name not in data.groups:
            raise DataError(_unknown(data, name))
    outputs = max(len(wanted), *(len(data.columns.get(name, ())) for name in wanted))
    steps = max(1, data.images // 64)
    changes: dict[str, object] = {
        "data": {
            "path": data.path,
            "desired": wanted[0] if len(wanted) == 1 else list(wanted),
            "sensitive": list(sensitive),
            "image_size": data.image_size.plain,
        },
        "epochs": min(40, max(6, -(-_FEW_STEPS // steps))),
        "train": {"batch_size": 64 if data.images >= 640 else 16},
        "model": {"exit": {"width": 192 if outputs > 10 else 128}},
    }
    if sensitive:
        changes |= {
            "schedule": "freeze-and-log",
            "model": {"bottleneck": "4x1x1", "exit": {"width": 192 if outputs > 10 else 128}},
            "adversary": {"exits": ["mlp", "mlp"]},
            "dp": {"mechanism": "gaussian", "sigma": 0.4},
        }
    return _below_jpeg(load_config(changes, {} if method is None else {"method": method}), data.jpeg)


def _below_jpeg(config: Config, jpeg: float) -> Config:
    """Fewer channels at the cut where images compress so well that the usual ones need more than half of their JPEG."""
    method = get_method(config.method)
    if config.dp.mechanism != "none" or not (method.has_cloud and method.divides):
        return config
    channels, *rest = crossing(config)
    fewer = max(1, int(jpeg / 2 / math.prod(rest)))
    return load_config(config, {"model": {"bottleneck": [fewer, *rest]}}) if fewer < channels else config


def crossing(config: Config) -> tuple[int, ...]:
    """The shape of what crosses the cut with these settings, without building front and back."""
    size = config.data.image_size
    point = next(cut for cut in _cuts(config.model.name, size) if config.model.cut in (cut.name, *cut.aliases))
    named = config.bottleneck
    return (usual_bottleneck(point.shape, point.layout, size) if named == "auto" else named) or point.shape


@functools.cache
def _cuts(name: str, size: ImageSize) -> list[Cut]:
    """Where a network can be divided. To build and to record it takes a second, and it is asked for twice."""
    model = build(name, outputs=2, image_size=size, small_input=True, seed=0, weights="none")
    return list_cuts(model, size.shape)


def _classes(raw: RawData, name: str) -> tuple[str, ...]:
    """The classes of a column that a network can learn: at least two, and several images of each.

    Raises:
        DataError: it is no such column.
    """
    if name.lower() in (PERSON_COLUMN, *SPLIT_COLUMNS):
        raise DataError("it names the person or the split of each image")
    classes, images = read_column(raw, name).names, raw.splits["train"].images.count
    if classes != BOOLEAN and not 2 <= len(classes) <= images // 2:
        raise DataError(f"it has {len(classes)} class(es) on {images} training images")
    return classes


def _unknown(data: DataSummary, name: str) -> str:
    if name in data.refused:
        return f"column '{name}' of {data.path} cannot be learned: {data.refused[name]}"
    near = difflib.get_close_matches(name, [*data.columns, *data.groups], n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join([*data.columns, *data.groups])}"
    return f"{data.path} has no column '{name}' that can be learned; {hint}"


def _sides(item: Item) -> tuple[int, int] | None:
    """Height and width of an image, pixels, as it is seen: a camera may note that it was turned."""
    if item is None:
        return None
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1]
    try:
        with (
            open_regular(item) if isinstance(item, Path) else io.BytesIO(item) as file,
            Image.open(file) as image,
        ):
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION, 1) in _TURNED else (height, width)
    except Exception:  # damaged files make decoders raise anything
        return None


def _jpeg_bytes(pixels: np.ndarray) -> int:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "jpeg", quality=90)
    return len(target.getvalue())
