"""The figures of a sweep: one entry per point, one row per setting, one line of the CSV file per run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from smartedge.artifacts.attacks import AttributeBlock
from smartedge.artifacts.results import Results
from smartedge.artifacts.sweep import PointAttribute, RowAttribute, Spread, SweepPoint, SweepRow, UndefendedPoint
from smartedge.files import write_atomically
from smartedge.lab.sweep.points import Point

__all__ = ["point_entry", "rows_of", "undefended_entry", "write_csv"]


def undefended_entry(point: Point, root: Path) -> UndefendedPoint:
    """An undefended run as ``sweep.json`` holds it; ``root`` is the sweep's folder."""
    return UndefendedPoint(
        settings=dict(point.settings),
        seed=point.seed,
        run=str(point.folder.relative_to(root)),
        desired=_desired(point.results()),
    )


def point_entry(
    point: Point, root: Path, state: Literal["done", "failed", "waiting"], error: str | None, *, audited: bool
) -> SweepPoint:
    """A point as ``sweep.json`` holds it, with the figures that its run directory has.

    Args:
        point: the point.
        root: the sweep's folder.
        state: how far the point is.
        error: why it failed.
        audited: whether the sweep audits its runs. The figures of the audit are taken from points that are done.
    """
    results = point.results()
    audit = point.audit() if audited and state == "done" else None
    blocks = audit.attributes if audit else {}
    privacy = results.privacy if results else None
    at_exit = results.test.exit if results else None
    return SweepPoint(
        settings=dict(point.settings),
        seed=point.seed,
        run=str(point.folder.relative_to(root)),
        state=state,
        error=error,
        desired=_desired(results),
        exit=at_exit.balanced_accuracy if at_exit else None,
        bytes_up=results.bytes_per_image.up if results else None,
        seconds_per_epoch=results.seconds_per_epoch if results else None,
        epsilon=privacy.epsilon if privacy else None,
        delta=privacy.delta if privacy else None,
        bound=privacy.attribute_bound if privacy else None,
        noise_bound=privacy.tight_attribute_bound if privacy else None,
        attributes={
            name: found
            for name in point.config.data.sensitive
            if name in blocks and (found := _attribute(blocks[name])) is not None
        },
    )


def _desired(results: Results | None) -> float | None:
    """Balanced accuracy of the back, or of the task exit where there is no back."""
    figures = results and (results.test.back or results.test.exit)
    return figures.balanced_accuracy if figures else None


def _attribute(block: AttributeBlock) -> PointAttribute | None:
    """The balanced accuracies of one audited attribute that a sweep compares; None where no attack was made."""
    if block.best is None:
        return None
    others = {name: getattr(block, name) for name in ("training_image", "undefended", "prediction_floor")}
    return PointAttribute(
        best=block.best.balanced_accuracy,
        floor=block.floor.balanced_accuracy,
        chance=block.chance,
        attack=block.best.attack,
        **{name: figures.balanced_accuracy if figures else None for name, figures in others.items()},
    )


def rows_of(entries: Sequence[SweepPoint]) -> list[SweepRow]:
    """One row per setting: means and standard deviations over the finished runs."""
    grouped: dict[tuple[str, ...], list[SweepPoint]] = {}
    for entry in entries:
        grouped.setdefault(tuple(entry.settings.values()), []).append(entry)
    rows = []
    for same in grouped.values():
        done = [entry for entry in same if entry.state == "done"]
        rows.append(
            SweepRow(
                settings=same[0].settings,
                runs=len(done),
                failed=sum(entry.state == "failed" for entry in same),
                desired=Spread.of([entry.desired for entry in done]),
                exit=Spread.of([entry.exit for entry in done]),
                epsilon=Spread.of([entry.epsilon for entry in done]),
                bound=Spread.of([entry.bound for entry in done]),
                noise_bound=Spread.of([entry.noise_bound for entry in done]),
                attributes={
                    name: _row_attribute([entry.attributes[name] for entry in done])
                    for name in (done[0].attributes if done else {})
                },
            )
        )
    return rows


def _row_attribute(found: Sequence[PointAttribute]) -> RowAttribute:
    return RowAttribute(
        **{name: Spread.of([getattr(point, name) for point in found]) for name in RowAttribute.model_fields}
    )


def write_csv(path: Path, entries: Sequence[SweepPoint]) -> None:
    """Write one line per run. The columns of an attribute are ``NAME.best``, ``NAME.floor`` and so on."""
    lines: list[dict[str, object]] = []
    for entry in entries:
        line = {**entry.settings, **entry.model_dump(exclude={"settings", "attributes"})}
        for name, figures in entry.attributes.items():
            line.update({f"{name}.{key}": value for key, value in figures.model_dump().items()})
        lines.append(line)
    heads = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, heads)
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue())
