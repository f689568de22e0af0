"""From the settings of a run to the gate around its mechanism."""

from __future__ import annotations

import math
from pathlib import Path

from smartedge.config import Config
from smartedge.errors import PrivacyError
from smartedge.methods.schedules import get_schedule
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Mechanism
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate
from smartedge.types import Task

__all__ = ["open_gate"]


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
        front_is_final=get_schedule(config.schedule).front_first,
    )
