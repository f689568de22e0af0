"""What the cloud refuses: settings, edges and streams that do not belong to its run."""

from __future__ import annotations

from collections.abc import Mapping

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.same_run import agreed, facts_of_edge, facts_of_run, of_another_run
from smartedge.cloud.intake import Intake
from smartedge.config import Config
from smartedge.errors import FrameError, RunError
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.types import StreamHeader

__all__ = ["Refusals"]


class Refusals:
    """A method for each thing that may be wrong: it raises an error where it refuses, and changes nothing.

    Hold ``handover.changed``.

    Args:
        config: the run's settings.
        shapes: cut → shape F of what an edge with that cut sends.
        handover: knows the edges, and whether the run is complete.
    """

    def __init__(self, config: Config, shapes: Mapping[str, tuple[int, ...]], handover: Handover) -> None:
        self._config = config
        self._shapes = shapes
        self._handover = handover
        self._method, self._schedule = get_method(config.method), get_schedule(config.schedule)
        self._order = list(self._schedule.streams(config))

    def settings(self, header: StreamHeader) -> None:
        """Refuse a stream whose settings are not the run's, or whose header contradicts them.

        Raises:
            RunError: settings differ between the sides, or the method does not give the answers asked for.
            FrameError: the header contradicts its settings.
        """
        own = agreed(self._config, header.agreement)
        said = (header.codec, header.batch_size, header.feature_dtype, header.labels)
        if said != (own.codec_name, own.train.batch_size, self._method.wire_dtype, True):
            raise FrameError(f"the stream header says {said}, which its own settings contradict")
        desired = self._config.data.desired
        if not isinstance(desired, str) and (header.task_kind, header.outputs) != ("multi", len(desired)):
            raise FrameError(
                f"the stream header says {header.outputs} outputs; data.desired has {len(desired)} columns"
            )
        shape = self._shapes[own.model.cut]
        if header.feature_shape != shape:
            raise FrameError(f"the edge sends tensors of shape {header.feature_shape}, but this cut gives {shape}")
        if header.answer_shape != (shape if self._method.answered and header.split == "train" else None):
            raise RunError(f"method {self._config.method!r} does not give the answers that this stream asks for")

    def place(self, intake: Intake) -> None:
        """Refuse an edge for which the run has no place.

        Raises:
            RunError: it has none.
        """
        expected, known = self._config.fleet.expect, self._handover.intakes
        if (failed := self._handover.quarantined.get(intake.edge)) is not None:
            raise RunError(
                f"edge {intake.edge!r} is in quarantine: training failed on its frame {failed}. The run goes on "
                "without it; look for the fault, and let the edge take part in the next run"
            )
        if self._handover.complete and not intake.sent_all:
            raise RunError("the run is complete, and goes on with what came before")
        if isinstance(expected, tuple):
            if intake.edge not in expected:
                raise RunError(f"edge {intake.edge!r} is not one of those that this run expects (fleet.expect)")
        elif expected is not None and intake.edge not in known and len(known) >= expected:
            raise RunError(
                f"edge {intake.edge!r}: this run takes {expected} edge{'s' * (expected > 1)} (fleet.expect), and has "
                f"{', '.join(sorted(known))}"
            )

    def run(self, intake: Intake, header: StreamHeader) -> None:
        """Refuse a stream of another run, or one whose facts differ from those of the other edges.

        Raises:
            RunError: it is such a one.
        """
        if intake.streams and facts_of_edge(header) != facts_of_edge(intake.streams[0]):
            raise of_another_run(intake)
        other = next((each.streams[0] for each in self._handover.intakes.values() if each.streams), header)
        if facts_of_run(header) != facts_of_run(other):
            raise RunError(
                f"edge {intake.edge!r} learns another task than the other edges: {header.outputs} outputs "
                f"({header.task_kind}), and they have {other.outputs} ({other.task_kind})"
            )

    def order(self, intake: Intake, header: StreamHeader, *, one_way: bool) -> None:
        """Refuse a stream that is neither the next one of the edge nor one that its log has begun.

        Over a link without a way back (``one_way``), whole streams may have been lost before it.

        Raises:
            FrameError: it is such a one.
        """
        known = intake.streams
        if one_way and self._schedule.once and header not in known:
            place = (header.epoch, header.split)
            if place not in self._order[len(known) :] or header.first_seq < intake.next_seq or header.frames < 1:
                raise FrameError(f"a stream of (epoch, split) {place} from frame {header.first_seq} on is not awaited")
            return
        if header.first_seq > intake.next_seq:
            raise FrameError(f"the stream begins at frame {header.first_seq}, but frame {intake.next_seq} is missing")
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
