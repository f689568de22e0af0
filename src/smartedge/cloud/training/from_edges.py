"""Learns from several edges while their frames come (schedules ``joint`` and ``two-stage``).

Frames of one edge are used in their order, each once. A window is up to ``fleet.mix`` frames, drawn fairly over the
edges (:mod:`smartedge.cloud.order.share`). Its images are shuffled together and learned from in as many steps as it has
frames. What is done next is written to the journal before it is done. The test images, and the validation images of
an edge's last epoch, are kept until nothing more is learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from smartedge.artifacts.fleet_run import OrderLine
from smartedge.cloud.batches import features_of, join, take
from smartedge.cloud.handover import FrameGone, FrameKey, Handover
from smartedge.cloud.intake import Intake
from smartedge.cloud.order.influence import Influence
from smartedge.cloud.order.journal import Journal, JournalCopy
from smartedge.cloud.order.share import FairShare, capped
from smartedge.cloud.trainer import BackTrainer
from smartedge.cloud.training import mixed
from smartedge.config import Config
from smartedge.errors import RunError
from smartedge.files import system_error
from smartedge.methods.schedules import get_schedule
from smartedge.runs.seeds import derive_seed
from smartedge.types import FeatureBatch, StreamHeader

__all__ = ["Mixing", "WindowError"]


class WindowError(Exception):
    """Training failed on a window of frames.

    Attributes:
        frames: edge and number of each.
    """

    def __init__(self, frames: list[FrameKey], reason: str) -> None:
        super().__init__(reason)
        self.frames = frames


class Mixing:
    """Chooses what the trainer does next, writes it down, and does it.

    Args:
        config: the run's settings.
        handover: shared with the link's threads.
        journal: of the order.
        influence: the figures of the edges; says who is capped.
    """

    def __init__(
        self, config: Config, handover: Handover, journal: Journal | JournalCopy, influence: Influence
    ) -> None:
        self._config = config
        self._handover = handover
        self._journal = journal
        self._share = FairShare()
        self.influence = influence
        self._announced: dict[str, StreamHeader] = {}  # edge that joined -> its first stream's header
        self._cursors: dict[str, int] = {}  # edge -> its next frame
        self.checkpointed: dict[str, int] = {}  # edge -> its next frame, when the newest checkpoint was written
        self._silent: dict[str, float] = {}  # edge -> since when it has nothing to give
        self._begun: float | None = None  # since when any edge has something to give
        self._last_epoch = max(epoch for epoch, _ in get_schedule(config.schedule).streams(config))
        self._trainer: BackTrainer | None = None
        self._chosen: OrderLine | None = None
        handover.quarantined |= dict(line.quarantined for line in self._journal.lines if line.quarantined is not None)

    def quarantine(
        self, trainer: BackTrainer, failed: WindowError, read: Callable[[FrameKey], FeatureBatch]
    ) -> list[FrameKey]:
        """Find the frames of a window on which training fails, and use none of their edges from there on.

        Args:
            trainer: in the state of its newest checkpoint; :meth:`follow` has been called with it.
            failed: the window.
            read: gives the decoded batch of a frame.

        Returns:
            The frames.

        Raises:
            RunError: training fails on no frame alone. So it has diverged, and no edge is to blame.
        """
        guilty = [key for key in failed.frames if not mixed.can_learn(trainer, read(key))]
        if not guilty:
            raise RunError(f"training has failed ({failed}), on no frame alone: start a new run with a lower train.lr")
        for edge, seq in guilty:
            if edge not in self._handover.quarantined:
                self._journal.append(OrderLine(check=0, quarantined=(edge, seq)))
                with self._handover.changed:
                    self._handover.quarantined[edge] = seq
        return guilty

    def _is_used(self, key: FrameKey) -> bool:
        """Whether a frame is there and not in quarantine. A link without a way back may have lost it."""
        edge, seq = key
        failed, log = self._handover.quarantined.get(edge), self._handover.intakes[edge].log
        return (failed is None or seq < failed) and log is not None and log.came(seq)

    def follow(self, trainer: BackTrainer) -> None:
        """Go to the line of the journal at which the trainer is.

        Raises:
            RunError: the journal is shorter than that.
        """
        if trainer.next_seq > len(self._journal.lines):
            raise RunError(
                f"{self._journal.path}: has {len(self._journal.lines)} lines, and the checkpoint was written after "
                f"{trainer.next_seq}; restore the file from a copy, or start a new run"
            )
        self._trainer, self._chosen = trainer, None
        self._announced.clear()
        self._cursors.clear()
        for line in self._journal.lines[: trainer.next_seq]:
            self._note(line)
            if line.frames is not None:
                self.influence.capped = line.capped or ()

    def next(self) -> OrderLine | None:
        """What is to be done next; None: nothing yet. Hold ``handover.changed``."""
        trainer = self._trainer
        if trainer is None:
            return None
        if self._chosen is None:
            lines = self._journal.lines
            if trainer.next_seq < len(lines):
                line = lines[trainer.next_seq]
                self._chosen = line if self._has_come(line) else None
            else:
                self._chosen = self._choose()
        return self._chosen

    def take(self, line: OrderLine, read: Callable[[FrameKey], FeatureBatch]) -> None:
        """Do what :meth:`next` gave. ``read`` gives the decoded batch of a frame.

        Raises:
            FrameGone: a frame is not there any more. Nothing was learned, and the line waits until it has come again.
        """
        trainer = self._trainer
        assert trainer is not None
        if trainer.next_seq == len(self._journal.lines):
            self._journal.append(line)
        if line.frames is not None:
            self._learn(trainer, line, *self._read(line, read))
        elif line.evaluated is not None:
            for key in filter(self._is_used, _keys(line.evaluated)):
                mixed.validate(trainer, read(key))
        elif line.closed:
            self._finish(trainer, read)
        with self._handover.changed:
            self._note(line)
            trainer.next_seq += 1
            self._chosen = None
            self._handover.changed.notify_all()
        if line.closed:
            trainer.save()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    # -- choosing

    def _choose(self) -> OrderLine | None:
        """The next line of the journal; None where there is nothing to do yet."""
        intakes = self._handover.intakes
        for edge in sorted(intakes.keys() - self._announced.keys()):
            return OrderLine(check=0, joined=edge)
        for edge, intake in sorted(intakes.items()):
            header = self._header(intake)
            if header is None or header.split != "val" or self._kept_for_the_end(header):
                continue
            if intake.log is not None and intake.log.durable >= header.end_seq:
                return OrderLine(check=0, evaluated=(edge, header.first_seq, header.end_seq - 1))
        ready = {edge: self._ready_frames(intake) for edge, intake in intakes.items()}
        if any(ready.values()) and not self._waits_for_others(ready):
            drawn = self._share.draw(ready, self._weights(), self._config.fleet.mix)
            ahead = dict(self._cursors)
            frames = []
            for edge in drawn:
                frames.append((edge, ahead[edge]))
                ahead[edge] += 1
            return OrderLine(check=0, frames=tuple(frames), capped=self.influence.capped or None)
        if self._handover.complete and not any(ready.values()):
            return OrderLine(check=0, closed=True)
        return None

    def _weights(self) -> dict[str, float]:
        """Edge → its share of the frames. Frames may hold different numbers of images, so shares are of images."""
        size = {edge: header.batch_size for edge, header in self._announced.items()}
        images = {edge: header.train_steps * size[edge] for edge, header in self._announced.items()}
        return {edge: weight / size[edge] for edge, weight in capped(images).items()}

    def _ready_frames(self, intake: Intake) -> int:
        """How many training frames of an edge are there, from its cursor on."""
        header = self._header(intake)
        if header is None or header.split != "train" or intake.edge in self._handover.quarantined:
            return 0
        return min(header.end_seq, intake.next_seq) - self._cursors[intake.edge]

    def _header(self, intake: Intake) -> StreamHeader | None:
        """The header of the frame at an edge's cursor; None where it has not come."""
        seq = self._cursors.get(intake.edge, 0)
        return None if intake.log is None or seq >= intake.next_seq else intake.log.header_of(seq)

    def _kept_for_the_end(self, header: StreamHeader) -> bool:
        return header.split != "train" and header.epoch == self._last_epoch

    def _waits_for_others(self, ready: dict[str, int]) -> bool:
        """Whether an edge that has nothing to give now may have something soon. A silent one is not waited for."""
        if self._handover.complete:
            return False
        now, patience = time.monotonic(), self._config.fleet.patience
        self._begun = self._begun or now
        waited = False
        for edge, count in ready.items():
            header = self._header(self._handover.intakes[edge])
            if count or edge in self._handover.quarantined or (header is not None and self._kept_for_the_end(header)):
                self._silent.pop(edge, None)
            else:
                waited |= now - self._silent.setdefault(edge, now) < patience
        return waited or (len(ready) < self._expected and now - self._begun < patience)

    @property
    def _expected(self) -> int:
        expected = self._config.fleet.expect
        return expected if isinstance(expected, int) else len(expected or ())

    def _has_come(self, line: OrderLine) -> bool:
        """Whether the frames of a line of the journal are here, or will never come.

        After a power failure an edge repeats some. Where the run is complete, it is not let in any more.
        """
        intakes = self._handover.intakes
        return all(
            edge in intakes and (count <= intakes[edge].next_seq or (self._handover.complete and intakes[edge].streams))
            for edge, count in self.needed(line).items()
        )

    @staticmethod
    def needed(line: OrderLine) -> dict[str, int]:
        """Edge → how many of its frames must be there for a line of the journal."""
        needed = {edge: seq + 1 for edge, seq in line.frames or ()}
        if line.evaluated is not None:
            needed[line.evaluated[0]] = line.evaluated[2] + 1
        if line.joined is not None:
            needed[line.joined] = 1
        return needed

    # -- doing

    def _note(self, line: OrderLine) -> None:
        """Remember what a line of the journal says."""
        if line.joined is not None:
            intake = self._handover.intakes[line.joined]
            self._announced[line.joined] = intake.streams[0]
            self._cursors[line.joined] = 0
            self._handover.learned.setdefault(line.joined, 0)
        keys = [*(line.frames or ()), *(_keys(line.evaluated) if line.evaluated is not None else ())]
        for edge, seq in keys:
            self._cursors[edge] = self._handover.learned[edge] = seq + 1
            self._handover.drop((edge, seq))

    def _read(
        self, line: OrderLine, read: Callable[[FrameKey], FeatureBatch]
    ) -> tuple[list[FrameKey], list[FeatureBatch]]:
        """The frames of a line that are used, and what is in them."""
        try:
            frames = [key for key in line.frames or () if self._is_used(key)]
            if not self._has_come(line):  # what is not used may be such a frame
                raise FrameGone
            return frames, [read(key) for key in frames]
        except FrameGone:
            self._chosen = None
            raise

    def _learn(self, trainer: BackTrainer, line: OrderLine, frames: list[FrameKey], found: list[FeatureBatch]) -> None:
        """Mix the images of a window, and learn from them in as many steps as it has frames."""
        epoch = trainer.progress.epoch
        mixed.end_epochs(trainer, self._steps_per_epoch())  # now: that epoch's validation images have been evaluated
        if trainer.progress.epoch != epoch:
            self.checkpointed = dict(self._cursors)
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "mix", trainer.next_seq))
        batches = []
        for (edge, _), batch in zip(frames, found, strict=True):
            trainer.label_shares.see(edge, batch.labels, self._announced[edge].outputs)
            self.influence.see(edge, features_of(batch.features_BF, np.arange(len(batch.ids))))
            if edge in (line.capped or ()):
                kept = self.influence.kept(len(batch.ids))
                chosen = torch.randperm(len(batch.ids), generator=generator)[:kept].numpy()
                batches.append(take(batch, chosen))
            else:
                batches.append(batch)
        if not frames:
            return
        pool = join(batches)
        order = torch.randperm(len(pool.ids), generator=generator).numpy()
        trainer.progress.steps_per_epoch = self._steps_per_epoch()
        for part in np.array_split(order, len(frames)):
            if len(part) > 1:  # batch normalisation needs two
                batch = take(pool, part)
                loss_B = self._loss(trainer, batch, frames)
                assert batch.edge_B is not None
                self.influence.note(batch.edge_B, loss_B)
            else:
                trainer.progress.step += 1
        self.influence.judge()

    def _loss(self, trainer: BackTrainer, batch: FeatureBatch, frames: list[FrameKey]) -> NDArray[np.float64]:
        """Learn from a batch; the loss of each image."""
        try:
            loss_B = mixed.learn(trainer, batch)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            if system_error(error) is not None:  # no edge is to blame for the machine
                raise
            raise WindowError(frames, str(error)) from error
        if not np.isfinite(loss_B).all():
            raise WindowError(frames, "the loss is not finite")
        return loss_B

    def _steps_per_epoch(self) -> int:
        """Training frames of all edges in an epoch. An edge that is expected but has not come counts as a mean one."""
        frames, edges = sum(header.train_steps for header in self._announced.values()), len(self._announced)
        return max(1, round(frames * max(edges, self._expected) / max(1, edges)))

    def _finish(self, trainer: BackTrainer, read: Callable[[FrameKey], FeatureBatch]) -> None:
        def of(split: str) -> Iterator[tuple[str, FeatureBatch]]:
            for edge, intake in sorted(self._handover.intakes.items()):
                for header in intake.streams:
                    if header.split == split and self._kept_for_the_end(header):
                        keys = [(edge, seq) for seq in range(header.first_seq, min(header.end_seq, intake.next_seq))]
                        yield from ((edge, read(key)) for key in filter(self._is_used, keys))

        mixed.finish(trainer, of("val"), of("test"))


def _keys(evaluated: tuple[str, int, int]) -> Iterator[FrameKey]:
    edge, first, last = evaluated
    return ((edge, seq) for seq in range(first, last + 1))
