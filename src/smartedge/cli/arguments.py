"""Values of arguments that several verbs share: lists, times and addresses."""

from __future__ import annotations

import argparse
import math
import re

from smartedge.errors import ConfigError

__all__ = ["above_zero", "comma_separated", "count", "host_and_port", "names", "positive", "seconds"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def comma_separated(text: str) -> tuple[str, ...]:
    """``"a,b"`` → ``("a", "b")``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def names(text: str | None, option: str) -> tuple[str, ...] | None:
    """The names of a list, each once; None where the option was not given.

    Raises:
        ConfigError: the list is empty.
    """
    if text is None:
        return None
    found = tuple(dict.fromkeys(comma_separated(text)))
    if not found:
        raise ConfigError(f"{option}: the list is empty; name at least one")
    return found


def positive(text: str) -> int:
    """The ``type`` of an argument that is a whole number of at least 1, of at most six digits.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 to 999999")
    return int(text)


def count(text: str) -> int:
    """The ``type`` of an argument that is a whole number of at least 0, of at most six digits.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 0 to 999999")
    return int(text)


def above_zero(text: str) -> float:
    """The ``type`` of an argument that is a number above 0, such as seconds or watts.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return number


def seconds(text: str, option: str) -> float:
    """``"90s"``, ``"5m"``, ``"1.5h"`` or a bare number of seconds.

    Raises:
        ConfigError: the text is not a positive time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"{option} {text!r}: must be a positive time, such as 90s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def host_and_port(text: str, option: str, *, example: str, host: str | None = None) -> tuple[str, int]:
    """``"host:port"`` → host and port.

    Args:
        text: the value of the option.
        option: its name, for the error.
        example: a value as it should be.
        host: where the text gives none. None: it must give one.

    Raises:
        ConfigError: the text has another form.
    """
    given, _, port = text.rpartition(":")
    found = given.strip("[]") or host
    if not found or "/" in found or not port.isdecimal() or int(port) > 65535:
        form = "HOST:PORT" if host is None else "PORT or HOST:PORT"
        why = "; a port is at most 65535" if found and port.isdecimal() and int(port) > 65535 else ""
        raise ConfigError(f"{option} {text}: write it as {form}, for example {example}{why}")
    return found, int(port)
