"""What the threads of the link and the training thread share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from smartedge.cloud.intake import Intake
from smartedge.errors import LinkError, LogError, RunError
from smartedge.files import disk_error, is_disk_error, system_error
from smartedge.types import FeatureBatch, Frame
from smartedge.wire.slots import about_to_wait

__all__ = ["Decoded", "FrameGone", "FrameKey", "Handover", "disk_is_of_the_log"]

Found = TypeVar("Found")
FrameKey = tuple[str, int]  # edge, and number of a frame of it


class FrameGone(Exception):
    """A frame was to be learned from, and its log has lost it: the disk did not take it. Its edge sends it again."""


class Decoded(NamedTuple):
    """A decoded frame."""

    batch: FeatureBatch
    seconds: float  # that decoding took


@contextmanager
def disk_is_of_the_log() -> Iterator[None]:
    """Inside, whatever file the disk fails for: edges wait, as for a cloud that is away. Also for use as a decorator.

    Raises:
        LogError: the disk did not take it.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise LogError(f"{error.filename or 'the run directory'}: {disk_error(error)}") from error


class Handover:
    """The state that the link's threads and the training thread share. Hold ``changed`` while you use it.

    Args:
        kept_bytes: how many bytes of decoded features may wait in memory. Other frames are read from the log and
            decoded again. This happens where training is slower than the link, or the log is large.
        trains_here: False: other processes train, and how far they are is not known here.
    """

    def __init__(self, kept_bytes: int = 0, *, trains_here: bool = True) -> None:
        self.trains_here = trains_here
        self.changed = threading.Condition()
        self.intakes: dict[str, Intake] = {}  # of the edges that have sent a frame
        self.learned: dict[str, int] = {}  # edge -> every frame of it before this one was used
        self.complete = False  # nothing more is taken in
        self.quarantined: dict[str, int] = {}  # edge -> the frame on which training failed
        self.answers: dict[int, Frame] = {}
        self.failure: BaseException | None = None  # of training
        self.stopping = False  # the cloud is about to end
        self._kept: dict[FrameKey, Decoded] = {}
        self._room = kept_bytes

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The block trains, or waits for those that do. When it ends the cloud ends, and edges that wait hear why."""
        try:
            yield
        except BaseException as error:
            with self.changed:
                self.failure = error
            raise
        finally:
            with self.changed:
                self.stopping = True
                self.changed.notify_all()

    def keep(self, key: FrameKey, decoded: Decoded) -> None:
        """Keep a decoded frame, where there is room."""
        size = int(decoded.batch.features_BF.nbytes)
        if size <= self._room and key not in self._kept:
            self._room -= size
            self._kept[key] = decoded

    def kept(self, key: FrameKey) -> Decoded | None:
        """The decoded frame, where it is kept."""
        return self._kept.get(key)

    def drop(self, key: FrameKey) -> None:
        """Drop a frame that is not needed again."""
        if (decoded := self._kept.pop(key, None)) is not None:
            self._room += int(decoded.batch.features_BF.nbytes)

    def go_back(self, edge: str, seq: int) -> None:
        """Forget frame ``seq`` of an edge and all later ones: they come again."""
        for later in [each for each in self._kept if each[0] == edge and each[1] >= seq]:
            self.drop(later)
        self.answers.clear()
        self.learned[edge] = seq
        self.complete = False

    def wait(self, until: Callable[[], Found | None]) -> Found:
        """Wait until ``until`` returns a true value, and return it.

        Raises:
            RunError: training has failed.
            LinkError: the cloud is about to end.
        """
        while not (found := until()):
            self.raise_failure()
            if self.stopping:
                raise LinkError("the cloud was stopped; it may come back")
            about_to_wait()
            self.changed.wait(timeout=1.0)
        return found

    def raise_failure(self) -> None:
        """Raise where training has failed.

        Raises:
            LogError: disk or memory did not suffice, or the disk gave back other files. Edges wait, as for a cloud that
                is away.
            RunError: for any other reason.
        """
        if self.failure is None:
            return
        if (refused := system_error(self.failure)) is not None:  # it may have room again
            raise LogError(f"the cloud's machine does not take more: {disk_error(refused)}")
        if isinstance(self.failure, LogError):  # the same, or what is damaged may be restored
            raise LogError(f"the cloud's training cannot go on: {self.failure}")
        raise RunError(f"the cloud's training has failed: {self.failure}")
