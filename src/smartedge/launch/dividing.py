"""Looks through the settings of a run, and begins to divide its network in another process (`smartedge.edge.apart`)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

from smartedge.config import Config
from smartedge.edge.apart import Division, read_answer
from smartedge.launch.datasets import check_data, task_of
from smartedge.launch.run_folder import has_begun
from smartedge.methods.base import get_method
from smartedge.models.zoo.names import check_name
from smartedge.runs.progress import Monitor, teller
from smartedge.stopping import Stopped

__all__ = ["check_and_divide", "divide_in_process"]


@contextlib.contextmanager
def check_and_divide(config: Config) -> Iterator[Division | None]:
    """Look through the settings of a new run, and begin the process that divides the network for the edge.

    None: the edge begins it, if it is needed. That is so for a run that has begun, for data that may have to be
    fetched, and on Windows, where a process cannot be handed a pipe.

    Raises:
        SmartEdgeError: what is wrong with the settings.
    """
    from smartedge.data.sources import may_be_fetched  # with the layouts of data sets, which take a while

    if has_begun(config.run_dir):
        yield None
        return
    config.check_files()
    check_name(config.model.name)
    if not get_method(config.method).has_exit or may_be_fetched(config.data.path) or os.name != "posix":
        check_data(config)
        yield None
        return
    devices = {f"hardware.{key}": getattr(config.hardware, key) for key in ("edge_device", "cloud_device")}
    with Division(subprocess.DEVNULL) as division:  # imports torch, while the data set is looked for
        try:
            division.give(config.division(task_of(config).outputs), devices=devices, threads=config.threads)
            division.check()
        except KeyboardInterrupt as interrupt:
            raise Stopped("stopped; the run had not begun") from interrupt
        yield division


def divide_in_process(config: Config, monitor: Monitor, answer: IO[bytes] | None = None) -> bytes | None:
    """Front and exit, from another process: see :mod:`smartedge.edge.apart`. None: the edge is to divide the network.

    It does so where it learns from no exit, or has imported torch before: then another process would save nothing.

    Args:
        config: the run's settings.
        monitor: takes progress updates.
        answer: of a process that ``smartedge train`` has started for this; None: one is started here.

    Raises:
        SmartEdgeError: what is wrong with data set, network or device.
    """
    tell, devices = teller(monitor, "edge", "network"), {"hardware.edge_device": config.hardware.edge_device}
    if answer is not None:
        return read_answer(answer, tell)
    if not get_method(config.method).has_exit or "torch" in sys.modules:
        return None
    with Division() as division:  # imports torch, while the data set is looked for
        division.give(config.division(task_of(config).outputs), devices=devices, threads=config.threads)
        division.check()
        return read_answer(division.answer, tell)
