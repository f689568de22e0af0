"""A page that shows a run while it goes on, or afterwards: ``smartedge watch``."""

from __future__ import annotations

from smartedge.lab.watch.server import Page, watching_run

__all__ = ["Page", "watching_run"]
