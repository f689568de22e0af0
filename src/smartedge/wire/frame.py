"""Frames as Arrow record batches, and the stream header as JSON.

Everything that is constant over a stream is in its header, sent once. A frame is a row of two binary columns, since
Arrow spends 56 to 72 bytes on every column:

    head     uint32 sequence number, uint16 B - 1, then B ids as int32, then the labels, then the codec's side
    payload  the encoded features

A record batch holds one row or, where frames are small, several (:func:`most_joined`): Arrow and gRPC spend about 260
bytes on every message, a row 14.

Labels of a single-label task are one unsigned integer each, of the smallest width that holds K - 1 (1, 2 or 4 bytes);
those of a multi-label task are one bit each, B * K bits in row order, the highest bit first. In inference there are
none, and zeros stand in their place. All is little-endian.

What arrives was made by somebody else: :func:`header_from_json` and :func:`batch_to_frame` check all of it before use.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from smartedge.errors import FrameError
from smartedge.types import EncodedBatch, Frame, SplitName, StreamHeader

__all__ = [
    "JOINED_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_PAYLOAD_BYTES",
    "PROTOCOL",
    "batch_to_frame",
    "frame_schema",
    "frame_to_batch",
    "header_from_json",
    "header_to_json",
    "join_batches",
    "max_payload_bytes",
    "max_side_bytes",
    "most_joined",
    "reply_header",
]

PROTOCOL = 2
JOINED_BYTES = 32 * 1024  # a message that holds so much takes no further frame: 260 bytes of it are less than 1 %
MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 2**30

_HEAD = struct.Struct("<IH")

_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Count = Annotated[int, Field(ge=0, lt=2**32)]


class _Header(BaseModel):
    """The ranges that a header's fields must keep; :class:`~smartedge.types.StreamHeader` says what they mean."""

    model_config = ConfigDict(strict=True, extra="forbid")

    protocol: int
    run: _Name
    agreement: Annotated[str, StringConstraints(max_length=32 * 1024)]
    method: Literal["hierarchical", "upload", "split", "infer"]
    schedule: Literal["joint", "two-stage", "freeze-and-log"]
    codec: _Name
    feature_shape: Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(min_length=1, max_length=4)]
    feature_dtype: Literal["float32", "uint8"]
    task_kind: Literal["single", "multi"]
    outputs: Annotated[int, Field(ge=1, le=2**20)]
    batch_size: Annotated[int, Field(ge=1, le=2**16)]
    epoch: _Count
    split: SplitName
    first_seq: _Count
    frames: _Count
    train_steps: _Count


def header_to_json(header: StreamHeader) -> bytes:
    """The header as compact JSON."""
    return json.dumps(dataclasses.asdict(header), separators=(",", ":")).encode()


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
        problems = error.errors(include_url=False, include_input=False, include_context=False)[:5]
        found = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'JSON'}: {p['msg']}" for p in problems)
        raise FrameError(f"stream header: {found}; both sides need the same version of smartedge") from error
    if fields.protocol != PROTOCOL:
        raise FrameError(
            f"stream header: the sender speaks protocol {fields.protocol}, this side {PROTOCOL}; "
            "install the same version of smartedge on both"
        )
    header = StreamHeader(**{f.name: getattr(fields, f.name) for f in dataclasses.fields(StreamHeader)})
    if max_payload_bytes(header) > MAX_PAYLOAD_BYTES:
        raise FrameError(
            f"stream header: {header.batch_size} features of shape {header.feature_shape} may take "
            f"{max_payload_bytes(header)} bytes, more than the {MAX_PAYLOAD_BYTES} that a frame can hold; "
            "lower batch_size or cut where the feature map is smaller"
        )
    return header


def reply_header(header: StreamHeader) -> StreamHeader:
    """The header that replies of an exchanging stream are checked against: float32, of the shape of what is asked for.

    Split learning asks for the gradient at the cut, inference for the K probabilities.
    """
    shape = (header.outputs,) if header.method == "infer" else header.feature_shape
    return dataclasses.replace(header, codec="float32", feature_dtype="float32", feature_shape=shape)


def max_payload_bytes(header: StreamHeader) -> int:
    """No payload may be longer than this: raw size + raw size / 256 + 1024 per image of a full batch.

    Raw size is batch_size * prod(feature_shape) * bytes per element. The second term is zstd's worst case, the third
    leaves room for lengths and headers. Every codec keeps within it, and ``unpack`` holds each to its own, lower
    bound (``Codec.max_bytes``).
    """
    element = np.dtype(header.feature_dtype).itemsize
    raw = header.batch_size * math.prod(header.feature_shape) * element
    return raw + raw // 256 + 1024 * header.batch_size


def max_side_bytes(header: StreamHeader) -> int:
    """No side may be longer than this: 8 bytes (a range) per entry of the feature's longest axis, and 16."""
    return 8 * max(header.feature_shape) + 16


def frame_schema(header: StreamHeader) -> pa.Schema:
    """The Arrow schema of the frames of a stream; the same for all streams of this protocol."""
    return _SCHEMA


_SCHEMA = pa.schema([pa.field("head", pa.binary(), nullable=False), pa.field("payload", pa.binary(), nullable=False)])


def frame_to_batch(frame: Frame, header: StreamHeader) -> pa.RecordBatch:
    """A frame as a record batch of :func:`frame_schema`, after the checks that the receiver will make.

    Raises:
        FrameError: when the frame does not go with the header.
    """
    _check(frame, header)
    batch = frame.batch
    head = b"".join(
        (
            _HEAD.pack(frame.seq, len(batch.ids) - 1),
            batch.ids.astype("<i4").tobytes(),
            _labels_to_bytes(batch.labels, header),
            batch.side,
        )
    )
    columns = [pa.array([head], pa.binary()), pa.array([batch.payload], pa.binary())]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def join_batches(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows of several batches of :func:`frame_schema` as one, which is one message on the wire."""
    columns = [pa.concat_arrays([batch[column] for batch in batches]) for column in range(len(_SCHEMA))]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def most_joined(frames: int, schedule: str) -> int:
    """Frames of a stream of so many that may go as one message, while it is shorter than :data:`JOINED_BYTES`.

    Where the cloud trains beside the edge, a sixteenth of the stream, so that it does not wait for its work; with
    ``freeze-and-log`` it trains when all is there, and nothing is lost by joining.
    """
    return frames if schedule == "freeze-and-log" else max(1, frames // 16)


def batch_to_frame(batch: pa.RecordBatch, header: StreamHeader) -> Frame:
    """The frame in a record batch that may come from anybody, checked against the header.

    Raises:
        FrameError: when anything about it is not as the header says.
    """
    if not batch.schema.equals(_SCHEMA):
        raise FrameError(f"frame: columns must be {_describe(_SCHEMA)}, got {_describe(batch.schema)}")
    if batch.num_rows != 1:
        raise FrameError(f"frame: a record batch must hold one row, got {batch.num_rows}")
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise FrameError(f"frame: the Arrow data is corrupt ({error})") from error
    head, payload = (column[0].as_py() for column in batch.columns)
    if head is None or payload is None:
        raise FrameError("frame: a column is null")
    if len(head) < _HEAD.size:
        raise FrameError(f"frame: head of {len(head)} bytes is shorter than the {_HEAD.size} that are always there")
    seq, count = _HEAD.unpack_from(head)
    count += 1
    _check_count(seq, count, header)
    ids_end = _HEAD.size + 4 * count
    labels_end = ids_end + _label_bytes(count, header)
    if len(head) < labels_end:
        raise FrameError(f"frame {seq}: head must hold {count} ids and labels, {labels_end} bytes, got {len(head)}")
    ids = np.frombuffer(head[_HEAD.size : ids_end], "<i4").astype(np.int64)
    labels = _bytes_to_labels(head[ids_end:labels_end], count, header)
    encoded = EncodedBatch(ids=ids, labels=labels, payload=payload, side=head[labels_end:])
    frame = Frame(seq, header.epoch, header.split, _is_last(seq, header), encoded)
    _check(frame, header)
    return frame


def _check(frame: Frame, header: StreamHeader) -> None:
    """What must hold of a frame on either side."""
    batch = frame.batch
    where = f"frame {frame.seq}"
    end_seq = header.first_seq + header.frames
    if not header.first_seq <= frame.seq < end_seq:
        raise FrameError(f"{where}: this stream carries sequence numbers {header.first_seq} to {end_seq - 1}")
    mine, stream = (frame.epoch, frame.split, frame.last), (header.epoch, header.split, _is_last(frame.seq, header))
    if mine != stream:
        raise FrameError(f"{where}: (epoch, split, last) is {mine}, which the stream's header says is {stream}")
    _check_count(frame.seq, len(batch.ids), header)
    if batch.ids.min() < 0 or batch.ids.max() >= 2**31:
        raise FrameError(f"{where}: ids must be 0 to {2**31 - 1}, got {batch.ids.min()} to {batch.ids.max()}")
    if len(np.unique(batch.ids)) != len(batch.ids):
        raise FrameError(f"{where}: an id occurs twice")
    _check_labels(where, batch, header)
    if not 1 <= len(batch.payload) <= max_payload_bytes(header):
        raise FrameError(
            f"{where}: payload of {len(batch.payload)} bytes; up to {max_payload_bytes(header)} are possible here"
        )
    if len(batch.side) > max_side_bytes(header):
        raise FrameError(f"{where}: side of {len(batch.side)} bytes, at most {max_side_bytes(header)} are allowed")


def _is_last(seq: int, header: StreamHeader) -> bool:
    return seq == header.first_seq + header.frames - 1


def _check_count(seq: int, count: int, header: StreamHeader) -> None:
    if not 1 <= count <= header.batch_size:
        raise FrameError(f"frame {seq}: holds {count} images, must be 1 to {header.batch_size}")


def _check_labels(where: str, batch: EncodedBatch, header: StreamHeader) -> None:
    single = header.task_kind == "single"
    shape = (len(batch.ids),) if single else (len(batch.ids), header.outputs)
    dtype = np.dtype(np.int64 if single else np.uint8)
    if batch.labels.shape != shape or batch.labels.dtype != dtype:
        raise FrameError(
            f"{where}: labels must be {dtype} of shape {shape}, got {batch.labels.dtype} of shape {batch.labels.shape}"
        )
    limit = header.outputs if single else 2
    if batch.labels.min() < 0 or batch.labels.max() >= limit:
        raise FrameError(
            f"{where}: labels must be 0 to {limit - 1}, got {batch.labels.min()} to {batch.labels.max()}; "
            "do both sides train the same task (data.desired)?"
        )


def _label_dtype(header: StreamHeader) -> np.dtype[np.unsignedinteger]:
    """Of one label of a single-label task on the wire."""
    return np.min_scalar_type(header.outputs - 1).newbyteorder("<")


def _label_bytes(count: int, header: StreamHeader) -> int:
    if header.method == "infer":
        return 0
    if header.task_kind == "single":
        return count * _label_dtype(header).itemsize
    return (count * header.outputs + 7) // 8


def _labels_to_bytes(labels: np.ndarray, header: StreamHeader) -> bytes:
    if header.method == "infer":
        return b""
    if header.task_kind == "single":
        return labels.astype(_label_dtype(header)).tobytes()
    return np.packbits(labels).tobytes()


def _bytes_to_labels(data: bytes, count: int, header: StreamHeader) -> np.ndarray:
    if header.method == "infer":  # nobody knows them
        single = header.task_kind == "single"
        return np.zeros(count, np.int64) if single else np.zeros((count, header.outputs), np.uint8)
    if header.task_kind == "single":
        return np.frombuffer(data, _label_dtype(header)).astype(np.int64)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * header.outputs)
    return bits.reshape(count, header.outputs)


def _describe(schema: pa.Schema) -> str:
    text = ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema)
    return text[:200]
