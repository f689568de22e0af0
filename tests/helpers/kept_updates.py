"""A monitor that keeps what it is told."""

from __future__ import annotations

from smartedge.runs.progress import Update


class Kept:
    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.closed = False

    def update(self, update: Update) -> None:
        self.updates.append(update)

    def close(self) -> None:
        self.closed = True
