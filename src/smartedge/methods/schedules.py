"""The schedules: their interface, and the table of all of them.

A schedule says in which epochs the front learns, in which its features are sent, and how often an image is sent. The
edge goes through the epochs that it lists; the cloud expects the streams that follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartedge.methods.base import Method, get_method

if TYPE_CHECKING:
    from smartedge.config import Config
    from smartedge.types import SplitName

__all__ = ["SCHEDULES", "Epoch", "Schedule", "get_schedule"]


@dataclass(frozen=True)
class Epoch:
    """One pass of the edge over its images.

    Attributes:
        number: from 0, over all epochs of the edge; the streams of the epoch carry it.
        learns: the edge's learner learns from the training images.
        sends: the edge sends, one stream for each split.
        splits: the splits that are gone through, in order.
        shuffled: True: the training images are shuffled and augmented. False: they keep their order and pixels.
    """

    number: int
    learns: bool
    sends: bool
    splits: tuple[SplitName, ...]
    shuffled: bool = True


@dataclass(frozen=True)
class Schedule:
    """When the front learns, and when and how often images are sent.

    Attributes:
        name: as in the setting ``schedule``.
        front_first: the front is trained before anything is sent, and is then frozen.
        once: each image is sent once. The cloud then trains from its store, as many epochs as the settings say;
            otherwise it learns from every frame once, as the frames come.
    """

    name: str
    front_first: bool
    once: bool

    def trains_front_first(self, config: Config) -> bool:
        """Whether there is a front to train before anything is sent."""
        return self.front_first and get_method(config.method).has_exit and config.model.front is None

    def epochs(self, config: Config) -> list[Epoch]:
        """The epochs of the edge, in order."""
        if not self.front_first:
            return [
                Epoch(
                    number,
                    learns=True,
                    sends=get_method(config.method).has_cloud,
                    splits=_splits(number, config.epochs),
                )
                for number in range(config.epochs)
            ]
        first = config.front_epochs if self.trains_front_first(config) else 0
        learning = [Epoch(number, learns=True, sends=False, splits=_splits(number, first)) for number in range(first)]
        if self.once:
            return [*learning, Epoch(first, learns=False, sends=True, splits=("train", "val", "test"), shuffled=False)]
        sending = [
            Epoch(first + number, learns=False, sends=True, splits=_splits(number, config.epochs))
            for number in range(config.epochs)
        ]
        return [*learning, *sending]

    def streams(self, config: Config) -> Iterator[tuple[int, SplitName]]:
        """Epoch and split of every stream of a run, in order."""
        for epoch in self.epochs(config):
            if epoch.sends:
                yield from ((epoch.number, split) for split in epoch.splits)

    def releases(self, config: Config) -> int:
        """How often one training image is sent in the whole run, at most."""
        return sum(split == "train" for _, split in self.streams(config))

    def most_joined(self, frames: int) -> int:
        """How many frames of a stream of ``frames`` a one-way link may gather before it sends them.

        A cloud that trains while frames come gets at most a sixteenth of the stream at once, so that it need not
        wait long. A cloud that trains when all frames are there loses nothing by waiting.
        """
        return frames if self.once else max(1, frames // 16)

    def refuses(self, method: Method) -> str | None:
        """Why the schedule does not go with a method. None: it does."""
        if self.front_first and method.answered:
            return "split learning needs the edge in every step"
        if self.front_first and not method.has_cloud:
            return f"method '{method.name}' sends nothing, so there is nothing to log"
        if self.front_first and not self.once and not method.has_exit:
            return f"'{self.name}' is for method 'hierarchical'"
        return None

    def problems(self, config: Config) -> list[str]:
        """Settings that do not go with this schedule, each as ``key: what is wrong; what to do``."""
        problems = []
        if refusal := self.refuses(get_method(config.method)):
            problems.append(f"schedule: {refusal}; use 'joint'")
        if config.model.start is not None and (config.model.front or not get_method(config.method).has_exit):
            problems.append("model.start: only for method 'hierarchical', and without model.front; remove it")
        if self.once and config.fleet.max_influence is not None:
            problems.append(
                f"fleet.max_influence: does nothing with schedule '{self.name}', since nothing can be capped before "
                "training begins; remove it, or use 'joint' or 'two-stage'. Outliers are reported in cloud/fleet.json"
            )
        if config.codec.reference is not None and any(epoch.sends and epoch.shuffled for epoch in self.epochs(config)):
            problems.append(
                f"codec.reference: schedule '{self.name}' sends the training images in a random order, where none "
                "resembles the one before; use 'freeze-and-log', or remove it"
            )
        if config.model.front is not None:
            problems += self._problems_of_a_given_front(config)
        elif config.train.front_epochs is not None and not self.trains_front_first(config):
            problems.append(
                "train.front_epochs: only for method 'hierarchical' with schedule 'two-stage' or 'freeze-and-log'; "
                "remove it"
            )
        return problems

    def _problems_of_a_given_front(self, config: Config) -> list[str]:
        """Settings that train what ``model.front`` gives."""
        training = {
            "train.front_epochs": config.train.front_epochs is not None,
            "train.distill.epochs": config.train.distill.epochs > 0,
            "adversary": config.suppresses,
        }
        problems = [
            f"{key}: the front in model.front is not trained again; remove it" for key, on in training.items() if on
        ]
        if not (self.front_first and get_method(config.method).has_exit):
            problems.append(
                "model.front: only for method 'hierarchical' with schedule 'two-stage' or 'freeze-and-log', where the "
                "front does not learn while its features are sent"
            )
        return problems


def _splits(number: int, epochs: int) -> tuple[SplitName, ...]:
    """The splits of an epoch. The test split comes in the last epoch only."""
    return ("train", "val", "test") if number + 1 == epochs else ("train", "val")


SCHEDULES: dict[str, Schedule] = {
    schedule.name: schedule
    for schedule in (
        Schedule("joint", front_first=False, once=False),
        Schedule("two-stage", front_first=True, once=False),
        Schedule("freeze-and-log", front_first=True, once=True),
    )
}


def get_schedule(name: str) -> Schedule:
    """The schedule of that name.

    Raises:
        KeyError: there is none. The settings check the name before.
    """
    return SCHEDULES[name]
