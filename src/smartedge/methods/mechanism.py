"""From the settings of a run to the mechanism that protects its releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartedge.methods.base import get_method
from smartedge.privacy.mechanisms import Mechanism, make_mechanism

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["mechanism_of"]


def mechanism_of(config: Config, feature_shape: tuple[int, ...]) -> Mechanism:
    """The mechanism that ``config.dp`` names, calibrated for the releases of the whole run.

    Args:
        config: the run's settings.
        feature_shape: F of what is sent, as the learner states it; (K,) for a codebook.

    Raises:
        ConfigError: the settings do not make a mechanism, or ``dp-accounting`` is needed and not installed.
    """
    dp, model = config.dp, config.model
    return make_mechanism(
        dp.mechanism,
        feature_shape=feature_shape,
        granularity=dp.granularity,
        clip=dp.clip,
        bottleneck=config.bottleneck is not None,
        codebook=model.codebook if get_method(config.method).divides else None,
        epsilon=dp.epsilon,
        delta=dp.delta,
        sigma=dp.sigma,
        releases=max(1, config.releases),
    )
