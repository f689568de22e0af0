"""Files of a sweep. ``docs/sweep-schema.md`` explains them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from smartedge.artifacts.base import Artifact, Part

__all__ = [
    "PointAttribute",
    "RowAttribute",
    "Spread",
    "Sweep",
    "SweepAxis",
    "SweepPoint",
    "SweepRow",
    "UndefendedPoint",
]


class Spread(Part):
    """Mean and sample standard deviation over the seeds that are done."""

    mean: float
    sd: float | None = Field(description="null for one seed")

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Self | None:
        """None where a value is missing."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return cls(mean=statistics.fmean(known), sd=statistics.stdev(known) if len(known) > 1 else None)


class SweepAxis(Part):
    """One setting that was varied."""

    key: str = Field(description="a setting")
    values: tuple[str, ...] = Field(description="as text, in the order given")


class PointAttribute(Part):
    """Results of the attacks on one attribute of one run, as balanced accuracies."""

    best: float = Field(description="of the best attacker with one release")
    training_image: float | None = Field(description="of the best attacker with all data sent about a training image")
    undefended: float | None
    floor: float
    prediction_floor: float | None
    chance: float
    attack: str = Field(description="the attack that is best")


class SweepPoint(Part):
    """One run."""

    settings: dict[str, str] = Field(description="key → value as text")
    seed: int
    run: str = Field(description="relative to the folder")
    state: Literal["done", "failed", "waiting"] = Field(description="`done`, `failed` or `waiting`")
    error: str | None = Field(description="why it failed")
    desired: float | None = Field(default=None, description="balanced accuracy of the last head")
    exit: float | None = Field(default=None, description="balanced accuracy of the exit")
    bytes_up: float | None = Field(default=None, description="per image, as in `results.json`")
    seconds_per_epoch: float | None = Field(default=None, description="as in `results.json`")
    epsilon: float | None = Field(
        default=None,
        description="of one release; this and the next three are `epsilon`, `delta`, `attribute_bound`, "
        "`tight_attribute_bound` of `results.json`'s `privacy`",
    )
    delta: float | None = None
    bound: float | None = None
    noise_bound: float | None = None
    attributes: dict[str, PointAttribute] = Field(
        default_factory=dict,
        description="attribute → balanced accuracies of the attacks on it, and the name of the best `attack`",
    )


class UndefendedPoint(Part):
    """The same network and data without protection."""

    settings: dict[str, str] = Field(description="key → value as text")
    seed: int
    run: str = Field(description="relative to the folder")
    desired: float | None


class RowAttribute(Part):
    """Results of the attacks on one attribute, over the seeds."""

    best: Spread | None
    training_image: Spread | None
    undefended: Spread | None
    floor: Spread | None
    prediction_floor: Spread | None
    chance: Spread | None


class SweepRow(Part):
    """One setting."""

    settings: dict[str, str] = Field(description="key → value as text")
    runs: int = Field(description="number of finished runs")
    failed: int
    desired: Spread | None
    exit: Spread | None
    epsilon: Spread | None
    bound: Spread | None
    noise_bound: Spread | None
    attributes: dict[str, RowAttribute] = Field(
        description="attribute → spreads of `best`, `training_image`, `undefended`, `floor`, "
        "`prediction_floor`, `chance`"
    )


class Sweep(Artifact):
    """Runs over a grid of settings and seeds: ``sweep.json``."""

    missing: ClassVar[str] = "'smartedge sweep' writes it"
    remedy: ClassVar[str] = "give the command of the sweep again: finished runs are kept"
    page: ClassVar[str] = "docs/sweep-schema.md"

    schema_version: Literal[2] = 2
    config: str = Field(description="the settings that all points share, as YAML")
    axes: tuple[SweepAxis, ...] = Field(description="the settings that were varied; values as text, in the order given")
    seeds: tuple[int, ...]
    audited: bool = Field(description="whether the runs were audited (`--audit`)")
    budget_seconds: float | None = Field(
        default=None, description="`--budget`: the time of each point's audit, at least; null: no limit"
    )
    desired: tuple[str, ...] = Field(description="columns of the data set")
    sensitive: tuple[str, ...] = Field(description="columns of the data set")
    points: tuple[SweepPoint, ...] = Field(description="one entry per run")
    undefended: tuple[UndefendedPoint, ...] = Field(description="the undefended runs")
    rows: tuple[SweepRow, ...] = Field(description="one entry per setting")
