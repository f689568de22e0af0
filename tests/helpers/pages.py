"""The blocks of the documents, and what runs those of one page, in their order, in one folder.

- ``bash``: run by bash. The command ``smartedge`` is :mod:`smaller`, which makes runs small.
- ``python``: run, one after the other with common names; training is made small. One whose first line is ``# NAME.py``
  is written to that file.
- ``yaml``: read as settings. One whose first line is ``# NAME.yaml`` is written to that file.
- ``text``: every line must have been printed before, but for its numbers. ``...`` stands for anything.

A line ``<!-- not run: WHY -->`` above a block lets it out. The site shows that line to its readers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import smaller

from smartedge.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w*|\{[\w-]+\})\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml))\n")
_DRIVER = """\
import json, sys, traceback, smaller
smaller.make_training_small()
names = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        exec(compile(json.loads(line), "the page", "exec"), names)
    except BaseException:
        traceback.print_exc()
        break
    print("\\0", flush=True)
"""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None  # why

    @property
    def runs(self) -> bool:
        """Whether it is run: it is code, and nothing lets it out."""
        return self.language in ("bash", "python") and self.not_run is None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
    return [
        Block(name, text[: found.start()].count("\n") + 1, found[2], found[3], found[1])
        for found in _BLOCK.finditer(text)
    ]


class Folder:
    """Where the blocks of one page run.

    Args:
        place: an empty folder.
        before: lines of bash that make what the page assumes.
        small: make runs small, see :mod:`smaller`.
    """

    def __init__(self, place: Path, before: str = "", *, small: bool = True) -> None:
        self.place = place
        self.limit_s = 600 if small else 3600  # of one block
        self.printed = ""
        tools = place / ".tools"
        if not tools.exists():  # else an earlier process has run blocks here
            (place / "examples").symlink_to(ROOT / "examples")
            tools.mkdir()
        for name, call in (("smartedge", f"{smaller.__file__}"), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
            (tools / name).chmod(0o700)
        self.environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(place), *sys.path]),
            "SMALLER": str(tools),
            **({} if small else {"AS_WRITTEN": "1"}),
        }
        self._python: subprocess.Popen[str] | None = None
        self._bash(before, "what the page assumes")

    def run(self, blocks: Sequence[Block]) -> None:
        """Run the blocks.

        Raises:
            AssertionError: one fails, or prints something else than the page shows.
        """
        for block in blocks:
            where = f"{block.page}:{block.line}"
            if block.not_run is not None:
                continue
            if file := _FILE.match(block.text):
                (self.place / file[1]).parent.mkdir(parents=True, exist_ok=True)
                (self.place / file[1]).write_text(block.text, encoding="utf-8")
            elif block.language == "bash":
                self._bash(block.text, where)
            elif block.language == "python":
                self._run_python(block.text, where)
            elif block.language == "text":
                self._compare(block.text, where)
            if block.language == "yaml":
                self._check_settings(block.text)

    def close(self, *, kill: bool) -> None:
        """Let the clouds come to their end, and stop everything else. With ``kill`` nothing is waited for."""
        if self._python is not None:
            self._python.kill()
            self._python.communicate()
        smaller.end_all(self.place / ".tools", kill=kill)

    def _bash(self, lines: str, where: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.limit_s,
        )
        self.printed += done.stdout
        assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{done.stdout}"

    def _run_python(self, code: str, where: str) -> None:
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-c", _DRIVER],
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert self._python.stdin is not None and self._python.stdout is not None
        self._python.stdin.write(json.dumps(code) + "\n")
        self._python.stdin.flush()
        said = ""
        for line in self._python.stdout:
            if line == "\0\n":
                self.printed += said
                return
            said += line
        raise AssertionError(f"{where}: {said}")

    def _compare(self, shown: str, where: str) -> None:
        printed = _without_numbers(self.printed)
        for line in filter(None, map(_without_numbers, shown.splitlines())):
            wanted = ".*".join(re.escape(part.strip()) for part in line.split("..."))
            assert re.search(wanted, printed), f"{where}: was not printed: {line}\n{self.printed}"

    def _check_settings(self, text: str) -> None:
        file = self.place / "settings-of-a-block.yaml"
        file.write_text(text, encoding="utf-8")
        before = Path.cwd()
        os.chdir(self.place)  # files that settings name are there
        try:
            load_config(load_config(file).model_dump(mode="json", exclude_unset=True))
        finally:
            os.chdir(before)


def _without_numbers(text: str) -> str:
    """The text with 0 for each number, and with one space for each gap."""
    return re.sub(r"[ \t]+", " ", re.sub(r"\d[\d,. ]*\d|\d", "0", text)).strip()
