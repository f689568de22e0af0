"""Data sets that are given in Python: kept as Parquet files, which a resumed run and an audit can open again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from smartedge.data.raw import split_of
from smartedge.errors import DataError, list_some
from smartedge.files import private_folder, replacing
from smartedge.images.size import RGB
from smartedge.types import SPLITS

__all__ = ["keep_given"]

_AT_ONCE = 64  # records in memory
_IMAGE_KEYS = ("image", "img", "images")

Record = tuple[bytes, dict[str, object]]  # an image file's bytes, and a value of each column


def keep_given(data: object, folder: Path, columns: Sequence[str], channels: int = RGB) -> None:
    """Write data sets to ``folder``, a Parquet file for each split. Each is read once, some records at a time.

    Args:
        data: split (``train``, ``val`` or ``validation``, ``test``) → data set, or the training images alone. A data
            set is:

            - a ``Dataset`` of torch, map-style or iterable, of pairs (image, label) or of mappings;
            - a ``Dataset`` or ``IterableDataset`` of Hugging Face;
            - a pair of arrays, images (N, H, W), (N, H, W, C) or (N, C, H, W) and labels (N,) or (N, L);
            - any other iterable of such records.

            An image is one of Pillow, the name of a file, an open file, a file's bytes, or pixels: uint8, uint16
            (divided by 256), or floating point in [0, 1]. A label is a value, a sequence of values, or a mapping of
            columns to values.
        folder: where the files are written. Only the user can read them.
        columns: what labels without a name are called: one column, or as many as a sequence has values.
        channels: that images may have, beside 1 and 3. They are kept as TIFF files with a page for each channel.

    Raises:
        DataError: a split is unknown or empty, or a record is of another form.
    """
    named = dict(data) if isinstance(data, Mapping) else {"train": data}
    if unknown := sorted(name for name in map(str, named) if split_of(name) is None):
        raise DataError(f"data: there is no split {', '.join(unknown)}; the splits are {', '.join(SPLITS)}")
    splits = {split_of(str(name)): given for name, given in named.items()}
    if len(splits) < len(named):
        raise DataError(f"data: {', '.join(map(str, named))} name one split twice; leave one of them")
    if "train" not in splits:
        raise DataError("data: the split 'train' is missing")
    private_folder(folder)
    for split, given in splits.items():
        with replacing(folder / f"{split}.parquet") as temporary:
            _write(f"data[{split!r}]", given, columns, channels, temporary)


def _write(name: str, given: object, columns: Sequence[str], channels: int, file: Path) -> None:
    records = _records(name, given, columns, channels)
    first = list(islice(records, _AT_ONCE))
    if not first:
        raise DataError(f"{name} holds no images")
    schema = _schema(name, first, _class_names(name, given, columns))
    with pq.ParquetWriter(file, schema, compression="none") as writer:
        number, part = 0, first
        while part:
            try:
                writer.write_table(_table(part, schema))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                end = number + len(part) - 1
                raise DataError(
                    f"{name}: a label of records {number} to {end} is unlike the first ones: {error}"
                ) from error
            number, part = number + len(part), list(islice(records, _AT_ONCE))


def _schema(name: str, first: Sequence[Record], classes: Mapping[str, Sequence[str]]) -> pa.Schema:
    names = list(dict.fromkeys(column for _, values in first for column in values))
    if not names:
        raise DataError(f"{name}: its records have no labels")
    fields = [pa.field("image", pa.binary())]
    for column in names:
        try:
            kind = pa.array([values.get(column) for _, values in first]).type
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"{name}: the values of {column!r} cannot be one column: {error}; give numbers or texts, or "
                "leave it out"
            ) from error
        fields.append(pa.field(column, pa.float64() if pa.types.is_null(kind) else kind))
    features = {column: {"names": list(map(str, each)), "_type": "ClassLabel"} for column, each in classes.items()}
    features["image"] = {"_type": "Image"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _table(records: Sequence[Record], schema: pa.Schema) -> pa.Table:
    if odd := {column for _, values in records for column in values} - set(schema.names):
        raise ValueError(f"there are further columns: {', '.join(sorted(odd))}")
    columns = {name: _column([values.get(name) for _, values in records], schema, name) for name in schema.names[1:]}
    return pa.table({"image": [image for image, _ in records], **columns}, schema)


def _column(values: list[object], schema: pa.Schema, name: str) -> pa.Array:
    """Values in the type of the first records. pyarrow by itself makes 0 of 0.5, yes of 5, and a text of a number."""
    kind, column = schema.field(name).type, pa.array(values)
    if not pa.types.is_null(column.type) and column.type != kind and not (_is_number(column.type) and _is_number(kind)):
        raise ValueError(f"{name!r} holds {column.type}, and {kind} before")
    return column.cast(kind)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _class_names(name: str, given: object, columns: Sequence[str]) -> dict[str, Sequence[str]]:
    """The names of classes that a data set states: ``classes`` of torchvision, ``features`` of Hugging Face."""
    features = getattr(given, "features", None)
    if isinstance(features, Mapping):
        return {column: each.names for column, each in features.items() if getattr(each, "names", None)}
    classes = _classes(name, given)
    return {columns[0]: classes} if len(columns) == 1 and classes is not None else {}


def _classes(name: str, given: Any) -> list[str] | None:
    """The names of classes of a torchvision data set, of a part of it, or of several that are joined.

    Raises:
        DataError: data sets are joined whose classes have other names or another order.
    """
    if type(given).__module__ == "torch.utils.data.dataset":
        if hasattr(given, "dataset"):  # a Subset, also of random_split
            return _classes(name, given.dataset)
        parts = [_classes(name, part) for part in getattr(given, "datasets", ())]
        named = [part for part in parts if part is not None]
        if other := next((part for part in named if part != named[0]), None):
            raise DataError(
                f"{name} joins data sets in which one number means two classes: {list_some(named[0])} in one and "
                f"{list_some(other)} in another; number their labels in one way (target_transform)"
            )
        return named[0] if parts and len(named) == len(parts) else None
    classes = getattr(given, "classes", None)
    if not isinstance(classes, Sequence) or not all(isinstance(each, str) for each in classes):
        return None
    # A transform makes other labels, which the names do not belong to.
    return list(classes) if getattr(given, "target_transform", None) is None else None


def _records(name: str, given: object, columns: Sequence[str], channels: int) -> Iterator[Record]:
    if type(given).__name__ == "DataLoader":
        raise DataError(f"{name} is a DataLoader, which makes batches; give its dataset")
    if isinstance(given, Mapping) or hasattr(given, "iloc"):
        raise DataError(f"{name} is a table of columns; give its rows, such as list(zip(images, labels))")
    if isinstance(given, tuple) and len(given) == 2 and getattr(given[0], "ndim", 0) >= 3:
        if len(given[0]) != len(given[1]):
            raise DataError(f"{name} has {len(given[0])} images and {len(given[1])} labels")
        given = zip(*given, strict=True)
    elif isinstance(features := getattr(given, "features", None), Mapping):
        given = _undecoded(given, features)
    elif not hasattr(given, "__iter__") and hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        given = _by_number(given)
    if not isinstance(given, Iterable) and not hasattr(given, "__getitem__"):
        raise DataError(f"{name} is a {type(given).__name__}; give a Dataset, or a pair of arrays")
    for number, record in enumerate(_all_of(name, given)):
        yield _record(f"{name}, record {number}", record, columns, channels)


def _by_number(given: Any) -> Iterator[object]:
    """Not by ``map``, which takes a StopIteration of the data set's own code for the end."""
    for number in range(len(given)):
        yield given[number]


def _all_of(name: str, given: Any) -> Iterator[object]:
    """The records. What the data set's own code raises is said with the record at which it did."""
    given_so_far = 0
    try:
        for record in given:
            yield record
            given_so_far += 1
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{name}, record {given_so_far}: its own code raised {type(error).__name__}: {error}"
        ) from error
    stated = _length(given)
    if stated is not None and stated != given_so_far:
        raise DataError(
            f"{name} says that it has {stated} records, and gave {given_so_far}; some would be missing without a word: "
            "mend its __len__, or what ends it"
        )


def _length(given: object) -> int | None:
    """What a data set says of itself; None: nothing."""
    try:
        return len(given)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _undecoded(given: Any, features: Mapping[str, Any]) -> Iterable[object]:
    """A data set of Hugging Face, whose images stay as they are: files' bytes."""
    for name, feature in features.items():
        if type(feature).__name__ == "Image":
            given = given.cast_column(name, type(feature)(decode=False))
    return cast("Iterable[object]", given)


def _record(where: str, record: object, columns: Sequence[str], channels: int) -> Record:
    if isinstance(record, Mapping):
        key = next((key for key in _IMAGE_KEYS if key in record), None)
        if key is None:
            raise DataError(f"{where} has no 'image'; its keys are {', '.join(map(str, record))}")
        return _encoded(where, record[key], channels), {str(k): _value(v) for k, v in record.items() if k != key}
    if not isinstance(record, Sequence) or len(record) != 2:
        raise DataError(f"{where} is a {type(record).__name__}; expected a pair (image, label) or a mapping")
    image, label = record
    return _encoded(where, image, channels), _labels(where, label, columns)


def _labels(where: str, label: object, columns: Sequence[str]) -> dict[str, object]:
    if isinstance(label, Mapping):
        return {str(column): _value(value) for column, value in label.items()}
    value = _value(label)
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) != len(columns):
        raise DataError(f"{where} has {len(values)} label(s); data.desired names {', '.join(columns)}")
    return dict(zip(columns, map(_value, values), strict=True))


def _value(value: object) -> object:
    """A value of Python: arrays and tensors become numbers or lists."""
    to_list: Callable[[], object] | None = getattr(value, "tolist", None)
    return value if to_list is None else to_list()


def _encoded(where: str, image: object, channels: int) -> bytes:
    """An image as the bytes of a file, without loss."""
    if isinstance(image, Mapping | io.IOBase | str | Path | bytes):
        return _file_given(where, image)
    if not isinstance(image, Image.Image):
        return _file_of(_pixels(where, image, channels))
    picture = ImageOps.exif_transpose(image)
    # Pillow's own conversion would cut off all that is above 255, and 0.5 would be 0.
    if picture.mode == "F" or (picture.mode.startswith("I") and picture.mode != "I;16"):
        return _file_of(_pixels(where, _of_16_bits(np.asarray(picture)), channels))
    if len(picture.getbands()) == channels and channels not in (1, RGB):
        return _file_of(np.atleast_3d(np.asarray(picture)))
    try:
        picture = picture if picture.mode in ("RGB", "L", "I;16") else picture.convert("RGB")
    except ValueError as error:
        raise DataError(f"{where}: a picture of mode {picture.mode} cannot become RGB ({error})") from error
    picture.save(buffer := io.BytesIO(), "PNG", compress_level=1)
    return buffer.getvalue()


def _file_given(where: str, image: Mapping[str, Any] | io.IOBase | str | Path | bytes) -> bytes:
    """The bytes of an image file that is given as such, open, by its name, or as Hugging Face does without decoding."""
    if isinstance(image, Mapping):
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if image.get("path") is None:
            raise DataError(f"{where} has no image")
        image = str(image["path"])
    try:
        if isinstance(image, io.IOBase):
            image = image.read()
        return image if isinstance(image, bytes) else Path(cast("str | Path", image)).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: the image file {str(image)!r} cannot be read ({error})") from error


def _of_16_bits(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Whole numbers that fit, as uint16: Pillow holds pictures of 16 bits as 32. All others stay as they are."""
    fits = pixels.dtype.kind in "iu" and pixels.min(initial=0) >= 0 and pixels.max(initial=0) < 2**16
    return pixels.astype(np.uint16) if fits else pixels


def _plain(where: str, image: Any) -> NDArray[Any]:
    """The pixels as an array, also of a tensor on another device, with a gradient, or in bfloat16."""
    try:
        if hasattr(image, "detach"):
            image = image.detach().cpu()
            image = image.float() if image.is_floating_point() else image
        pixels = np.asarray(image)
    except Exception as error:  # of a sparse tensor, one without values, or any object
        raise DataError(f"{where}: an image of type {type(image).__name__} is no array of pixels: {error}") from error
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _file_of(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, C) as a PNG file, or a TIFF file with a page for each channel."""
    pages = [pixels] if pixels.shape[2] == RGB else list(np.moveaxis(pixels, 2, 0))
    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in pages)
    buffer = io.BytesIO()
    if others:
        first.save(buffer, "TIFF", save_all=True, append_images=others)
    else:
        first.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pixels(where: str, image: object, channels: int) -> NDArray[np.uint8]:
    """(H, W, C)."""
    pixels, allowed = _plain(where, image), (1, RGB, channels)
    if pixels.ndim == 3 and pixels.shape[0] in allowed and (pixels.shape[2] not in allowed or hasattr(image, "dim")):
        pixels = pixels.transpose(1, 2, 0)
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in allowed)) or pixels.size == 0:
        raise DataError(
            f"{where}: an image has shape {pixels.shape}; expected (H, W), (H, W, C) or (C, H, W), C 1 or 3, or as "
            "many as data.image_size says (HEIGHTxWIDTHxCHANNELS)"
        )
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    elif pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(
                f"{where}: floating-point pixels reach from {pixels.min():g} to {pixels.max():g}; they must lie in "
                "[0, 1], so leave out what normalises them"
            )
        pixels = np.round(pixels * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise DataError(f"{where}: pixels are {pixels.dtype}; expected uint8, uint16, or floating point in [0, 1]")
    return np.atleast_3d(pixels)
