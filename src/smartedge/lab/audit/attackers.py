"""Attackers that read attributes from released features: networks of several depths, boosted trees, exact posteriors.

Each attacker is trained on fresh releases of its own images: the noise is drawn anew in every epoch. All classes have
equal weight. The attacker is judged on the release of each protected image. Its answers come from the epoch that was
best on its validation images, chosen for each attribute separately.
"""

from __future__ import annotations

from smartedge.lab.audit.attacks import Reading, Unit
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.neural import read_with_network
from smartedge.lab.audit.posterior import read_by_mixture, read_by_posterior
from smartedge.lab.audit.trees import read_with_trees
from smartedge.runs.progress import Monitor

__all__ = ["read"]


def read(evidence: Evidence, unit: Unit, *, clock: Clock, monitor: Monitor) -> Reading:
    """Train one attacker and let it read the protected images.

    Args:
        evidence: the releases and images that the attacker has.
        unit: the kind of attacker, its attributes, rate and seed; trees read one attribute.
        clock: its share of the time budget.
        monitor: takes progress updates.

    Raises:
        OutOfTime: there is no time for even a few epochs.
        Diverged: its answers are not finite numbers.
    """
    if unit.attack == "posterior":
        return read_by_posterior(evidence, unit.attributes)
    if unit.attack == "mixture":
        return read_by_mixture(evidence, unit.attributes)
    if unit.attack == "trees":
        return read_with_trees(evidence, unit, clock=clock)
    return read_with_network(evidence, unit, clock=clock, monitor=monitor)
