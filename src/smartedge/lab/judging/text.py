"""Numbers as people read them. A figure that is missing or not finite is a dash."""

from __future__ import annotations

import math
from typing import TypeGuard

from smartedge.metrics import rounded_down, rounded_up

__all__ = [
    "at_most", "count", "fewer_epochs", "known", "lower_number", "number", "percent", "points", "ratio", "relation",
    "seconds", "short_number", "size", "times", "upper_number",
]  # fmt: skip
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a finite figure."""
    return value is not None and math.isfinite(value)


def percent(value: float | None, digits: int = 1) -> str:
    """``0.9312`` → ``93.1 %``."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%" if known(value) else "–"


def at_most(value: float | None) -> str:
    """An upper bound, rounded up: ``0.9312`` → ``93.2 %``."""
    return percent(rounded_up(value) if known(value) else None)


def points(value: float | None) -> str:
    """A difference of shares in percentage points: ``0.012`` → ``+1.2``."""
    if not known(value):
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def size(value: float | None) -> str:
    """Bytes, in units of 1000; whole bytes up to 9999."""
    if not known(value):
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor and value >= 1e4:
            digits = 2 if value < 10 * factor else 1 if value < 100 * factor else 0
            return f"{value / factor:.{digits}f}\N{NO-BREAK SPACE}{unit}"
    return (f"{value:.1f}" if 0 < value < 9.95 else count(round(value))) + "\N{NO-BREAK SPACE}B"


def seconds(value: float | None) -> str:
    """``0.0123`` → ``0.012 s``, ``300`` → ``5.0 min``."""
    if not known(value):
        return "–"
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if value >= 2 * length:
            return f"{value / length:.1f}\N{NO-BREAK SPACE}{unit}"
    digits = 1 if value >= 10 or value == 0 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}s"


def count(value: int) -> str:
    """``11459`` → ``11 459``."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def fewer_epochs(epochs: int, most: int) -> list[str]:
    """A note on a run that had fewer epochs than those beside it: ``2 epochs``. None on the others."""
    return [f"{epochs} epoch{'s' if epochs > 1 else ''}"] if epochs < most else []


def number(value: float | None) -> str:
    """Three decimals."""
    return f"{value:.3f}" if known(value) else "–"


def short_number(value: float | None) -> str:
    """Three digits, without a tail of zeros: ``4.0`` → ``4``, ``0.12345`` → ``0.123``, ``1e-05`` → ``10⁻⁵``."""
    if not known(value):
        return "–"
    if abs(value) >= 1000:
        return count(round(value))
    digits, _, power = f"{value:.3g}".partition("e")
    if not power:
        return digits
    raised = str(int(power)).translate(_RAISED)
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


def upper_number(bound: float | None) -> str:
    """An upper bound such as ε in three digits, rounded up: ``4.001`` → ``4.01``."""
    return short_number(rounded_up(bound, 3) if known(bound) else None)


def lower_number(bound: float | None) -> str:
    """A lower bound in three digits, rounded down: ``3.999`` → ``3.99``."""
    return short_number(rounded_down(bound, 3) if known(bound) else None)


def ratio(value: float) -> str:
    """Two or three digits: ``0.0775`` → ``0.078``, ``5.56`` → ``5.6``, ``82.3`` → ``82``."""
    return f"{value:.2g}" if value < 1 else f"{value:.{1 if value < 20 else 0}f}"


def times(factor: float) -> str:
    """A factor in running text: ``12.91`` → ``12.9``."""
    return f"{factor:.{0 if factor >= 20 else 1 if factor >= 2 else 2}f}"


def relation(value: float, other: float) -> str:
    """``value`` compared with ``other``: "2.4 times smaller than", "as large as"."""
    factor = value / other
    if 0.995 < factor < 1.005:
        return "as large as"
    return f"{times(factor)} times larger than" if factor > 1 else f"{times(1 / factor)} times smaller than"
