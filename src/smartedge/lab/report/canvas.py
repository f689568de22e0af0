"""Draws figures as inline SVG, or as PNG in the same colours.

The colours of an SVG are CSS variables, so one SVG serves light and dark pages. Text stays text, in the reader's font.
No figure distinguishes things by colour alone: it also uses shape, dash or hatch.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter

from smartedge.files import replacing

__all__ = [
    "ATTACK", "CLOUD", "EDGE", "INK", "LIMIT", "LINE", "MUTED", "PAPER", "PERCENT", "STAGES", "WIDTH",
    "Canvas", "Figure", "Look", "at_end", "drawing", "in_two_lines", "label_rows", "mark", "save_png", "short",
    "to_svg",
]  # fmt: skip

# In the SVG, each of these colours is replaced by the variable of that name in the page's style sheet.
INK, MUTED, LINE, PAPER = "#1b1f24", "#59636e", "#d1d9e1", "#fffffe"
# What is of the edge, of the cloud, of an attacker, and what limits attackers: on every page and picture the same.
EDGE, CLOUD, ATTACK, LIMIT = "#b45309", "#1d5fd6", "#c2281d", "#1a7f37"
_VARIABLES = {
    INK: "ink", MUTED: "muted", LINE: "line", EDGE: "edge", CLOUD: "cloud", ATTACK: "bad", LIMIT: "good", PAPER: "paper"
}  # fmt: skip

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # names of classes are data: "$" in them is a dollar sign
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "hatch.color": PAPER,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.borderpad": 0,
    "svg.fonttype": "none",
}
WIDTH = 4.2  # inches: as wide as a card on a phone, so that no text is below 11 pixels there
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:g} %")

# Colour and hatch of each stage of a pipeline.
STAGES = {"edge": (EDGE, "///"), "encode": (INK, "|||"), "link": (MUTED, "..."), "cloud": (CLOUD, "\\\\\\")}

Look = dict[str, Any]  # keyword arguments for matplotlib: colours, dashes, markers


@dataclass(frozen=True)
class Figure:
    """A drawing for the page."""

    svg: Markup
    title: str
    alt: str  # the content in words, with its figures


def in_two_lines(text: str) -> str:
    """The text, in two lines of 22 characters where it is longer; what does not fit ends with an ellipsis."""
    return textwrap.fill(text, 22, max_lines=2, placeholder="…", break_on_hyphens=False)


def short(text: str, length: int = 22) -> str:
    """A name that fits an axis."""
    return text if len(text) <= length else text[: length - 1] + "…"


@contextmanager
def drawing(width: float, height: float) -> Iterator[Canvas]:
    """A canvas in the style of the page; ``width`` and ``height`` are in inches."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has its own fonts
        yield Canvas(figsize=(width, height), layout="constrained")


def to_svg(canvas: Canvas, alt: str) -> Markup:
    """The drawing as an element of an HTML page, without prologue, metadata and unused ids."""
    target = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": alt}):  # ids differ between figures, but are the same in every call
        # Places are found once here. Else savefig finds them twice: in a drawing of its own, and in the one it writes.
        FigureCanvasSVG(canvas)
        layout = canvas.get_layout_engine()
        if layout is not None:
            layout.execute(canvas)
        canvas.set_layout_engine(None)
        canvas.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    opening, body = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', opening)
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: (?:\d+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = body.replace("xlink:href", "href")
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    view = box.group(1) if box else ""
    return Markup('<svg role="img" aria-label="{}" viewBox="{}">').format(alt, view) + Markup(body)


def save_png(canvas: Canvas, path: Path) -> Path:
    """The drawing on white, 150 dots per inch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        canvas.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return path


def mark(side: str) -> Look:
    """Edge: a hollow circle. Cloud: a filled square, a little larger, so that it shows behind a circle."""
    if side == "edge":
        look = {"marker": "o", "markerfacecolor": PAPER, "markeredgecolor": EDGE, "markersize": 6, "zorder": 4}
    else:
        look = {"marker": "s", "markerfacecolor": CLOUD, "markeredgecolor": CLOUD, "markersize": 7.5, "zorder": 3}
    return {**look, "markeredgewidth": 1.8, "linestyle": "none"}


def label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Label horizontal rows, the first one on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def at_end(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a text to the right of a bar's end."""
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center")
