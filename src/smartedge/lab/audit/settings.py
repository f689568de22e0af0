"""What an audit is asked to do. Needs no torch, so that what is wrong with it is told before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smartedge.errors import ConfigError
from smartedge.lab.audit.stages import ATTACK_NAMES

__all__ = ["OF_RUNS_ONLY", "AuditSettings", "check_settings"]

OF_RUNS_ONLY = ("reconstruction", "fine-tuned")


@dataclass(frozen=True)
class AuditSettings:
    """What to attack, and with how much effort.

    Attributes:
        attributes: columns to read. None: the run's sensitive columns; ``("all",)``: these and every yes/no column.
        attacks: names from :data:`ATTACK_NAMES`; None for all.
        budget: seconds for everything; None for no limit.
        seeds: number of attackers of each kind, each with its own seed.
        undefended: a finished undefended run to compare with; None: an undefended front is trained once.
        fresh: repeat everything, and reuse no earlier result.
    """

    attributes: tuple[str, ...] | None = None
    attacks: tuple[str, ...] | None = None
    budget: float | None = None
    seeds: int = 2
    undefended: Path | None = None
    fresh: bool = False


def check_settings(settings: AuditSettings, *, of_a_run: bool) -> None:
    """Refuse settings that make no sense.

    Args:
        settings: what to attack.
        of_a_run: False: features are attacked, without the images, front and back of a run.

    Raises:
        ConfigError: names all of them.
    """
    problems = []
    if settings.seeds < 1:
        problems.append("--seeds: at least 1 is needed")
    if settings.budget is not None and settings.budget <= 0:
        problems.append("--budget: must be a positive time, such as 90s, 5m or 2h")
    if unknown := [name for name in settings.attacks or () if name not in ATTACK_NAMES]:
        problems.append(f"--attacks: {', '.join(unknown)} is not known; choose from {', '.join(ATTACK_NAMES)}")
    if not of_a_run and (impossible := [name for name in settings.attacks or () if name in OF_RUNS_ONLY]):
        problems.append(f"--attacks: {', '.join(impossible)}: needs a run of smartedge, with images, front and back")
    if problems:
        raise ConfigError("\n".join(problems))
