"""What is to be certified. Needs no torch, so that what is wrong with it is told before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smartedge.config import Config
from smartedge.data.raw import PERSON_COLUMN
from smartedge.errors import ConfigError
from smartedge.methods.base import get_method
from smartedge.types import SplitName

__all__ = ["HELD_OUT", "CertifySettings", "check_settings", "columns_of"]

# Split → where AuditedData.labels has its labels.
HELD_OUT: dict[str, SplitName] = {"test": "test", "val": "val", "audit": "train"}
_CONFIDENCES = (0.5, 0.9999)  # a larger one would be written as 100 %


@dataclass(frozen=True)
class CertifySettings:
    """How a run is certified."""

    attributes: tuple[str, ...] | None = None  # None: data.sensitive
    confidence: float = 0.95
    releases: int = 1  # number of releases of one image that the attacker has
    label_known: bool = False  # whether the attacker also has the desired label
    splits: tuple[str, ...] | None = None  # whose images are used; None: test, and audit where no weights knew them
    persons: str | None = None  # column that names the person; None: 'identity', where the data set has it


def columns_of(config: Config, settings: CertifySettings) -> tuple[str, ...]:
    """The columns to certify: those that are named, or else all that the run hides but for who is in an image."""
    return settings.attributes or tuple(name for name in config.data.sensitive if name != PERSON_COLUMN)


def check_settings(run_dir: Path, config: Config, settings: CertifySettings) -> None:
    """Refuse what cannot be certified, as far as the settings of run and call tell.

    Raises:
        ConfigError: names all of it.
    """
    problems = []
    if not get_method(config.method).has_cloud:
        problems.append(f"method '{config.method}' sends nothing, so there is nothing to certify")
    elif config.dp.mechanism == "none":
        problems.append(
            "the run adds no noise, so its releases are the features themselves: this certifies nothing. Train with "
            "noise, for example --set dp.mechanism=gaussian --set dp.sigma=0.4"
        )
    if not columns_of(config, settings):
        problems.append("the run names no sensitive column (data.sensitive); name one: --attributes NAME")
    if PERSON_COLUMN in columns_of(config, settings):
        problems.append(f"--attributes: {PERSON_COLUMN!r} names the persons, who are the units of a certificate")
    if not _CONFIDENCES[0] <= settings.confidence <= _CONFIDENCES[1]:
        problems.append("--confidence: must be from 0.5 to 0.9999, such as 0.95")
    if settings.releases < 1:
        problems.append("--releases: at least 1 is needed")
    if settings.splits is not None and not (settings.splits and set(settings.splits) <= set(HELD_OUT)):
        problems.append("--splits: some of test, val, audit; the front learned from the training images")
    if problems:
        raise ConfigError("\n".join(f"{run_dir}: {problem}" for problem in problems))
