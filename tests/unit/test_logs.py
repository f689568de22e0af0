"""Log lines: what they hold, how often they come, and that nobody else's text can break them."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import sys
import threading

import pytest

from smartedge import logs
from smartedge.logs import LineHandler, logging_to_stderr, plain, say
from smartedge.runs.progress import Bars, LogLines, Update

EVIL = "\x1b[2J\x1b]0;pwned\x07 door\r\n2026-01-01T00:00:00.000Z error forged\u202e"


@pytest.fixture
def logger() -> logging.Logger:
    made = logging.Logger("smartedge.test")
    made.propagate = False
    return made


def attached(logger: logging.Logger, form: logs.Form) -> tuple[LineHandler, io.StringIO]:
    stream = io.StringIO()
    handler = LineHandler(stream, form)
    logger.addHandler(handler)
    return handler, stream


def test_a_line_has_its_time_its_level_and_where_it_came_from(logger: logging.Logger) -> None:
    _, stream = attached(logger, "text")
    logger.warning("edge %s went away", "door")
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning test: edge door went away\n"
    assert re.fullmatch(form, stream.getvalue())


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_text_of_others_stays_on_its_line(logger: logging.Logger, form: logs.Form) -> None:
    _, stream = attached(logger, form)
    logger.warning("refused: %s", EVIL)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("failed")
    told = stream.getvalue()
    assert all(each.isprintable() or each == "\n" for each in told)
    lines = told.splitlines()
    if form == "json":
        first, second = map(json.loads, lines)
        assert first["message"] == f"refused: {EVIL}" and first["level"] == "warning"
        assert EVIL in second["exception"]
    else:
        assert sum(not line.startswith("  | ") for line in lines) == 2, "a line of its own would look like ours"


def test_repeats_are_counted(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    handler, stream = attached(logger, "text")
    for number in range(1000):
        logger.warning("refused: %d", number)
    logger.info("another")
    assert len(stream.getvalue().splitlines()) == 21, "of each kind by itself"
    now[0] = 61
    logger.warning("refused: %d", 1000)
    assert "980 more lines like this: refused: %d" in stream.getvalue()
    for number in range(30):
        logger.warning("refused: %d", number)
    handler.close()
    assert stream.getvalue().endswith("11 more lines like this: refused: %d\n")


def test_kinds_are_bounded(logger: logging.Logger) -> None:
    handler, _ = attached(logger, "text")
    for number in range(3 * logs._KINDS):
        logger.warning(f"text of a careless library {number}")
    assert len(handler._kinds) <= logs._KINDS


def test_the_process_logs_its_warnings_and_the_errors_of_its_threads(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    before = threading.excepthook, logging.getLogger("smartedge").level
    with logging_to_stderr("json"):
        logging.getLogger("smartedge.test").info("ours")
        logging.getLogger("another").info("theirs, and no warning")
        thread = threading.Thread(target=fail, name="reader")
        thread.start()
        thread.join()
    assert (threading.excepthook, logging.getLogger("smartedge").level) == before
    ours, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["message"], ours["logger"]) == ("ours", "smartedge.test")
    assert failed["message"] == "thread reader failed" and "in a thread" in failed["exception"]


def test_a_thread_that_ends_by_a_full_disk_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "tensorboard/events")

    with logging_to_stderr("text"):
        thread = threading.Thread(target=fail, name="writer")
        thread.start()
        thread.join()
    [line] = capsys.readouterr().err.splitlines()
    assert "thread writer failed: [Errno 28] No space left on device: 'tensorboard/events'" in line


def test_progress_as_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "smartedge")
    now = [0.0]
    monkeypatch.setattr("smartedge.runs.progress.time.monotonic", lambda: now[0])
    lines = LogLines()
    for done in range(1, 101):
        lines.update(Update("edge", "train", done, 100, f"loss {done}"))
        now[0] += 0.5
    lines.update(Update("edge", "link", text="cloud unreachable for 0 s"))
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "edge: train 1/100 loss 1" and told[-2] == "edge: train 100/100 loss 100"
    assert len(told) == 1 + 4 + 1 + 1
    assert caplog.records[-1].levelname == "WARNING"


def test_plain_keeps_what_people_write() -> None:
    assert plain("Kamera Straße 3 — 摄像头") == "Kamera Straße 3 — 摄像头"
    assert (
        plain("92.9\N{NO-BREAK SPACE}%, 犬\N{IDEOGRAPHIC SPACE}猫")
        == "92.9\N{NO-BREAK SPACE}%, 犬\N{IDEOGRAPHIC SPACE}猫"
    )
    assert plain("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert plain("\N{LINE SEPARATOR}\N{RIGHT-TO-LEFT OVERRIDE}\x85") == "\\u2028\\u202e\\x85"


def test_the_text_of_others_stays_on_its_line_where_no_log_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    say("classes:", EVIL)
    bars = Bars()
    bars.update(Update("edge", "data", text=EVIL))
    bars.close()
    printed = capsys.readouterr()
    assert printed.out == f"classes:\n{plain(EVIL)}\n"
    assert all(each.isprintable() or each == "\n" for each in printed.err) and "\\x1b[2J" in printed.err


@pytest.mark.parametrize("place", ["a closed pipe", "/dev/full"])
def test_where_bars_cannot_be_shown_the_work_goes_on(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich ends a thread that writes into a closed pipe; of 'smartedge train' that is the one that reads a side."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w") if place == "a closed pipe" else open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", stream)
    bars = Bars()
    bars.update(Update("edge", "data", text="12 images"))
    bars.update(Update("edge", "train", 3, 3))
    bars.close()
    with contextlib.suppress(OSError):
        stream.close()
