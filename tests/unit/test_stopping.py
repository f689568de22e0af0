"""What a signal does, by what the process is doing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import smartedge
from smartedge.stopping import Stop, Stopped, child_command, stop_on_signals


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    """SIGHUP ends a process, whatever whoever started the tests has set."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_work_that_nobody_watches_is_interrupted_where_it_stands(number) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop, pytest.raises(Stopped):
        signal.raise_signal(number)
    assert stop.is_set() and signal.getsignal(number) is before


def test_nohup_keeps_a_process_running_when_its_terminal_is_closed() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.is_set()


def test_watched_work_is_asked_once_and_interrupted_the_second_time() -> None:
    with stop_on_signals() as stop, stop.polled():
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert not isinstance(caught.value, Stopped)


def test_a_signal_that_is_lost_within_a_destructor_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    class Asked:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        Asked()  # Python prints what is raised there, and goes on
        for _ in range(500):
            time.sleep(0.01)

    with stop_on_signals() as stop, pytest.raises(Stopped):
        work()
    assert stop.is_set() and capfd.readouterr().err == ""


def test_what_begins_after_the_signal_does_not_begin() -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Stopped), stop.polled():
        pytest.fail("it began")


def test_another_thread_has_no_signals() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_on_signals() as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_a_process_whose_main_thread_waits_in_a_library_ends_after_its_signal() -> None:
    """The handler cannot run there. The thread that has the signal's pipe ends the process."""
    program = (
        "import ctypes, signal, smartedge.stopping as s\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: None)\n"
        "s.end_after_signal(0.1)\n"
        "print('ready', flush=True)\n"
        "while True: ctypes.CDLL(None).sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=30) == 1
    process.stdout.close()


PARENT = """
import subprocess, sys, time
from smartedge.stopping import child_command
subprocess.Popen(child_command("import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
time.sleep(600)
"""


def test_a_process_that_works_for_another_one_ends_when_that_one_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, bufsize=0) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        ended, _, _ = select.select([parent.stdout], [], [], 10)  # the child holds the other end
        if not ended:
            os.kill(child, signal.SIGKILL)
        assert ended and parent.stdout.read(100) == b""


def test_a_process_that_works_for_another_one_goes_on_while_that_one_lives() -> None:
    slow = child_command("import time; time.sleep(1.1); print('done')")
    assert subprocess.run(slow, capture_output=True, text=True, timeout=60).stdout == "done\n"


@pytest.mark.source
def test_every_process_that_is_started_ends_with_the_one_that_started_it() -> None:
    root = Path(smartedge.__file__).parent
    starts = {file for file in root.rglob("*.py") if 'sys.executable, "-' in file.read_text()}
    by_end_of_input = {root / "launch/processes.py", root / "cloud/workers/launcher.py"}  # they stop well, then
    assert starts == {root / "stopping.py", *by_end_of_input}
