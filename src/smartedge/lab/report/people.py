"""Words, tables and the figure about persons: identity, and what several images of one person tell together."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.lines import Line2D

from smartedge.artifacts.attacks import Identity, LinkFigures, PersonBand
from smartedge.artifacts.audit import Audit
from smartedge.lab.judging.text import percent
from smartedge.lab.report.canvas import CLOUD, EDGE, INK, MUTED, PAPER, PERCENT, WIDTH, Figure, Look, drawing, to_svg

__all__ = ["LinkRow", "PersonRow", "identity_rows", "identity_words", "person_rows", "persons_figure"]

_NEAR = 0.02  # AUROC so little above the label floor counts as equal
_BEST: Look = {"color": CLOUD, "marker": "s", "markersize": 6, "linewidth": 1.8}
_FLOOR: Look = {"color": INK, "marker": "|", "markersize": 10, "linestyle": (0, (5, 2)), "linewidth": 1.4}
_UNDEFENDED: Look = {
    "color": EDGE, "marker": "o", "markersize": 6, "markerfacecolor": PAPER, "linestyle": (0, (9, 2)), "linewidth": 1.4
}  # fmt: skip


@dataclass(frozen=True)
class LinkRow:
    """One linker, or one reference."""

    name: str
    figures: LinkFigures
    chosen: bool = False


@dataclass(frozen=True)
class PersonRow:
    """One attribute and number of images."""

    attribute: str
    images: str
    band: PersonBand

    @property
    def persons(self) -> str:
        """Of each class."""
        return " + ".join(map(str, self.band.persons))


def identity_rows(audit: Audit | None) -> list[LinkRow]:
    """The linkers, best first, then the references; empty where there was no attack."""
    found = audit.identity if audit else None
    if found is None:
        return []
    ordered = sorted(found.linkers.items(), key=lambda item: -item[1].auroc)
    rows = [LinkRow(name, figures, chosen=name == found.best) for name, figures in ordered]
    if found.undefended:
        rows.append(LinkRow("the undefended front, best linker", found.undefended))
    rows.append(LinkRow("label floor", found.label_floor))
    rows.append(LinkRow("attribute floor", found.attribute_floor))
    return rows


def identity_words(found: Identity | None) -> list[str]:
    """What the attack on identity found, in sentences."""
    if found is None:
        return []
    best, floor = found.linkers[found.best], found.label_floor
    low, high = best.auroc_ci95
    text = (
        f"An attacker gets what was sent of two images and tells whether they show one person, with AUROC "
        f"{best.auroc:.2f} (95 % interval {low:.2f} to {high:.2f}; guessing: 0.50)"
    )
    if found.undefended:
        text += f"; on the undefended front {found.undefended.auroc:.2f}"
    text += f". The true desired labels alone give {floor.auroc:.2f}"
    text += ", so no more is read than these tell." if best.auroc <= floor.auroc + _NEAR else "."
    persons = f"It was tested on {found.persons_with_pairs} persons with two or more images, whom no attacker had seen."
    return [text, persons]


def person_rows(audit: Audit | None) -> list[PersonRow]:
    """All attributes and numbers of images; empty where there was no attack."""
    found = audit.persons if audit else None
    return [PersonRow(name, images, band) for name, bands in (found or {}).items() for images, band in bands.items()]


def persons_figure(attribute: str, rows: list[PersonRow]) -> Figure:
    """Balanced accuracy over the number of images of one person: best attack, label floor, undefended front."""
    words = []
    with drawing(WIDTH, 3.0) as canvas:
        axes = canvas.subplots()
        lines: dict[str, tuple[Look, list[tuple[int, float]]]] = {
            "undefended front": (_UNDEFENDED, []),
            "best attack": (_BEST, []),
            "label floor": (_FLOOR, []),
        }
        for x, row in enumerate(rows):
            best = row.band.attacks[row.band.best]
            low, high = best.ci95
            axes.plot([x, x], [low, high], color=CLOUD, linewidth=1.2, zorder=1)
            lines["best attack"][1].append((x, best.balanced_accuracy))
            lines["label floor"][1].append((x, row.band.label_floor.balanced_accuracy))
            if row.band.undefended:
                lines["undefended front"][1].append((x, row.band.undefended.balanced_accuracy))
            words.append(
                f"{row.images} images: {percent(best.balanced_accuracy)}, "
                f"label floor {percent(row.band.label_floor.balanced_accuracy)}"
            )
        for look, points in lines.values():
            if points:
                axes.plot(*zip(*points, strict=True), **look)
        chance = 1 / len(rows[0].band.persons)
        axes.axhline(chance, color=MUTED, linestyle=(0, (1, 1.6)), linewidth=1.6)
        axes.set_xticks(range(len(rows)), [row.images for row in rows])
        axes.set_xlabel("images of the person (dotted: chance)")
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_ylabel("balanced accuracy")
        handles = [Line2D([], [], label=name, **look) for name, (look, points) in lines.items() if points]
        canvas.legend(handles=handles, loc="outside upper left", ncols=3)
        alt = f"How well attackers read {attribute} from several images of one person. " + "; ".join(words) + "."
        return Figure(to_svg(canvas, alt), f"{attribute}, from several images of one person together", alt)
