"""A sweep as one HTML file and one picture: accuracy on the desired label against leakage of the sensitive one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from smartedge.artifacts.sweep import Spread, Sweep, SweepRow
from smartedge.lab.judging.leakage import limiting
from smartedge.lab.judging.text import at_most, known, percent, points
from smartedge.lab.report import attack_plots
from smartedge.lab.report.attack_plots import Point
from smartedge.lab.report.canvas import Figure
from smartedge.lab.report.page import write_page

__all__ = ["write_sweep"]

_SYMBOLS = {"adversary.weight": "λ", "dp.epsilon": "ε", "dp.sigma": "σ", "model.codebook": "codewords"}
_REFERENCES = {"chance": "chance", "floor": "label floor", "undefended": "undefended, best"}
_NO_DIFFERENCE = 0.0005  # is not seen in the figures


def write_sweep(folder: Path) -> list[Path]:
    """Write ``sweep.html``, and one picture per audited attribute.

    The picture is ``frontier.png``, or ``frontier-NAME.png`` where there are several attributes.

    Args:
        folder: the folder of the sweep, which holds ``sweep.json`` (``docs/sweep-schema.md``).

    Returns:
        The files written, the page first.

    Raises:
        RunError: there is no ``sweep.json``, or it is damaged or of a version that this program does not know.
    """
    found = Sweep.read(folder / "sweep.json")
    desired, task = _undefended(found), ", ".join(found.desired)
    rows = [row for row in found.rows if row.desired]
    attributes = [name for name in found.sensitive if any(name in row.attributes for row in rows)]
    pictures, figures = [], []
    for name in attributes:
        shown, lines = _points(found, rows, name), _lines(rows, name)
        figures.append(attack_plots.frontier(shown, lines, desired, name, task))
        named = "-" + re.sub(r"[^\w.-]+", "-", name) if len(attributes) > 1 else ""
        png = folder / f"frontier{named}.png"
        pictures.append(attack_plots.frontier_png(shown, lines, desired, name, task, png))
        figures += _over_axes(found, shown, lines, desired, name, task)
    if not attributes and rows:
        figures += _over_axes(found, _points(found, rows, None), {}, desired, None, task)
    page = {
        "title": f"Sweep of {', '.join(_axis(axis.key) for axis in found.axes)}",
        "found": found,
        "task": task,
        "attributes": attributes,
        "undefended": desired,
        "bounded": any(_limit(row.bound) or _limit(row.noise_bound) for row in rows),
        "headline": _headline(found, rows, attributes, desired, task),
        "figures": figures,
        "failed": [entry for entry in found.points if entry.state == "failed"],
        "waiting": sum(entry.state == "waiting" for entry in found.points),
        "axis": _axis,
        "spread": _spread_text,
        "mean": lambda spread: percent(spread.mean if spread else None),
        "bound": _limit_text,
    }
    return [write_page(folder / "sweep.html", "sweep.html.j2", page), *pictures]


def _axis(key: str) -> str:
    """``λ (adversary.weight)``."""
    return f"{_SYMBOLS[key]} ({key})" if key in _SYMBOLS else key


def _label(settings: Mapping[str, str]) -> str:
    """``λ 3, ε 4``."""
    return ", ".join(f"{_SYMBOLS.get(key, key.split('.')[-1])} {value}" for key, value in settings.items())


def _pair(spread: Spread | None) -> tuple[float, float] | None:
    return (spread.mean, spread.sd or 0.0) if spread else None


def _limit(spread: Spread | None) -> float | None:
    """A limit for all attackers; None where it limits nothing."""
    return limiting(spread.mean) if spread else None


def _limit_text(spread: Spread | None) -> str:
    return "none" if spread and _limit(spread) is None else at_most(_limit(spread))


def _points(found: Sweep, rows: Sequence[SweepRow], attribute: str | None) -> list[Point]:
    """The rows as points to draw, in the order of the axes' values."""
    drawn = []
    for row in rows:
        figures = row.attributes.get(attribute) if attribute is not None else None
        desired = _pair(row.desired)
        assert desired is not None  # rows without it are not drawn
        bound, noise_bound = _limit(row.bound), _limit(row.noise_bound)
        drawn.append(
            Point(
                label=_label(row.settings),
                values=tuple(row.settings[axis.key] for axis in found.axes),
                desired=desired,
                attack=_pair(figures.best) if figures else None,
                bound=bound,
                noise_bound=noise_bound if noise_bound is not None and noise_bound < (bound or 1) - 0.001 else None,
            )
        )
    return drawn


def _lines(rows: Sequence[SweepRow], attribute: str) -> dict[str, float]:
    """References to compare the attack with, as means over the rows, which differ only by the seed."""
    lines = {}
    for key, name in _REFERENCES.items():
        spreads = [getattr(row.attributes[attribute], key) for row in rows if attribute in row.attributes]
        values = [spread.mean for spread in spreads if spread]
        if values:
            lines[name] = sum(values) / len(values)
    return lines


def _over_axes(
    found: Sweep,
    shown: Sequence[Point],
    lines: Mapping[str, float],
    desired: float | None,
    attribute: str | None,
    task: str,
) -> list[Figure]:
    """One figure per axis with several values. It has a line for each combination of the other axes' values."""
    keys = [axis.key for axis in found.axes]
    figures = []
    for place, axis in enumerate(found.axes):
        if len(axis.values) < 2:
            continue
        rows: dict[str, list[Point]] = {}
        for value in axis.values:
            for point in shown:
                if point.values[place] == value:
                    others = {key: v for i, (key, v) in enumerate(zip(keys, point.values, strict=True)) if i != place}
                    rows.setdefault(_label(others), []).append(point)
        if 0 < len(rows) <= attack_plots.MOST_ROWS:
            figures.append(attack_plots.over_setting(_axis(axis.key), rows, place, lines, desired, attribute, task))
    return figures


def _undefended(found: Sweep) -> float | None:
    """Mean desired balanced accuracy of the undefended runs."""
    values = [entry.desired for entry in found.undefended if known(entry.desired)]
    return sum(values) / len(values) if values else None


def _headline(
    found: Sweep,
    rows: Sequence[SweepRow],
    attributes: Sequence[str],
    desired: float | None,
    task: str,
) -> str:
    """The setting that hides most and costs at most one point. If there is none: the setting that hides most."""
    if not rows:
        return "No point of the sweep has finished yet."
    best = max(rows, key=_kept)
    if not attributes:
        tied = [row for row in rows if _equal(row.desired, best.desired)]
        if len(tied) > 1:
            return f"No setting is shown to be the best on {task}: {_listed(tied)} reach {percent(_kept(best))}."
        return f"{_label(best.settings)} has the highest balanced accuracy on {task}: {percent(_kept(best))}."
    name = attributes[0]
    audited = [row for row in rows if name in row.attributes]
    least = _kept(best) if desired is None else desired
    cheap = [row for row in audited if _kept(row) >= least - 0.01]
    chosen = min(cheap or audited, key=lambda row: _read_by_best(row, name))
    lines = _lines(audited, name)
    floor, chance = lines.get("label floor"), lines.get("chance", 0.5)
    tied = [row for row in cheap or audited if _equal(row.attributes[name].best, chosen.attributes[name].best)]
    hides = f"{_label(chosen.settings)} hides {name} best"
    if len(tied) > 1:
        hides = f"none is shown to hide {name} best: {_listed(tied)} hide it as well as each other"
    text = (
        f"Of {len(audited)} settings, {hides}"
        f"{' at a price of at most one point of ' + task if cheap else ''}: the best attacker reads it with "
        f"{percent(_read_by_best(chosen, name))}"
    )
    text += f" (label floor {percent(floor)})" if floor is not None and floor > chance else ""
    text += f", and {task} reaches {percent(_kept(chosen))}"
    if desired is not None:
        text += f" ({points(_kept(chosen) - desired)} points against the undefended run)"
    return text + "."


def _equal(one: Spread | None, other: Spread | None) -> bool:
    """Whether two figures cannot be told apart: they are printed alike, or closer than their seeds' spread."""
    if one is None or other is None:
        return one is other
    return abs(one.mean - other.mean) <= max(_NO_DIFFERENCE, one.sd or 0.0, other.sd or 0.0)


def _listed(rows: Sequence[SweepRow]) -> str:
    *some, last = [_label(row.settings) for row in rows]
    return f"{'; '.join(some)} and {last}"


def _kept(row: SweepRow) -> float:
    """Mean balanced accuracy on the desired label."""
    return row.desired.mean if row.desired else 0.0


def _read_by_best(row: SweepRow, attribute: str) -> float:
    """Mean balanced accuracy of the best attacker on an attribute."""
    best = row.attributes[attribute].best
    return best.mean if best else 1.0


def _spread_text(spread: Spread | None) -> str:
    """``91.0 % ± 0.3``."""
    if not spread:
        return "–"
    text = percent(spread.mean)
    return text if spread.sd is None else f"{text}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * spread.sd:.1f}"
