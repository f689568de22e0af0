"""A sweep: ordinary runs over a grid of settings and seeds, and their figures side by side.

It shows how accuracy on the desired label goes with leakage of the sensitive ones. ``points`` makes the grid,
``running`` the runs, ``figures`` puts their results together.

Under the sweep's folder:

- ``runs/KEY=VALUE,…,seed=N/``: the runs;
- ``undefended/…/``: the same networks without protection, where the sweep is audited;
- ``sweep.json`` and ``sweep.csv``: the figures (``docs/sweep-schema.md``).
"""

from smartedge.lab.sweep.points import folder_of, parse_axes
from smartedge.lab.sweep.running import sweep

__all__ = ["folder_of", "parse_axes", "sweep"]
