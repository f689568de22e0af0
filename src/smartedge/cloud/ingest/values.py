"""The values that features may have. What lies outside never reaches the back's optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from smartedge.codec import Codec, LearnedCodec

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["largest_value"]

_ANY = 1e6  # no front gives more, and float32 computes with it; a front that does has diverged
_SLACK = 1.5  # a lossy codec may go a little beyond the bound
_DOUBLED = 2.0  # a step of the codec 'learned' may be nearly twice the largest number
_GAUSSIAN, _LAPLACE = 12.0, 30.0  # standard deviations that noise exceeds with a probability below 1e-17, per number


def largest_value(config: Config, codec: Codec) -> float:
    """The largest absolute value that a feature of this run can have, decoded by this codec.

    Without noise, a codeword gives 1 and a bottleneck stays within 1. With noise of a known standard deviation it is
    added to the clip. Otherwise the values are only kept within what training can compute with.
    """
    dp, model = config.dp, config.model
    slack = _DOUBLED if isinstance(codec, LearnedCodec) else _SLACK
    bottleneck = model.bottleneck if isinstance(model.bottleneck, tuple) else None  # auto: not where a vector crosses
    if dp.mechanism == "none" or model.codebook is not None:
        return slack if model.codebook is not None or bottleneck is not None else _ANY
    clip = dp.clip or (None if bottleneck is None else math.sqrt(math.prod(bottleneck)))
    if dp.sigma is None or clip is None:
        return _ANY
    noise = (_LAPLACE if dp.mechanism == "laplace" else _GAUSSIAN) * dp.sigma
    return slack * (clip + noise) if slack == _DOUBLED else slack * clip + noise
