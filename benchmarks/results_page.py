"""Write docs/results.md: every figure that we publish, taken from the files in benchmarks/results/.

    python benchmarks/results_page.py            # write it
    python benchmarks/results_page.py --check    # fail where it is not what the files say

The text stands in ``results.md.jinja`` beside this file. Tables and the figures in sentences are looked up while it is
filled in, so a page that says something else than the files cannot pass the check.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from smartedge.metrics import rounded_up

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"
TEMPLATE = "results.md.jinja"
GENERATED = (
    "<!-- written by scripts/results from benchmarks/results/: change benchmarks/results.md.jinja instead -->\n\n"
)

Row = Mapping[str, str]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is stale")
    args = parser.parse_args()
    page = GENERATED + render()
    if not args.check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        print(f"docs/{PAGE.name} is stale: run scripts/results", file=sys.stderr)
        return 1
    return 0


def render() -> str:
    """The page, without the line that says where it comes from."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,  # a figure that is not in the files is an error
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals.update(rows=rows, row=row, values=values, table=table, kept=kept, rounded_up=rounded_up)
    return environment.get_template(TEMPLATE).render()


def rows(file: str, **match: str) -> list[Row]:
    """The rows of a CSV file in ``benchmarks/results/``; with ``match``: those with these values."""
    with (RESULTS / file).open(encoding="utf-8", newline="") as opened:
        return [each for each in csv.DictReader(opened) if all(each[key] == value for key, value in match.items())]


def row(file: str, **match: str) -> Row:
    """The only row with these values.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = rows(file, **match)
    if len(found) != 1:
        raise LookupError(f"{file}: {len(found)} rows have {match}")
    return found[0]


def values(found: Iterable[Row], column: str) -> list[float]:
    """A column as numbers."""
    return [float(each[column]) for each in found]


def table(found: Sequence[Row], columns: Mapping[str, str], names: Mapping[str, str] | None = None) -> str:
    """Rows as a table of Markdown.

    Args:
        found: the rows.
        columns: heading → the column it shows.
        names: what the first column shows in place of a value, in the order of the rows; a row without one is left out.
    """
    first, *_ = columns.values()
    shown = list(found)
    if names is not None:
        order = list(names)
        shown = sorted((each for each in found if each[first] in names), key=lambda each: order.index(each[first]))
    lines = [list(columns), ["---"] * len(columns)]
    for each in shown:
        cells = [each[column] for column in columns.values()]
        lines.append([cells[0] if names is None else names[cells[0]], *cells[1:]])
    return "\n".join("| " + " | ".join(cell or "–" for cell in cells) + " |" for cells in lines)


def kept(file: str) -> Any:
    """The content of a JSON file in ``benchmarks/results/``."""
    return json.loads((RESULTS / file).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
