"""The codec of fronts that are trained for few bytes: evenly spaced levels, and an entropy coder with exact tables."""

from __future__ import annotations

import bisect
import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smartedge.codec.base import check_length, new_features
from smartedge.codec.frequencies import LARGEST_LEVEL, Table, fit_table, read_table, table_bytes
from smartedge.codec.quantise import channel_axis
from smartedge.codec.rans import decode, encode, max_encoded
from smartedge.codec.sequence import (
    PREVIOUS,
    differences,
    marks_bytes,
    read_marks,
    resembling,
    restored,
    write_marks,
)
from smartedge.errors import CodecError
from smartedge.types import Bytes, Features

__all__ = ["FEWEST_BYTES", "LearnedCodec"]

FEWEST_BYTES = 16  # of a target: one image whose levels are all 0 takes less, however many they are
_HEAD = struct.Struct("<HB")
_OWN_TABLES = 0x8000  # in the head: each channel has a table of its own
_RUNGS = 1024
_OCTAVE = 16  # rungs until a step is twice as large
_FINEST = -30  # log2 of the smallest step: small numbers are not all rounded to 0
# Rounded to float32 last, so that both sides have the same, whatever the last digit of a processor's power is.
_STEPS = (2 ** (_FINEST + np.arange(_RUNGS) / _OCTAVE)).astype(np.float32)
_ALL_ZERO_AFTER = 8 * _OCTAVE  # rungs: then what had level LARGEST_LEVEL has level 0


@dataclass(frozen=True)
class LearnedCodec:
    """As many evenly spaced levels as a frame may have: no more than ``target`` bytes per image, on average.

    A level is the nearest whole multiple of a step, and the error is at most half a step, plus float32 rounding. So no
    number is decoded to more than twice its magnitude. The step is common to all numbers of a frame. It is the smallest
    of a ladder (2^-30 times powers of 2^(1/16)) with which the frame keeps to the target, and the largest number has
    level 127 at most. A front that is trained for the target (:mod:`smartedge.methods.rate`) loses little by that. With
    any other, and with noise, the target is met as well, by a larger step.

    ``payload`` is a uint16 (the step's place in the ladder, and whether each channel has a table of its own or all
    share one), a uint8 (the lower eight bits of the payload's length), the tables
    (:mod:`smartedge.codec.frequencies`), and the levels, channel by channel (:mod:`smartedge.codec.rans`). ``side`` is
    empty. Channels are those of
    :class:`~smartedge.codec.quantise.AffineCodec`. The tables are those of the frame: they follow from what was
    released, as its bytes and their number do, so all this is post-processing of a release.

    With ``previous``, images that resemble the one before are sent by the differences of their levels
    (:mod:`smartedge.codec.sequence`). The marks stand before the tables, and the largest number has level 63 at most,
    so that no difference exceeds 127.
    """

    target: int  # bytes per image, FEWEST_BYTES or more
    previous: bool = False
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    @property
    def name(self) -> str:
        """``learned-200`` or ``learned-200-previous``, say."""
        return f"learned-{self.target}{PREVIOUS * self.previous}"

    def encode(self, features_BF: Features) -> tuple[bytes, bytes]:
        """See :meth:`smartedge.codec.Codec.encode`."""
        values_CN, most = self._by_channel(features_BF), self.target * len(features_BF)
        marks_B = self._marks(values_CN, len(features_BF))
        marks = b"" if marks_B is None else write_marks(marks_B)
        rung = self._rung(values_CN, most - len(marks), marks_B)
        while True:
            levels_CN, low, counts_CL = _quantise(values_CN, rung, marks_B)
            if _OwnAndShared.of(counts_CL).smaller + len(marks) <= most:
                payload = _written(levels_CN, low, counts_CL, rung, marks)
                if len(payload) <= most:
                    return payload, b""
            rung += 1

    def decode(
        self, payload: Bytes, side: bytes, *, batch: int, feature_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[np.float32]:
        """See :meth:`smartedge.codec.Codec.decode`."""
        features_BF = new_features(batch, feature_shape, dtype, self.dtype, self.name)
        check_length(side, 0, "side", self.name)
        data = bytes(payload)
        if len(data) < _HEAD.size:
            raise CodecError(f"codec {self.name}: the payload ends within its head: it is truncated")
        head, length = _HEAD.unpack_from(data)
        if length != len(data) & 0xFF:
            raise CodecError(f"codec {self.name}: the payload has another length than it says: it is truncated")
        rung = head & ~_OWN_TABLES
        if rung >= _RUNGS:
            raise CodecError(f"codec {self.name}: there is no step {rung}: the payload is corrupt")
        by_channel_CBF = np.moveaxis(features_BF, channel_axis(features_BF.ndim - 1), 0)
        rows = len(by_channel_CBF) if head & _OWN_TABLES else 1
        tables, start, marks_B = list[Table](), _HEAD.size, None
        if self.previous:
            marks_B = read_marks(data[start:], batch, self.name)
            start += marks_bytes(batch)
        for _ in range(rows):
            table, start = read_table(data, start, self.name)
            tables.append(table)
        frequencies = [table.frequencies for table in tables]
        symbols = decode(data[start:], frequencies, features_BF.size // rows, self.name)
        levels_RN = np.stack([row.astype(np.int32) + table.low for row, table in zip(symbols, tables, strict=True)])
        if marks_B is not None:
            levels_RN = restored(levels_RN.reshape(len(by_channel_CBF), batch, -1), marks_B)
            if np.abs(levels_RN).max() > self._largest_level:
                raise CodecError(f"codec {self.name}: differences lead beyond the largest level: it is corrupt")
        by_channel_CBF[...] = (levels_RN.astype(np.float32) * _STEPS[rung]).reshape(by_channel_CBF.shape)
        return features_BF

    def max_bytes(self, batch: int, feature_shape: tuple[int, ...]) -> int:
        """See :meth:`smartedge.codec.Codec.max_bytes`."""
        count = batch * math.prod(feature_shape)
        # Tables of channels are used where they are smaller than one table and 8 bits of each number.
        largest = _HEAD.size + table_bytes(2 * LARGEST_LEVEL + 1) + count + max_encoded(count)
        return min(batch * self.target, largest + marks_bytes(batch) * self.previous)

    def frame_bytes(self, features_BF: Features, step: float) -> float:
        """About how many bytes these features take with that step, each image by itself; training uses it."""
        values_CN = self._by_channel(features_BF)
        levels_CN = np.rint(values_CN / np.float32(step)).clip(-LARGEST_LEVEL, LARGEST_LEVEL)
        return _OwnAndShared.of(_counts(levels_CN.astype(np.intp))[0]).smaller

    def step(self, features_BF: Features) -> float:
        """The step that :meth:`encode` takes for these features, or the next smaller one of the ladder."""
        values_CN, batch = self._by_channel(features_BF), len(features_BF)
        marks_B = self._marks(values_CN, batch)
        most = self.target * batch - marks_bytes(batch) * self.previous
        return float(_STEPS[self._rung(values_CN, most, marks_B)])

    @property
    def _largest_level(self) -> int:
        return LARGEST_LEVEL // 2 if self.previous else LARGEST_LEVEL

    def _marks(self, values_CN: NDArray[np.float32], batch: int) -> NDArray[np.bool_] | None:
        """Which images are sent by differences, bool (B,); None: the codec sends none so."""
        return resembling(values_CN.reshape(len(values_CN), batch, -1)) if self.previous else None

    def _by_channel(self, features_BF: Features) -> NDArray[np.float32]:
        """Features (B, *F) as float32 (C, N).

        Raises:
            CodecError: one is NaN, infinite, or too large for the ladder.
        """
        channels_CBF = np.moveaxis(features_BF, channel_axis(features_BF.ndim - 1), 0)
        values_CN = np.ascontiguousarray(channels_CBF, np.float32).reshape(len(channels_CBF), -1)
        most = float(_STEPS[-1 - _ALL_ZERO_AFTER]) * LARGEST_LEVEL
        if not (-most <= values_CN.min() and values_CN.max() <= most):  # NaN fails both
            raise CodecError(
                f"codec {self.name}: features hold NaN, infinities, or numbers beyond ±{most:g}; training has diverged"
            )
        return values_CN

    def _rung(self, values_CN: NDArray[np.float32], most: int, marks_B: NDArray[np.bool_] | None) -> int:
        """The place in the ladder of the smallest step with which the numbers take about so many bytes, or fewer."""
        largest = max(float(values_CN.max()), -float(values_CN.min()))
        first = int(np.searchsorted(_STEPS * (self._largest_level + 0.49), largest))

        def suffices(rung: int) -> bool:
            return _OwnAndShared.of(_quantise(values_CN, rung, marks_B)[2]).smaller <= most

        return first + bisect.bisect_left(range(first, first + _ALL_ZERO_AFTER), True, key=suffices)


@dataclass(frozen=True)
class _OwnAndShared:
    """About how many bytes numbers take with a table for each channel, and with one table for all."""

    own: float
    shared: float

    @property
    def smaller(self) -> float:
        return min(self.own, self.shared)

    @classmethod
    def of(cls, counts_CL: NDArray[np.int64]) -> _OwnAndShared:
        """Args: how often each level occurs in each channel, int64 (C, L)."""
        return cls(*(_HEAD.size + _entropy_bytes(counts) for counts in (counts_CL, counts_CL.sum(0, keepdims=True))))


def _entropy_bytes(counts_RL: NDArray[np.int64]) -> float:
    """Of tables and levels, where row r has a table and ``counts_RL[r, l]`` times the level l."""
    occurs_RL = counts_RL > 0
    spans_R = occurs_RL.shape[1] - occurs_RL.argmax(1) - occurs_RL[:, ::-1].argmax(1)
    numbers = counts_RL.sum(1)
    bits = (numbers * np.log2(numbers)).sum() - (counts_RL * np.log2(np.maximum(counts_RL, 1))).sum()
    return float(bits / 8 + sum(map(table_bytes, spans_R.tolist())))


def _quantise(
    values_CN: NDArray[np.float32], rung: int, marks_B: NDArray[np.bool_] | None
) -> tuple[NDArray[np.intp], int, NDArray[np.int64]]:
    """Symbols (C, N) from 0, the level or difference that 0 stands for, how often each is in each channel (C, L)."""
    levels_CN = np.rint(values_CN / _STEPS[rung]).astype(np.intp)
    if marks_B is not None:
        levels_CN = differences(levels_CN.reshape(len(levels_CN), len(marks_B), -1), marks_B).reshape(values_CN.shape)
    counts_CL, low = _counts(levels_CN)
    return levels_CN - low, low, counts_CL


def _counts(levels_CN: NDArray[np.intp]) -> tuple[NDArray[np.int64], int]:
    """How often each level occurs in each channel, int64 (C, L), and the lowest level."""
    low = int(levels_CN.min())
    channels, width = len(levels_CN), int(levels_CN.max()) - low + 1
    places_CN = levels_CN + (np.arange(channels)[:, None] * width - low)
    return np.bincount(places_CN.reshape(-1), minlength=channels * width).reshape(channels, width), low


def _written(levels_CN: NDArray[np.intp], low: int, counts_CL: NDArray[np.int64], rung: int, marks: bytes) -> bytes:
    """The payload."""
    sizes = _OwnAndShared.of(counts_CL)
    own = sizes.own < sizes.shared
    counts_RL = counts_CL if own else counts_CL.sum(0, keepdims=True)
    tables = [fit_table(counts, low) for counts in counts_RL]
    lows_R1 = np.array([table.low - low for table in tables])[:, None]
    symbols_RN = levels_CN.reshape(len(tables), -1) - lows_R1
    body = marks + b"".join(table.to_bytes() for table in tables)
    body += encode(symbols_RN, [table.frequencies for table in tables])
    return _HEAD.pack(rung | _OWN_TABLES * own, _HEAD.size + len(body) & 0xFF) + body
