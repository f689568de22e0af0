"""The kinds of attackers that read attributes from released features, and the answers of one attacker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from smartedge.types import Floats

if TYPE_CHECKING:
    from smartedge.lab.audit.evidence import Evidence

__all__ = ["ATTACKS", "Attack", "Diverged", "Reading", "Unit", "available"]


class Diverged(Exception):
    """An attacker whose answers are not finite numbers."""


@dataclass(frozen=True)
class Attack:
    """One kind of attacker."""

    name: str
    rates: tuple[float, ...]  # learning rates that are tried
    epochs: int  # epochs of a network, or rounds of boosting
    weight_decay: float
    weight: float  # its share of the time budget, relative to the others
    reads: Literal["all", "each", "focus"]  # all attributes at once, each separately, or only those in focus separately

    @property
    def cheap(self) -> bool:
        """Whether it needs little time."""
        return self.reads != "focus"

    def settled(self, evidence: Evidence) -> bool:
        """Whether another seed would give the same result."""
        return self.name in ("posterior", "mixture") or (self.name == "trees" and not evidence.noisy)


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("linear", (1e-2, 1e-3), 30, 1e-3, 1.0, "all"),
        Attack("linear-pooled", (1e-2,), 30, 1e-3, 0.5, "all"),
        Attack("posterior", (1.0,), 1, 0.0, 0.1, "all"),
        Attack("mixture", (1.0,), 1, 0.0, 0.5, "all"),
        Attack("trees", (0.1,), 200, 0.0, 0.5, "each"),
        Attack("mlp", (1e-3, 3e-4), 30, 0.05, 2.0, "all"),
        Attack("deep", (1e-3, 3e-4), 16, 0.05, 12.0, "focus"),
        Attack("fine-tuned", (3e-4,), 12, 0.05, 9.0, "focus"),
    )
}
"""In words:

- linear: logistic regression on the flattened features
- linear-pooled: logistic regression on the mean of each channel
- posterior: the exact posterior given the released codeword
- mixture: the posterior given noisy features, each class taken for the release laws of the attacker's own images
- trees: gradient-boosted trees on at most 512 pooled columns
- mlp: two hidden layers
- deep: a network with the architecture of the run's back, trained from new weights
- fine-tuned: the same network, trained from the back's final weights (here the attacker is the cloud)

If the attacker also sees the desired label, the label is added as further columns (not for deep and fine-tuned).
"""


@dataclass(frozen=True)
class Unit:
    """One attacker to be trained."""

    evidence: str  # see Evidence.name
    attack: str
    attributes: tuple[str, ...]
    rate: float
    seed: int

    @property
    def kind(self) -> Attack:
        """Which kind of attacker it is."""
        return ATTACKS[self.attack]

    @property
    def indispensable(self) -> bool:
        """Whether it is trained even when no time is left: the first attacker of the cheapest kinds."""
        first = self.seed == 0 and self.rate == self.kind.rates[0]
        return self.evidence == "defended" and self.attack in ("linear", "posterior") and first

    @property
    def file_name(self) -> str:
        """The name of its result file, without suffix."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:10]
        return f"{self.evidence}-{self.attack}-{self.seed}-{digest}"

    @property
    def title(self) -> str:
        """The text that the progress display shows."""
        alone = f" {self.attributes[0]}" if len(self.attributes) == 1 else ""
        return f"{self.evidence} {self.attack} {self.rate:g} seed {self.seed}{alone}"


@dataclass(frozen=True)
class Reading:
    """The answers of one attacker."""

    val_scores: Mapping[str, Floats]  # attribute → (M, K); M validation releases
    test_scores: Mapping[str, Floats]  # attribute → (N, K)
    epochs: int  # epochs that were trained
    planned: int  # epochs that were planned

    @property
    def shortened(self) -> bool:
        """Whether the time budget ended the training early."""
        return self.epochs < self.planned


def available(evidence: Evidence) -> tuple[str, ...]:
    """The names of the attacks that make sense for this evidence."""
    names = ["linear"]
    if evidence.layout not in ("vector", "codeword"):
        names.append("linear-pooled")
    if evidence.mechanism.channel() is not None:
        names.append("posterior")
    elif evidence.law is not None:
        names.append("mixture")
    names += ["trees", "mlp"]
    if evidence.name != "training-image" or evidence.releases > 1:  # of one release they see what they see on the run
        names.append("deep")
    if evidence.name == "defended" and evidence.back_file is not None:
        names.append("fine-tuned")
    return tuple(names)
