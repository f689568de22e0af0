"""One run as the cloud sees it: accepts streams, logs frames, trains the back as they come."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from torch import nn

from smartedge.artifacts.summary import CloudSummary, Session
from smartedge.cloud.store import FeatureLog
from smartedge.cloud.trainer import BackTrainer
from smartedge.codec import unpack_frame
from smartedge.config import Config
from smartedge.errors import FrameError, RunError
from smartedge.files import sync_folder
from smartedge.models import zoo
from smartedge.models.network import divide
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.machine import peak_rss_bytes, pick_device
from smartedge.runs.progress import Monitor, Update
from smartedge.types import Frame, SplitName, StreamHeader
from smartedge.wire.frame import ReceivedFrame

__all__ = ["CLOSED", "CloudSession"]

CLOSED = "closed"  # a file in the cloud's folder: the edge's last stream was confirmed


class CloudSession:
    """Takes frames from a link (it is a :class:`smartedge.wire.link.FrameHandler`) and trains on them.

    Args:
        config: the run's settings, equal to the edge's in all that both must agree on.
        folder: the cloud's folder of the run.
        monitor: takes progress updates.
        resume: continue with the log and the newest checkpoint that ``folder`` holds.
        inline: train inside :meth:`ingest` and :meth:`finish` (one process). Otherwise :meth:`run` trains, in the
            thread that calls it, while the link's threads ingest.

    Raises:
        RunError: ``folder`` holds a run already and ``resume`` is not set.
    """

    def __init__(self, config: Config, folder: Path, monitor: Monitor, *, resume: bool, inline: bool) -> None:
        if not resume:
            if (folder / "log" / "streams.jsonl").exists():
                raise RunError(f"{folder}: holds a run already; continue it with --resume, or choose another run_dir")
            # A network that cannot be built or cut is an error now, not when the first edge connects; and what takes
            # time at the first call (imports, warm-up) is not on the edge's time.
            _back(config, outputs=2)
        folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.folder = folder
        self.monitor = monitor
        self.resume = resume
        self.inline = inline
        self.log = FeatureLog(folder / "log")
        self.trainer: BackTrainer | None = None
        self.started = time.time()
        self._stream: StreamHeader | None = None
        self._changed = threading.Condition()
        self._replies: dict[int, Frame] = {}
        self._failure: BaseException | None = None
        self._closed = (folder / CLOSED).exists()  # the edge knows that its last frame is durable here
        if resume and self.log.streams:
            self._prepare(self.log.streams[0])
        self._first_epoch = self.trainer.epoch if self.trainer else 0

    # -- what the link calls

    def accept(self, header: StreamHeader) -> None:
        """Refuse what does not belong to this run, before any of its frames is looked at.

        Raises:
            RunError: settings differ between the sides, or the log belongs to another run.
            FrameError: frames are missing before this stream.
        """
        self._check_agreement(header)
        answered = self.config.method == "split" and header.split == "train"
        if header.answered != answered or not header.labels:
            raise RunError(f"method {self.config.method!r} does not use this kind of stream")
        with self._changed:
            if self.log.streams and _constants(header) != _constants(self.log.streams[0]):
                raise RunError(f"{self.folder}: the log belongs to another run; choose another run_dir for this one")
            self._prepare(header)
            assert self.trainer is not None
            if header.answered and header.first_seq != self.trainer.next_seq:
                if not self.trainer.rewind(header.first_seq):
                    raise RunError(
                        f"the edge wants to go on at frame {header.first_seq}, but no checkpoint of the cloud is "
                        "there; start a new run"
                    )
                self.log.truncate(header.first_seq)
            self._check_order(header)
            self.log.add_stream(header)
            self._stream = header
            self._replies.clear()  # of frames that were sent again
            self._changed.notify_all()

    def ingest(self, header: StreamHeader, frame: ReceivedFrame) -> Frame | None:
        """Log a frame; in split learning, wait for the gradient and give it back.

        Raises:
            CodecError: its payload is no such features; it is not logged then.
        """
        unpack_frame(frame, header)
        with self._changed:
            self._raise_failure()
            self.log.append(frame)
            if self.inline:
                return self._catch_up(frame, header) if self._follows else None
            self._changed.notify_all()
            if header.answered:
                while frame.seq not in self._replies:
                    self._raise_failure()
                    self._changed.wait(timeout=1.0)
                return self._replies.pop(frame.seq)
            if self._follows:
                assert self.trainer is not None
                while self.log.next_seq - self.trainer.next_seq > self.config.link.max_lead_frames:
                    self._raise_failure()
                    self._changed.wait(timeout=1.0)
        return None

    def finish(self, header: StreamHeader) -> None:
        """All frames of the stream are in: make them durable."""
        with self._changed:
            self.log.sync()
            if self.config.method == "split" and not self.inline:
                assert self.trainer is not None
                while self.trainer.next_seq < header.end_seq:
                    self._raise_failure()
                    self._changed.wait(timeout=1.0)
            self._stream = None
            if header.split == "test":
                (self.folder / CLOSED).touch()
                sync_folder(self.folder)
                self._closed = True
            self._changed.notify_all()
        if self.inline and self._closed and not self._follows:
            assert self.trainer is not None
            self.trainer.train_from_log(self.log)

    def abort(self, header: StreamHeader) -> None:
        """The stream broke off; what was logged stays, and the edge may come back."""
        with self._changed:
            self._stream = None
            self._changed.notify_all()
        self.monitor.update(Update("cloud", "link", text="the edge went away; waiting for it to come back"))

    # -- what the main thread calls

    def run(self, stop: threading.Event) -> bool:
        """Train until the run is complete (True) or ``stop`` is set (False)."""
        try:
            if not self._follows:
                return self._run_from_log(stop)
            while True:
                with self._changed:
                    while not (stop.is_set() or self._frame_waits() or self._done()):
                        self._changed.wait(timeout=0.2)
                    if stop.is_set() or not self._frame_waits():
                        return self._done()
                    assert self.trainer is not None
                    seq = self.trainer.next_seq
                    frame, header = self.log.frame(seq), self.log.header_of(seq)
                reply = self._consume(frame, header)
                with self._changed:
                    if reply is not None:
                        self._replies[seq] = reply
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise

    def close(self) -> CloudSummary:
        """Write weights and summary, close files; returns the summary."""
        trainer = self.trainer
        summary = CloudSummary(
            finished=bool(trainer and trainer.finished),
            session=Session(
                started=self.started,
                ended=time.time(),
                epochs=trainer.epoch - self._first_epoch if trainer else 0,
            ),
            busy_seconds=trainer.busy if trainer else 0.0,
            test=trainer.test if trainer else None,
            frames=self.log.next_seq,
            peak_rss_bytes=None if self.inline else peak_rss_bytes(),
        )
        if trainer is not None:
            save_weights(self.folder / "back.safetensors", trainer.back.state_dict())
            trainer.recorder.close()
        summary.write(self.folder / "summary.json")
        self.log.close()
        return summary

    # -- inside

    def _catch_up(self, frame: Frame, header: StreamHeader) -> Frame | None:
        """Learn from every logged frame before this one that was not learned from yet, and from it; the answer to it.

        A run that was stopped within an epoch has logged more than its newest checkpoint has learned from.
        """
        assert self.trainer is not None
        while (seq := self.trainer.next_seq) < frame.seq:
            self._consume(self.log.frame(seq), self.log.header_of(seq))
        return self._consume(frame, header) if seq == frame.seq else None

    @property
    def _follows(self) -> bool:
        """Whether every frame is learned from once, as it comes; otherwise all of them again and again, at the end."""
        return self.config.schedule != "freeze-and-log"

    def _done(self) -> bool:
        return self._closed and self.trainer is not None and self.trainer.finished

    def _frame_waits(self) -> bool:
        if self.trainer is None or self.trainer.next_seq >= self.log.next_seq:
            return False
        return self.config.method != "split" or self._stream is not None

    def _run_from_log(self, stop: threading.Event) -> bool:
        with self._changed:
            while not self._closed:
                if stop.is_set():
                    return False
                self._changed.wait(timeout=0.2)
        assert self.trainer is not None
        if not self.trainer.finished:
            self.trainer.train_from_log(self.log, stop=stop)
        return self.trainer.finished

    def _consume(self, frame: Frame, header: StreamHeader) -> Frame | None:
        assert self.trainer is not None
        batch = self.trainer.consume(frame, header)
        return None if batch is None else Frame(frame.seq, batch)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RunError(f"the cloud's training has failed: {self._failure}")

    def _prepare(self, header: StreamHeader) -> None:
        if self.trainer is not None:
            return
        back, shape = _back(self.config, header.outputs)
        if shape != header.feature_shape:
            raise FrameError(f"the edge sends tensors of shape {header.feature_shape}, but this cut gives {shape}")
        self.trainer = BackTrainer(
            self.config,
            back,
            device=pick_device(self.config.hardware.cloud_device, "hardware.cloud_device"),
            folder=self.folder,
            monitor=self.monitor,
            resume=self.resume,
        )

    def _check_agreement(self, header: StreamHeader) -> None:
        mine = self.config.agreement()
        try:
            theirs = json.loads(header.agreement)
        except ValueError as error:
            raise FrameError("the stream header's settings are not JSON") from error
        if theirs != mine:
            keys = ", ".join(_differences(mine, theirs)) or "their form"
            raise RunError(f"edge and cloud were started with different settings ({keys}); give both the same config")
        said = (header.codec, header.batch_size)
        if said != (self.config.codec_name, self.config.train.batch_size):
            raise FrameError(f"the stream header says {said}, which its own settings contradict")

    def _check_order(self, header: StreamHeader) -> None:
        """A stream is the next one of the run, or one that is here already, wholly or in part."""
        if header.first_seq > self.log.next_seq:
            raise FrameError(f"the stream begins at frame {header.first_seq}, but frame {self.log.next_seq} is missing")
        known = self.log.streams
        if header in known:
            return
        order = _order_of_streams(self.config)
        if len(known) == len(order):
            raise FrameError("the run is complete, but another stream is offered")
        first_seq = known[-1].end_seq if known else 0
        mine = (*order[len(known)], first_seq)
        theirs = (header.epoch, header.split, header.first_seq)
        if theirs != mine:
            raise FrameError(f"the next stream must be (epoch, split, first frame) {mine}, but {theirs} is offered")
        whole_epoch = self._follows and header.split == "train"
        if header.frames < 1 or (whole_epoch and header.frames != header.train_steps):
            raise FrameError(f"the stream says that it carries {header.frames} frames, which cannot be")


def _back(config: Config, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The cloud's part of the network and the shape that it takes."""
    if config.method == "upload":
        return zoo.build(**config.whole(outputs)), (3, config.data.image_size, config.data.image_size)
    divided = divide(config.division(outputs))
    return divided.back, divided.feature_shape


def _constants(header: StreamHeader) -> tuple[object, ...]:
    """What all streams of one run have in common, beyond the settings."""
    return header.run, header.feature_shape, header.feature_dtype, header.task_kind, header.outputs, header.train_steps


def _order_of_streams(config: Config) -> list[tuple[int, SplitName]]:
    """Epoch and split of every stream of a run. Epochs are the edge's: those of a front that learns first count."""
    first = config.front_epochs if config.front_first else 0
    if config.schedule == "freeze-and-log":
        return [(first, "train"), (first, "val"), (first, "test")]
    order: list[tuple[int, SplitName]] = []
    for epoch in range(first, first + config.epochs):
        order += [(epoch, "train"), (epoch, "val")]
    return [*order, (first + config.epochs - 1, "test")]


def _differences(mine: Any, theirs: Any, path: str = "") -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted(mine.keys() | theirs.keys())
        return [d for key in keys for d in _differences(mine.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))]
    return [] if mine == theirs else [f"{path}: {theirs!r} at the edge, {mine!r} here"]
