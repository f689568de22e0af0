"""Frames and stream headers as bytes, and the one check of what arrives.

Everything that is constant over a stream is in its header, sent once, as JSON. A frame is two byte strings:

    head     uint32 sequence number, uint16 B - 1, then B ids as int32, then the labels, then the codec's side
    payload  the encoded features

On the wire they are the two fields of one message (``link.proto``).

A label of a single-label task is one unsigned integer of the smallest width that holds K - 1 (1, 2 or 4 bytes). Labels
of a multi-label task are one bit each: B * K bits in row order, the highest bit first. Where the header says that no
labels travel, the head holds none, and the receiver fills in zeros. All numbers are little-endian.

Bytes that arrive may be wrong or hostile. :func:`header_from_json` and :func:`receive` check all of them, once,
before use.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from smartedge.errors import FrameError
from smartedge.types import BLANK, PROTOCOL, Bytes, EncodedBatch, Frame, SplitName, StreamHeader

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_HEAD_BYTES",
    "MAX_PAYLOAD_BYTES",
    "Message",
    "ReceivedFrame",
    "answer_header",
    "header_from_json",
    "header_to_json",
    "image_count",
    "max_head_bytes",
    "max_payload_bytes",
    "max_side_bytes",
    "parse",
    "receive",
    "serialise",
    "settings_in",
]

MAX_HEADER_BYTES = 64 * 1024
MAX_HEAD_BYTES = 2**19
MAX_PAYLOAD_BYTES = 2**30

_HEAD = struct.Struct("<IH")

_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Count = Annotated[int, Field(ge=0, lt=2**32)]
_Shape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(min_length=1, max_length=4)]


class Message(NamedTuple):
    """A frame as bytes. Made by :func:`serialise`, once; links and logs carry these bytes as they are."""

    head: bytes
    payload: Bytes

    @property
    def seq(self) -> int:
        """The frame's sequence number."""
        seq: int = _HEAD.unpack_from(self.head)[0]
        return seq


@dataclass(frozen=True)
class ReceivedFrame(Frame):
    """A frame that came over a link and was checked. Made by :func:`receive` alone.

    ``head`` and ``batch.payload`` are the bytes that came: what stores the frame need not serialise it.
    """

    head: bytes


# -- headers


class _Header(BaseModel):
    """The allowed values of a header's fields; :class:`~smartedge.types.StreamHeader` says what they mean."""

    model_config = ConfigDict(strict=True, extra="forbid")

    protocol: int
    run: _Name
    agreement: Annotated[str, StringConstraints(max_length=32 * 1024)]
    codec: _Name
    feature_shape: _Shape
    feature_dtype: Literal["float32", "uint8"]
    task_kind: Literal["single", "multi"]
    outputs: Annotated[int, Field(ge=1, le=2**20)]
    labels: bool
    blanks: bool
    answer_shape: _Shape | None
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    epoch: _Count
    split: SplitName
    first_seq: _Count
    frames: _Count
    joined_frames: Annotated[int, Field(ge=1, lt=2**32)]
    train_steps: _Count


def header_to_json(header: StreamHeader) -> bytes:
    """The header as compact JSON."""
    return json.dumps(dataclasses.asdict(header), separators=(",", ":")).encode()


@lru_cache(maxsize=64)
def _shared(agreement: str) -> str:
    """The same text, as one object for all streams and edges: a cloud keeps every header."""
    return agreement


def header_from_json(data: bytes) -> StreamHeader:
    """A header from JSON that may come from anybody.

    Raises:
        FrameError: when it is too long, no JSON, of another protocol, or a key is unknown, missing or out of range.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise FrameError(f"stream header: {len(data)} bytes are more than the {MAX_HEADER_BYTES} allowed")
    try:
        fields = _Header.model_validate_json(data)
    except ValidationError as error:
        _check_protocol(data)
        found = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'JSON'}: {p['msg']}" for p in error.errors()[:5])
        raise FrameError(f"stream header: {found}; both sides need the same version of smartedge") from error
    _check_protocol(data)
    header = StreamHeader(**{f.name: getattr(fields, f.name) for f in dataclasses.fields(StreamHeader)})
    header = dataclasses.replace(header, agreement=_shared(header.agreement))
    if header.blanks and (header.task_kind == "single" or not header.labels):
        raise FrameError(
            "stream header: only labels of a task of several columns may be lacking, and only if they travel"
        )
    if max_payload_bytes(header) > MAX_PAYLOAD_BYTES:
        raise FrameError(
            f"stream header: {header.batch_size} features of shape {header.feature_shape} may take "
            f"{max_payload_bytes(header)} bytes, more than the {MAX_PAYLOAD_BYTES} that a frame can hold; "
            "lower batch_size or cut where the feature map is smaller"
        )
    if max_head_bytes(header) > MAX_HEAD_BYTES:
        raise FrameError(
            f"stream header: ids and labels of {header.batch_size} images may take {max_head_bytes(header)} bytes, "
            f"more than the {MAX_HEAD_BYTES} that a frame can hold; lower batch_size"
        )
    return header


def _check_protocol(data: bytes) -> None:
    """Raise where the JSON names another protocol. Its keys may differ then, and the version is the real cause."""
    try:
        said = json.loads(data)["protocol"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if type(said) is int and said != PROTOCOL:
        raise FrameError(
            f"stream header: the sender speaks protocol {said}, this side {PROTOCOL}; "
            "install the same version of smartedge on both"
        )


def settings_in(agreement: str) -> dict[str, JsonValue]:
    """The settings that a stream header states; they may come from anybody.

    Raises:
        FrameError: they are no JSON, or no object.
    """
    try:
        said = json.loads(agreement)
    except (ValueError, RecursionError) as error:
        raise FrameError("the stream header's settings are not JSON") from error
    if not isinstance(said, dict):
        raise FrameError("the stream header's settings are not an object")
    return said


def answer_header(header: StreamHeader) -> StreamHeader:
    """The header that answers are checked against: float32 of the shape asked for, without labels."""
    assert header.answer_shape is not None
    return dataclasses.replace(
        header, codec="float32", feature_dtype="float32", feature_shape=header.answer_shape, labels=False, blanks=False
    )


def max_head_bytes(header: StreamHeader) -> int:
    """No head may be longer than this: number and count, ids and labels of a full batch, side."""
    count, single = header.batch_size, header.task_kind == "single"
    bits = (count * header.outputs + 7) // 8
    labels = count * _label_dtype(header).itemsize if single else bits * (1 + header.blanks)
    return _HEAD.size + 4 * count + labels * header.labels + max_side_bytes(header)


def max_payload_bytes(header: StreamHeader) -> int:
    """No payload may be longer than this: raw size + raw size / 256 + 1024 per image of a full batch.

    Raw size is batch_size * prod(feature_shape) * bytes per element. The second term is zstd's worst case, the third
    leaves room for lengths and headers. Every codec stays below it; ``unpack`` checks each codec's own, lower limit
    (``Codec.max_bytes``).
    """
    element = np.dtype(header.feature_dtype).itemsize
    raw = header.batch_size * math.prod(header.feature_shape) * element
    return raw + raw // 256 + 1024 * header.batch_size


def max_side_bytes(header: StreamHeader) -> int:
    """No side may be longer than this: 8 bytes (a range) per entry of the feature's longest axis, and 16."""
    return 8 * max(header.feature_shape) + 16


# -- frames


def serialise(frame: Frame, header: StreamHeader) -> Message:
    """A frame as bytes.

    Only what the format cannot express is refused here. The receiver checks the frame against the header.

    Raises:
        FrameError: ids do not fit int32, or the labels do not fit the header's task.
    """
    batch = frame.batch
    count = len(batch.ids)
    if not 1 <= count <= 2**16 or batch.ids.min() < 0 or batch.ids.max() >= 2**31:
        raise FrameError(f"frame {frame.seq}: must hold 1 to {2**16} images with ids of 0 to {2**31 - 1}")
    labels = b""
    if header.labels:
        single, limit = header.task_kind == "single", _label_limit(header)
        shape, dtype = ((count,), np.int64) if single else ((count, header.outputs), np.uint8)
        given = batch.labels
        if given.shape != shape or given.dtype != dtype or given.min() < 0 or given.max() >= limit:
            raise FrameError(
                f"frame {frame.seq}: labels must be {np.dtype(dtype)} of shape {shape} and 0 to {limit - 1}, "
                f"got {given.dtype} of shape {given.shape}"
            )
        labels = given.astype(_label_dtype(header)).tobytes() if single else np.packbits(given == 1).tobytes()
        if header.blanks:
            labels += np.packbits(given == BLANK).tobytes()
    head = (_HEAD.pack(frame.seq, count - 1), batch.ids.astype("<i4").tobytes(), labels, batch.side)
    return Message(b"".join(head), batch.payload)


def receive(message: Message, header: StreamHeader) -> ReceivedFrame:
    """Check a message that may come from anybody against the header, and return its frame. No other check follows.

    Raises:
        FrameError: when it contradicts the header.
    """
    frame = parse(message, header)
    batch, where = frame.batch, f"frame {frame.seq}"
    if not header.first_seq <= frame.seq < header.end_seq:
        raise FrameError(f"{where}: this stream carries sequence numbers {header.first_seq} to {header.end_seq - 1}")
    if batch.ids.min() < 0:
        raise FrameError(f"{where}: ids must be 0 to {2**31 - 1}, got {batch.ids.min()}")
    if len(set(batch.ids.tolist())) != len(batch.ids):  # np.unique would import numpy.ma
        raise FrameError(f"{where}: an id occurs twice")
    if batch.labels.max() >= _label_limit(header):
        raise FrameError(
            f"{where}: labels must be 0 to {_label_limit(header) - 1}, got {batch.labels.max()}; "
            "do both sides train the same task (data.desired)?"
        )
    if not 1 <= len(batch.payload) <= max_payload_bytes(header):
        raise FrameError(
            f"{where}: payload of {len(batch.payload)} bytes; up to {max_payload_bytes(header)} are possible here"
        )
    if len(batch.side) > max_side_bytes(header):
        raise FrameError(f"{where}: side of {len(batch.side)} bytes, at most {max_side_bytes(header)} are allowed")
    return ReceivedFrame(frame.seq, batch, message.head)


def parse(message: Message, header: StreamHeader) -> Frame:
    """The fields of a frame. Their values are not checked; :func:`receive` does that.

    Labels are int64 (B,) for a single-label task, uint8 (B, K) for a multi-label one, BLANK where one is lacking.

    Raises:
        FrameError: when the head does not hold as many ids and labels as it says, or more than the header allows.
    """
    head = message.head
    if len(head) < _HEAD.size:
        raise FrameError(f"frame: head of {len(head)} bytes is shorter than the {_HEAD.size} that are always there")
    seq, count = _HEAD.unpack_from(head)
    count += 1
    if count > header.batch_size:
        raise FrameError(f"frame {seq}: holds {count} images, must be 1 to {header.batch_size}")
    single, bits = header.task_kind == "single", count * header.outputs
    packed = (bits + 7) // 8 * (1 + header.blanks)
    dtype, numbers = (_label_dtype(header), count) if single else (np.dtype(np.uint8), packed)
    labels_at = _HEAD.size + 4 * count
    side_at = labels_at + (numbers * dtype.itemsize if header.labels else 0)
    if len(head) < side_at:
        raise FrameError(f"frame {seq}: head must hold {count} ids and labels, {side_at} bytes, got {len(head)}")
    ids = np.frombuffer(head, "<i4", count, _HEAD.size).astype(np.int64)
    labels: np.ndarray
    if not header.labels:
        labels = np.zeros(count, np.int64) if single else np.zeros((count, header.outputs), np.uint8)
    elif single:
        labels = np.frombuffer(head, dtype, numbers, labels_at).astype(np.int64)
    else:
        rows = np.frombuffer(head, dtype, numbers, labels_at).reshape(1 + header.blanks, -1)
        yes_BK, *blank_BK = np.unpackbits(rows, axis=1, count=bits).reshape(-1, count, header.outputs)
        labels = np.where(blank_BK[0], np.uint8(BLANK), yes_BK) if blank_BK else yes_BK
    return Frame(seq, EncodedBatch(ids=ids, labels=labels, payload=message.payload, side=head[side_at:]))


def image_count(head: bytes) -> int:
    """Number of images in a frame that was checked before."""
    count: int = _HEAD.unpack_from(head)[1]
    return count + 1


def _label_limit(header: StreamHeader) -> int:
    return header.outputs if header.task_kind == "single" else 2 + header.blanks


def _label_dtype(header: StreamHeader) -> np.dtype[np.unsignedinteger]:
    """The dtype of one label of a single-label task on the wire."""
    return np.min_scalar_type(header.outputs - 1).newbyteorder("<")
