"""The headers of the streams that an edge sends in a run."""

from __future__ import annotations

from dataclasses import dataclass

from smartedge.config import Config
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.types import SplitName, StreamHeader, Task

__all__ = ["Streams"]


@dataclass(frozen=True)
class Streams:
    """The facts that are equal in all streams of one edge, from which their headers are made."""

    config: Config
    run: str  # identifies the run
    task: Task  # of the labels that travel
    feature_shape: tuple[int, ...]  # F of what is sent
    train_steps: int  # training frames of an epoch

    def header(self, epoch: int, split: SplitName, first_seq: int, frames: int) -> StreamHeader:
        """The header of one stream.

        Args:
            epoch: whose frames it carries.
            split: and of which split.
            first_seq: number of its first frame.
            frames: how many frames it will carry.
        """
        config, method = self.config, get_method(self.config.method)
        return StreamHeader.of(
            run=self.run,
            agreement=config.agreement(),
            task=self.task,
            codec=config.codec_name,
            feature_shape=self.feature_shape,
            feature_dtype=method.wire_dtype,
            answer_shape=self.feature_shape if method.answered and split == "train" else None,
            batch_size=config.train.batch_size,
            epoch=epoch,
            split=split,
            first_seq=first_seq,
            frames=frames,
            joined_frames=get_schedule(config.schedule).most_joined(frames),
            train_steps=self.train_steps,
        )
