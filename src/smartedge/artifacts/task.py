"""What a run's labels mean, as several files state it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from smartedge.artifacts.base import Part

__all__ = ["TaskFacts"]


class TaskFacts(Part):
    """The task of the run."""

    kind: Literal["single", "multi"] = Field(description="`single`: one of the names; `multi`: yes or no for each name")
    columns: tuple[str, ...] = Field(description="columns of the data set that make up the task")
    names: tuple[str, ...] = Field(description="the K classes, or the K columns")
