"""Attackers that read attributes from released features: networks of several depths, boosted trees, exact posteriors.

Each is trained on fresh releases of the attacker's own images (a new draw of the noise in every epoch), with all
classes weighted equally, and judged on the release of each protected image. What it says of the validation and test
images comes from the epoch that was best on the validation images, for each attribute by itself.
"""

from __future__ import annotations

from smartedge.lab.audit.attacks import Reading, Unit
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.neural import read_with_network
from smartedge.lab.audit.posterior import read_by_posterior
from smartedge.lab.audit.trees import read_with_trees
from smartedge.runs.progress import Monitor

__all__ = ["read"]


def read(evidence: Evidence, unit: Unit, *, clock: Clock, monitor: Monitor) -> Reading:
    """Train one attacker and let it read the protected images.

    Args:
        evidence: what it holds.
        unit: which kind, of which attributes, and how it learns; trees read one attribute.
        clock: its share of the budget.
        monitor: takes progress updates.

    Raises:
        OutOfTime: not even a few epochs fit.
        Diverged: its answers are not finite numbers.
    """
    if unit.attack == "posterior":
        return read_by_posterior(evidence, unit.attributes)
    if unit.attack == "trees":
        return read_with_trees(evidence, unit, clock=clock)
    return read_with_network(evidence, unit, clock=clock, monitor=monitor)
