"""A page that shows a run while it goes on, or afterwards: ``smartedge watch``.

``state`` reads the run's files, ``server`` serves the page.
"""

from __future__ import annotations

from smartedge.lab.watch.server import Page, watching_run

__all__ = ["Page", "watching_run"]
