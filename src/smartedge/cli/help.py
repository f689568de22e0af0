"""Fits the texts of ``--help`` into the width of the terminal, however narrow."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap

__all__ = ["Help"]

_NARROW = 60  # columns; below, the help of an option begins on a line of its own
_TWO_COLUMNS = re.compile(r"(\s*\S.*?\s{2,})(\S.*)")
_COMMAND = re.compile(r"\s+(?:\$ )?smartedge [^#]*")
_WITH_VALUE = re.compile(r"(--\S+) (?!-)")
_INNER = r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]"
_PART = re.compile(rf"\[(?:[^\[\]]|{_INNER})*\]|\S+")  # [--watch [[HOST:]PORT]] is one part of a usage


class Help(argparse.HelpFormatter):
    """Keeps the lines of a text where they fit, and else wraps paragraphs, examples and lists, each in its own way."""

    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(prog, max_help_position=24 if columns >= _NARROW else 8)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.rstrip().splitlines()
        if max(map(len, lines), default=0) <= width:
            return "\n".join(lines)
        return "\n".join(row for line in _joined(lines) for row in _wrapped(line, width))

    def _format_usage(self, *args: object) -> str:
        """As argparse, which lets a usage run over the edge where the name of the program is long."""
        text: str = super()._format_usage(*args)  # type: ignore[arg-type]
        width = self._width
        if all(len(line) <= width for line in text.splitlines()):
            return text
        parts = [part if len(part) > width - 4 else part.replace(" ", "\0") for part in _PART.findall(text)]
        return "\n".join(_fill(" ".join(parts), width, " " * 4)) + "\n\n"


def _joined(lines: list[str]) -> list[str]:
    """Each paragraph as one line. Lines of examples and lists stay apart, with what continues them below their text."""
    joined: list[str] = []
    column: int | None = 0  # at which a line continues the last one; None: it cannot
    for line in lines:
        start = len(line) - len(line.lstrip())
        two = _TWO_COLUMNS.fullmatch(line)
        if joined and line and two is None and start == column:
            joined[-1] += " " + line.strip()
            continue
        joined.append(line)
        column = len(two[1]) if two else 0 if line and not start else None
    return joined


def _wrapped(line: str, width: int) -> list[str]:
    """One line, as as many lines as it needs."""
    if len(line) <= width:
        return [line]
    start = len(line) - len(line.lstrip())
    if command := _COMMAND.match(line):
        call, comment = command[0].rstrip(), line[command.end() :]
        rows = _fill(_WITH_VALUE.sub("\\1\0", call), width - 2, " " * (start + 4))
        above = _fill(" " * start + comment, width, " " * start + "# ") if comment else []
        return above + [f"{row} \\" for row in rows[:-1]] + rows[-1:]
    two = _TWO_COLUMNS.fullmatch(line)
    if two and len(two[1]) <= width // 2:
        return _fill(line, width, " " * len(two[1]))
    if two:
        line = f"{two[1].rstrip()}  {two[2]}"
    if start > width // 4:  # the head of a table
        start, line = 2, "  " + line.lstrip()
    return _fill(line, width, " " * (start + 4) if start or two else "")


def _fill(line: str, width: int, further: str) -> list[str]:
    """``line`` in rows, which begin with ``further`` from the second on. It breaks at spaces alone, not at NUL."""
    text = line.lstrip()
    rows = textwrap.wrap(
        text,
        width,
        initial_indent=line[: len(line) - len(text)],
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return [row.replace("\0", " ") for row in rows]
