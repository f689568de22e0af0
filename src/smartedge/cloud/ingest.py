"""Takes frames in: refuses what does not belong to the run, decodes each frame once, and appends it to the log.

:class:`Handover` holds what the threads of the link and the training thread share.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from smartedge.cloud.store import FeatureLog
from smartedge.codec import unpack_frame
from smartedge.config import Config
from smartedge.errors import FrameError, RunError
from smartedge.files import sync_folder
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.runs.progress import Monitor, Update
from smartedge.types import FeatureBatch, Frame, StreamHeader
from smartedge.wire.frame import ReceivedFrame

__all__ = ["CLOSED", "Decoded", "Handover", "Ingest"]

CLOSED = "closed"  # a file in the cloud's folder: the edge's last stream was confirmed
_KEPT_BYTES = 64 * 2**20

Found = TypeVar("Found")


class Decoded(NamedTuple):
    """A decoded frame."""

    batch: FeatureBatch
    seconds: float  # that decoding took


class Handover:
    """The state that the link's threads and the training thread share. Hold ``changed`` while you use it.

    Args:
        kept_bytes: how many bytes of decoded features may wait in memory. Other frames are read from the log and
            decoded again. This happens where training is slower than the link, or the log is large.
    """

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self.changed = threading.Condition()
        self.learned = 0  # every frame before this one was learned from
        self.stream: StreamHeader | None = None  # the open one
        self.closed = False  # the last stream is in, and the edge knows it
        self.answers: dict[int, Frame] = {}
        self.failure: BaseException | None = None  # of training
        self._kept: dict[int, Decoded] = {}
        self._room = kept_bytes

    def keep(self, seq: int, decoded: Decoded) -> None:
        """Keep a decoded frame, where there is room."""
        size = int(decoded.batch.features_BF.nbytes)
        if size <= self._room and seq not in self._kept:
            self._room -= size
            self._kept[seq] = decoded

    def kept(self, seq: int) -> Decoded | None:
        """The decoded frame, where it is kept."""
        return self._kept.get(seq)

    def drop(self, seq: int) -> None:
        """Drop a frame that is not needed again."""
        if (decoded := self._kept.pop(seq, None)) is not None:
            self._room += int(decoded.batch.features_BF.nbytes)

    def go_back(self, seq: int) -> None:
        """Forget frame ``seq`` and all later ones: they come again."""
        for later in [each for each in self._kept if each >= seq]:
            self.drop(later)
        self.answers.clear()
        self.learned = seq

    def wait(self, until: Callable[[], Found | None]) -> Found:
        """Wait until ``until`` returns a true value, and return it.

        Raises:
            RunError: training has failed.
        """
        while not (found := until()):
            self.raise_failure()
            self.changed.wait(timeout=1.0)
        return found

    def raise_failure(self) -> None:
        """Raise where training has failed."""
        if self.failure is not None:
            raise RunError(f"the cloud's training has failed: {self.failure}")


class Ingest:
    """The cloud's end of the link (a :class:`smartedge.wire.link.FrameHandler`).

    The link has checked the frame against its stream header. Only decoding can check the payload. So a frame is decoded
    before it is appended: the log never holds a payload that cannot be decoded, and its sender gets an error.

    Training takes the decoded batch from :class:`Handover`. So a frame is decoded once where training keeps up with
    the link. With schedule ``freeze-and-log`` decoded batches stay in memory for all epochs; those for which there is
    no room are decoded again in each epoch, from the disk.

    Args:
        config: the run's settings, equal to the edge's in all that both must agree on.
        folder: the cloud's folder of the run.
        log: where frames go.
        feature_shape: F of what the back takes.
        handover: shared with the thread that trains.
        monitor: takes progress updates.
        begin: called with the header of each stream before the stream is recorded; it may refuse the stream.
        learn: trains on the frames that have come, in the same thread. None: another thread trains when it is notified.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        log: FeatureLog,
        feature_shape: tuple[int, ...],
        handover: Handover,
        monitor: Monitor,
        *,
        begin: Callable[[StreamHeader], None],
        learn: Callable[[], None] | None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._log = log
        self._feature_shape = feature_shape
        self._handover = handover
        self._monitor = monitor
        self._begin = begin
        self._learn = learn
        self._method, self._schedule = get_method(config.method), get_schedule(config.schedule)
        self._order = list(self._schedule.streams(config))
        handover.closed = (folder / CLOSED).exists()

    def accept(self, edge: str, header: StreamHeader) -> int:
        """Accept a stream, or refuse one that does not belong to this run. A refusal changes nothing.

        Raises:
            RunError: settings differ between the sides, or the log belongs to another run.
            FrameError: the header contradicts the settings, or frames are missing before this stream.
        """
        self._check_agreement(header)
        with self._handover.changed:
            first = self._log.streams[0] if self._log.streams else header
            if _constants(header) != _constants(first):
                raise RunError(f"{self._folder}: the log belongs to another run; choose another run_dir for this one")
            self._check_order(header)
            self._begin(header)
            self._log.add_stream(header)
            self._handover.stream = header
            self._handover.answers.clear()  # of frames that were sent again
            self._handover.changed.notify_all()
        return header.first_seq  # the log knows repetitions, and refuses those that differ

    def ingest(self, edge: str, header: StreamHeader, frame: ReceivedFrame) -> Frame | None:
        """Append a frame. Where frames are answered, wait for the answer; else wait where training is too far behind.

        Raises:
            CodecError: its payload cannot be decoded.
        """
        begun = time.perf_counter()
        batch = unpack_frame(frame, header)
        handover = self._handover
        with handover.changed:
            handover.raise_failure()
            self._log.append(frame)
            if frame.seq >= handover.learned:
                handover.keep(frame.seq, Decoded(batch, time.perf_counter() - begun))
            self._tell()
            if header.answered:
                return handover.wait(lambda: handover.answers.pop(frame.seq, None))
            if not self._schedule.once:
                most = self._config.link.max_lead_frames
                handover.wait(lambda: self._log.next_seq - handover.learned <= most)
        return None

    def finish(self, edge: str, header: StreamHeader) -> None:
        """All frames of the stream are in: make them durable. In split learning, wait until they are learned from."""
        handover = self._handover
        with handover.changed:
            self._log.sync()
            if self._method.answered:
                handover.wait(lambda: handover.learned >= header.end_seq)
            handover.stream = None
            if header.split == "test":
                (self._folder / CLOSED).touch()
                sync_folder(self._folder)
                handover.closed = True
            self._tell()

    def abort(self, edge: str, header: StreamHeader) -> None:
        """The stream broke off. The appended frames stay, and the edge may come back."""
        with self._handover.changed:
            self._handover.stream = None
            self._handover.changed.notify_all()
        self._monitor.update(Update("cloud", "link", text="the edge went away; waiting for it to come back"))

    def _tell(self) -> None:
        if self._learn is not None:
            self._learn()
        else:
            self._handover.changed.notify_all()

    def _check_agreement(self, header: StreamHeader) -> None:
        mine = self._config.agreement()
        try:
            theirs = json.loads(header.agreement)
        except ValueError as error:
            raise FrameError("the stream header's settings are not JSON") from error
        if theirs != mine:
            keys = ", ".join(_differences(mine, theirs)) or "their form"
            raise RunError(f"edge and cloud were started with different settings ({keys}); give both the same config")
        said = (header.codec, header.batch_size, header.feature_dtype, header.labels)
        if said != (self._config.codec_name, self._config.train.batch_size, self._method.wire_dtype, True):
            raise FrameError(f"the stream header says {said}, which its own settings contradict")
        shape = self._feature_shape
        if header.feature_shape != shape:
            raise FrameError(f"the edge sends tensors of shape {header.feature_shape}, but this cut gives {shape}")
        if header.answer_shape != (shape if self._method.answered and header.split == "train" else None):
            raise RunError(f"method {self._config.method!r} does not give the answers that this stream asks for")

    def _check_order(self, header: StreamHeader) -> None:
        """Refuse a stream that is neither the next one of the run nor one that the log has begun."""
        known = self._log.streams
        if header.first_seq > self._log.next_seq:
            raise FrameError(
                f"the stream begins at frame {header.first_seq}, but frame {self._log.next_seq} is missing"
            )
        if header in known:
            return
        if header.answered:  # the edge may go back to a checkpoint, and its later streams come again
            known = [stream for stream in known if stream.first_seq < header.first_seq]
        if len(known) == len(self._order):
            raise FrameError("the run is complete, but another stream is offered")
        first_seq = known[-1].end_seq if known else 0
        mine = (*self._order[len(known)], first_seq)
        theirs = (header.epoch, header.split, header.first_seq)
        if theirs != mine:
            raise FrameError(f"the next stream must be (epoch, split, first frame) {mine}, but {theirs} is offered")
        whole_epoch = not self._schedule.once and header.split == "train"
        if header.frames < 1 or (whole_epoch and header.frames != header.train_steps):
            raise FrameError(f"the stream says that it carries {header.frames} frames, which cannot be")


def _constants(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one run, beyond the settings."""
    return header.run, header.feature_shape, header.feature_dtype, header.task_kind, header.outputs, header.train_steps


def _differences(mine: object, theirs: object, path: str = "") -> Iterator[str]:
    """Each setting that differs, with both values."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(mine.keys() | theirs.keys()):
            yield from _differences(mine.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
    elif mine != theirs:
        yield f"{path}: {theirs!r} at the edge, {mine!r} here"
