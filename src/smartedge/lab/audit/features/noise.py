"""The noise of given features, as text: ``gaussian:sigma=0.4,clip=2``."""

from __future__ import annotations

from typing import Literal, cast

from smartedge.errors import ConfigError, PrivacyError
from smartedge.privacy.laws import release_law
from smartedge.privacy.mechanisms import Mechanism, Unprotected, make_mechanism

__all__ = ["NOISE_WORDS", "check_noise", "mechanism_from", "releases_of"]

NOISE_WORDS = """\
gaussian:sigma=S,clip=C            Gaussian noise of standard deviation S on each number, after a clip to L2 norm C
laplace:sigma=S,clip=C             Laplace noise of standard deviation S, after a clip to L1 norm C
laplace:sigma=S,clip=C,granularity=element     the same, after a clip of each number to [-C, C]
randomised-response:epsilon=E      features are one of K codewords, (images, K), one of them 1
subset-selection:epsilon=E         the same
Instead of sigma: epsilon=E (and delta=D, 1e-5). releases=R: the attacker has R releases of each image (1)."""

_OF_CODEWORDS = ("randomised-response", "subset-selection")
_MOST_DIGITS = 18  # of a number of releases

_KEYS = {
    "gaussian": {"sigma", "epsilon", "delta", "clip", "releases"},
    "laplace": {"sigma", "epsilon", "delta", "clip", "releases", "granularity"},
    "randomised-response": {"epsilon", "delta", "releases"},
    "subset-selection": {"epsilon", "delta", "releases"},
}


def mechanism_from(text: str | None, feature_shape: tuple[int, ...]) -> Mechanism:
    """The mechanism that a text names, for features of this shape; without a text, none.

    Raises:
        ConfigError: the text cannot be read, or does not make a mechanism.
    """
    if text is None:
        return Unprotected(feature_shape)
    name, numbers, granularity = _read(text)
    codewords = name in _OF_CODEWORDS
    if codewords and len(feature_shape) != 1:
        raise ConfigError(f"noise {text!r}: needs codewords, features of shape (images, K); they have {feature_shape}")
    releases = releases_of(text)
    try:
        mechanism = make_mechanism(
            name,
            feature_shape=feature_shape,
            granularity=granularity,
            clip=numbers.get("clip"),
            codebook=feature_shape[0] if codewords else None,
            epsilon=numbers.get("epsilon"),
            delta=numbers.get("delta", 1e-5),
            sigma=numbers.get("sigma"),
            releases=releases,
        )
        release_law(mechanism, releases)  # refuses more releases than can be computed with
    except (ConfigError, PrivacyError) as error:
        raise ConfigError(f"noise {text!r}: {str(error).replace('dp.', '')}") from error
    return mechanism


def check_noise(text: str) -> None:
    """Refuse a text that makes a mechanism for features of no shape.

    Raises:
        ConfigError: it does.
    """
    _read(text)
    releases_of(text)


def releases_of(text: str | None) -> int:
    """How many releases of each image an attacker has.

    Raises:
        ConfigError: not a whole number of at least 1.
    """
    value = "1" if text is None else _parts(text)[1].get("releases", "1")
    if not value.isdecimal() or len(value) > _MOST_DIGITS or int(value) < 1:
        raise ConfigError(f"noise {text!r}: releases must be a whole number, at least 1")
    return int(value)


def _read(text: str) -> tuple[str, dict[str, float], Literal["vector", "element"]]:
    """The name of a mechanism, its numbers, and its granularity."""
    name, given = _parts(text)
    numbers = {key: _number(text, key, value) for key, value in given.items() if key != "granularity"}
    granularity = given.get("granularity", "vector")
    if granularity not in ("vector", "element"):
        raise ConfigError(f"noise {text!r}: granularity is 'vector' or 'element', not {granularity!r}")
    if name not in _OF_CODEWORDS and "clip" not in numbers:
        raise ConfigError(
            f"noise {text!r}: give the clip, clip=C: how long a feature vector can be at most before the noise is added"
        )
    if ("sigma" in numbers) + ("epsilon" in numbers) != 1:
        raise ConfigError(f"noise {text!r}: give exactly one of sigma and epsilon")
    for key, value in numbers.items():
        if not value > 0:
            raise ConfigError(f"noise {text!r}: {key} must be above 0")
    return name, numbers, cast(Literal["vector", "element"], granularity)


def _parts(text: str) -> tuple[str, dict[str, str]]:
    name, _, rest = text.strip().partition(":")
    if name not in _KEYS:
        raise ConfigError(f"noise {text!r}: {name!r} is not a mechanism. Write one of:\n{NOISE_WORDS}")
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key not in _KEYS[name] or key in given:
            known = ", ".join(sorted(_KEYS[name]))
            raise ConfigError(f"noise {text!r}: {part!r} cannot be read; {name} takes {known}, each once, as key=value")
        given[key] = value
    return name, given


def _number(text: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"noise {text!r}: {key} must be a number, not {value!r}") from error
