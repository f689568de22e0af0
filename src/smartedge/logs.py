"""Lines for people: what a verb prints, and log lines on standard error, with time and level, as text or as JSON.

Nothing that a peer says can break a line or speak to the terminal: what is not printable is escaped. Repeats are
counted, so that nobody can fill a disk with them. Secrets are not logged: nothing here or elsewhere is given one.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:
    _TextHandler = logging.StreamHandler  # Python 3.10 cannot name the type of its stream

__all__ = ["Form", "LineHandler", "json_line", "logging_to_stderr", "plain", "say", "shortened", "with_spaces"]

Form = Literal["text", "json"]

_WINDOW_S = 60.0
_LINES = 20  # of one kind, in a window; further ones are counted
_KINDS = 256  # remembered at most
_CHARACTERS = 1500  # of a line that repeats what somebody wrote; about a screen


def plain(text: str, *, keep: str = "") -> str:
    """Text that may come from anybody, with everything escaped that is not printable. Spaces of any width stay.

    Args:
        text: any.
        keep: further characters that stay as they are, such as the line end.
    """

    def stays(each: str) -> bool:
        return each.isprintable() or each in keep or unicodedata.category(each) == "Zs"

    return "".join(each if stays(each) else ascii(each)[1:-1] for each in text)


def shortened(line: str) -> str:
    """A line without the middle of what is too long to be read, such as a file that stands where a name should.

    Its beginning says what is wrong, and its end what to do.
    """
    if len(line) <= _CHARACTERS:
        return line
    half = _CHARACTERS // 2
    left_out = with_spaces(len(line) - 2 * half)
    return f"{line[:half]} ... ({left_out} characters are left out) ... {line[-half:]}"


def say(*lines: str | Path, file: TextIO | None = None) -> None:
    """Print lines at once. Names of classes, columns and files in them may come from anybody: each line is escaped.

    Args:
        lines: without their ends; none: an empty line.
        file: where to; None: standard output.
    """
    print("\n".join(plain(str(line)) for line in lines), file=file, flush=True)


def json_line(level: str, message: str, at: float | None = None, **fields: object) -> str:
    """One log line as a JSON object: ``time`` (UTC), ``level``, ``message``, and further fields."""
    return json.dumps({"time": _stamp(time.time() if at is None else at), "level": level, "message": message, **fields})


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class _Kind:
    since: float
    lines: int = 0
    unsaid: int = 0


class LineHandler(_TextHandler):
    """Writes each record as one line, and of records of one kind no more than 20 a minute; then it says how many more.

    Records are of one kind where their logger, their level and their ``kind`` are equal. The kind is that of
    ``extra={"kind": ...}``, or else the message before its arguments are put in. The JSON form writes each of
    ``extra={"fields": {...}}`` as a field of its own.

    Args:
        stream: takes the lines.
        form: text or json.
    """

    def __init__(self, stream: TextIO, form: Form) -> None:
        super().__init__(stream)
        self._form = form
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        now = time.monotonic()
        key = (record.name, record.levelno, str(getattr(record, "kind", record.msg)))
        for old in [each for each, kind in self._kinds.items() if now - kind.since > _WINDOW_S]:
            self._forget(old)
        if key not in self._kinds and len(self._kinds) >= _KINDS:
            self._forget(next(iter(self._kinds)))
        kind = self._kinds.setdefault(key, _Kind(now))
        kind.lines += 1
        if kind.lines > _LINES:
            kind.unsaid += 1
        else:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        level, message = record.levelname.lower(), record.getMessage()
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        if self._form == "json":
            fields = dict(getattr(record, "fields", {}))
            if trace is not None:
                fields["exception"] = trace
            return json_line(level, message, record.created, logger=record.name, **fields)
        line = f"{_stamp(record.created)} {level:<7} {record.name.removeprefix('smartedge.')}: {plain(message)}"
        if trace is not None:
            line += "".join(f"\n  | {plain(each)}" for each in trace.splitlines())
        return line

    def close(self) -> None:
        """Say what was only counted."""
        with self.lock or threading.RLock():
            for key in list(self._kinds):
                self._forget(key)
        super().close()

    def _forget(self, key: tuple[str, int, str]) -> None:
        name, level, what = key
        if unsaid := self._kinds.pop(key).unsaid:
            fields = {"repeats": unsaid}
            record = logging.LogRecord(name, level, "", 0, "%d more lines like this: %s", (unsaid, what), None)
            record.fields = fields
            super().emit(record)


@contextmanager
def logging_to_stderr(form: Form, *, level: int = logging.INFO) -> Iterator[None]:
    """Let everything that is logged inside go to standard error: ours from ``level`` on, of others what is a warning.

    Python's own warnings and errors of threads are logged, too.
    """
    root, ours, handler = logging.getLogger(), logging.getLogger("smartedge"), LineHandler(sys.stderr, form)
    before, hook = ours.level, threading.excepthook

    def failed(args: threading.ExceptHookArgs) -> None:
        if (error := args.exc_value) is None:
            return
        name = "" if args.thread is None else args.thread.name
        if isinstance(error, OSError) and error.filename is not None:  # such as TensorBoard's thread on a full disk
            ours.error("thread %s failed: %s", name, error)
        else:
            ours.error("thread %s failed", name, exc_info=(args.exc_type, error, args.exc_traceback))

    root.addHandler(handler)
    ours.setLevel(level)
    logging.captureWarnings(True)
    threading.excepthook = failed
    try:
        yield
    finally:
        threading.excepthook = hook
        logging.captureWarnings(False)
        ours.setLevel(before)
        root.removeHandler(handler)
        handler.close()


def with_spaces(count: int) -> str:
    """A number with a space between thousands."""
    return f"{count:,}".replace(",", " ")
