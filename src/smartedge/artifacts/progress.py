"""``SIDE/progress.json``: how far a side of a run is, for whoever watches it. Nothing else reads it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part

__all__ = ["News", "SideProgress", "Work"]


class Work(Part):
    """One kind of work of a side, that is counted."""

    phase: str = Field(description="`train`, `release train`, `upload`, …")
    done: int = Field(description="steps that are done")
    total: int = Field(description="steps in all")
    text: str = Field(description="beside it: the epoch and the latest loss")


class News(Part):
    """One line of the log."""

    at: float = Field(description="seconds since 1970")
    phase: str = Field(description="what it is about: `link`, `privacy`, `epoch`, …")
    text: str = Field(description="the line")
    warning: bool = Field(description="whether something is not as it should be")


class SideProgress(Artifact):
    """``edge/progress.json``, ``cloud/progress.json``."""

    missing: ClassVar[str] = "the side has not begun"
    remedy: ClassVar[str] = "remove it: the side writes a new one while it runs"
    page: ClassVar[str] = "docs/run-files-schema.md"

    schema_version: Literal[1] = 1
    side: str = Field(description="`edge` or `cloud`")
    updated: float = Field(description="seconds since 1970")
    ended: bool = Field(description="whether the process has ended, done or not")
    works: tuple[Work, ...] = Field(description="the kinds of work that have begun, in their order")
    news: tuple[News, ...] = Field(description="the latest lines of the log, the newest last; 200 at most")
