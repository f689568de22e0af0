"""From the settings of a run to the gate around its mechanism, and the ledger's figures for the summary."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from smartedge.artifacts.results import Privacy
from smartedge.config import Config
from smartedge.errors import PrivacyError
from smartedge.files import finite_or_none
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Mechanism
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.types import Task

__all__ = ["open_gate", "privacy_summary"]


def open_gate(
    config: Config,
    folder: Path,
    run: str | None,
    mechanism: Mechanism,
    task: Task | None,
    *,
    existing: bool,
    sent: int = 0,
) -> Gate:
    """The gate of a run, with the ledger and the key of the noise that lie in the edge's folder.

    Args:
        config: the run's settings.
        folder: the edge's folder of the run.
        run: identifies the run; None: the run that the ledger belongs to.
        mechanism: from :func:`smartedge.methods.mechanism.mechanism_of`.
        task: what the labels are; None where none travel.
        existing: the run has begun before, so ledger and key must be there.
        sent: frames that were sent before, all of which the ledger must hold.

    Raises:
        PrivacyError: the ledger or the key is missing, damaged, of another run, or does not hold all that was sent.
    """
    dp = config.dp
    noise = Noise.open(folder / "noise.key", existing=existing)
    policy = {
        **mechanism.policy(),
        "label_epsilon": dp.label_epsilon,
        "apply_to": dp.apply_to,
        "key": noise.nonce("key").hex(),
    }
    budget = Budget(math.inf if dp.epsilon is None else dp.epsilon, dp.delta)
    ledger = Ledger(folder / "ledger.sqlite", run, policy=policy, budget=budget, existing=existing)
    if not ledger.holds(sent):
        ledger.close()
        raise PrivacyError(
            f"{folder / 'ledger.sqlite'}: frames before {sent} were sent, and it does not hold them all (an old copy, "
            "or its -wal file is gone); nothing is released. Restore it, or start a new run"
        )
    return Gate(
        mechanism,
        ledger,
        noise,
        task=task,
        label_epsilon=dp.label_epsilon,
        training_only=dp.apply_to == "training",
    )


def privacy_summary(gate: Gate, *, front: Literal["trained", "frozen", "given"] | None = None) -> Privacy:
    """The block ``privacy`` of ``results.json`` (``docs/results-schema.md``), from what the ledger holds.

    None means that a value is ∞ or does not apply. The totals are those of the image that spent most, in the protected
    splits.

    Args:
        gate: made the releases.
        front: what the front's weights learned from the images, in the words of that block.
    """
    mechanism, budget = gate.mechanism, gate.ledger.budget
    balance = gate.ledger.balance()
    worst = balance.worst("train" if gate.training_only else None)
    total = worst.epsilon if worst else 0.0
    # An element's ε protects one number. The whole map has the sum over its numbers, since Laplace noise is pure ε.
    element = mechanism.event.granularity == "element"
    whole = mechanism.vector_epsilon * worst.releases if element and worst else total
    pure = mechanism.delta == 0 and (worst is None or worst.releases <= 1)
    labels = max((group.label_epsilon for group in balance.groups if group.split == "train"), default=0.0)
    return Privacy(
        **asdict(mechanism.describe()),
        epsilon_total=finite_or_none(total),
        delta_total=0.0 if pure else budget.delta,
        releases_max=worst.releases if worst else 0,
        epsilon_budget=finite_or_none(budget.epsilon),
        delta_budget=budget.delta,
        vector_epsilon_total=finite_or_none(whole),
        labels="clear" if gate.label_epsilon is None else "randomised",
        label_epsilon=finite_or_none(labels),
        epsilon_with_label=finite_or_none(whole + labels),
        apply_to="training" if gate.training_only else "always",
        front=front,
    )
