"""Measures a network on this machine, each cut in a separate process, and puts the profile together."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from smartedge.artifacts.profile import CutFigures, Profile, Timing
from smartedge.codec import get_codec
from smartedge.config import Config
from smartedge.errors import ConfigError, RunError, SmartEdgeError, from_code
from smartedge.lab.plan.profile import as_method, network_of
from smartedge.methods.base import get_method
from smartedge.runs.machine import describe_machine, pick_device, versions
from smartedge.runs.progress import Monitor, Update
from smartedge.stopping import child_command

__all__ = ["DEFAULT_CODECS", "measure_here", "thin"]

# The default codecs of a plan: those that cost hardly any accuracy.
DEFAULT_CODECS = ("float32", "uint8", "uint4", "image", "jpeg")
_MOST_CUTS = 8
_ENOUGH_S = 45.0  # of measuring; cuts that would take longer are left out where none was named: a minute suffices
_TOGETHER = 3  # times a step is timed beside another process: of interest is a ratio, and each step takes a while
# The methods whose steps are timed: the undivided network on the edge, and a front that learns from its exit.
_WHOLE, _DIVIDED = get_method("local"), get_method("hierarchical")


def measure_here(
    config: Config,
    *,
    monitor: Monitor,
    cuts: Sequence[str] = (),
    codecs: Sequence[str] = (),
    repeats: int = 7,
) -> tuple[Profile, dict[str, int]]:
    """Profile the network of ``config`` on this machine.

    Args:
        config: the run's settings; ``hardware.threads`` is the number of threads of each process.
        monitor: takes progress updates.
        cuts: names of cuts; ``("all",)`` for every one. Default: up to eight, see :func:`thin`.
        codecs: names; those that do not take what crosses are noted in ``left_out``. Default: :data:`DEFAULT_CODECS`
            and the settings' own.
        repeats: how often each step is timed; the median counts.

    Returns:
        The profile, and the images by split of the data set (empty where it is not on this machine).

    Raises:
        ConfigError: a cut is unknown, or no cut can be measured.
        ModuleNotFoundError: torch is not installed.
        SmartEdgeError: what went wrong in measuring.
    """
    names = tuple(dict.fromkeys([*(codecs or DEFAULT_CODECS), config.codec_name]))
    for name in names:
        get_codec(name)
    if find_spec("torch") is None:  # told once, before the processes that measure
        raise ModuleNotFoundError(name="torch")
    begun = time.monotonic()
    monitor.update(Update("", "profile", 0, _MOST_CUTS + 2, "the undivided network"))
    undivided = as_method(config, _WHOLE, config.model.cut)
    named = () if tuple(cuts) == ("all",) else cuts
    whole = _ask(undivided, "whole", names, repeats, named)
    listed = {name: (front, back, size) for name, front, back, size in whole["all_cuts"]}
    chosen = _chosen(listed, cuts, config.model.cut)
    chosen.sort(key=lambda name: name != config.model.cut)  # the one of the settings is measured in any case
    monitor.update(Update("", "profile", 1, len(chosen) + 2, "the undivided network"))
    left_out: dict[str, str] = dict(whole["left_out"])
    measured: list[CutFigures] = []
    first_error: SmartEdgeError | None = None
    longest = 0.0  # seconds for one cut
    for done, name in enumerate(chosen, start=2):
        cut_begun = time.monotonic()
        if measured and not cuts and cut_begun - begun + longest > _ENOUGH_S:
            left_out[name] = f"not measured: it would take more than {_ENOUGH_S:.0f} s; --cuts {name} measures it"
            continue
        try:
            answer = _ask(as_method(config, _DIVIDED, name), "cut", names, repeats)
        except ConfigError as error:  # for example a bottleneck that does not fit this cut
            left_out[name] = str(error)
            first_error = first_error or error
        else:
            left_out |= {f"{codec} at {name}": reason for codec, reason in answer["left_out"].items()}
            front, back, _ = listed[name]
            place = {"name": name, "index": list(listed).index(name) + 1, "front_flops": front, "back_flops": back}
            measured.append(CutFigures.model_validate({**place, **answer["figures"]}))
        longest = max(longest, time.monotonic() - cut_begun)
        monitor.update(Update("", "profile", done, len(chosen) + 2, name))
    measured.sort(key=lambda each: each.index)
    if first_error is not None and not measured:
        raise first_error
    slowdown = _slowdown(undivided, repeats)
    monitor.update(Update("", "profile", len(chosen) + 2, len(chosen) + 2, "two at once"))
    machine = describe_machine()
    profile = Profile.model_validate(
        {
            "kind": "measured",
            "name": str(machine["processor"]),
            "notes": (),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": machine,
            "versions": versions(),
            "device": str(pick_device(config.hardware.edge_device, "hardware.edge_device")),
            "threads": config.threads,
            "cores": _usable_cores(),
            "network": network_of(config),
            "features": whole["features"],
            "outputs": whole["outputs"],
            "all_cuts": tuple(listed),
            "left_out": left_out,
            "cuts": measured,
            "whole": whole["whole"],
            "data": whole["data"],
            "transport": whole["transport"],
            "checkpoint": whole["checkpoint"],
            "slowdown": slowdown,
        }
    )
    return profile, whole["counts"]


def thin(cuts: dict[str, tuple[int, int, int]], most: int, keep: str) -> list[str]:
    """Up to ``most`` names of cuts, spread over the network: the narrowest tensor of each equal part of its work.

    Args:
        cuts: name → FLOPs of front and back, bytes of the tensor that crosses; in the order of execution.
        most: how many.
        keep: a name that is kept in any case, if it is a cut.
    """
    if len(cuts) <= most:
        return list(cuts)
    total = max(1, sum(next(iter(cuts.values()))[:2]))
    stretches: dict[int, str] = {}
    for name, (front, _, size) in cuts.items():
        stretch = min(most - 1, most * front // total)
        other = stretches.get(stretch)
        # Of two equally narrow cuts the later one: the edge does more, and more is hidden.
        if name == keep or other is None or (other != keep and size <= cuts[other][2]):
            stretches[stretch] = name
    return list(stretches.values())


def _chosen(listed: dict[str, tuple[int, int, int]], asked: Sequence[str], own: str) -> list[str]:
    if not listed:
        raise ConfigError("model.name: this network can be cut nowhere, so there is nothing to plan")
    if not asked:
        return thin(listed, _MOST_CUTS, own)
    if tuple(asked) == ("all",):
        return list(listed)
    return [name for name in listed if name in asked]


def _usable_cores() -> int:
    """Cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        child_command("from smartedge.lab.plan.measure import main; main()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the other one
    )


def _request(config: Config, part: str, codecs: Sequence[str], repeats: int, cuts: Sequence[str] = ()) -> str:
    request = {"config": config.model_dump(mode="json"), "part": part, "codecs": list(codecs), "repeats": repeats}
    return json.dumps({**request, "cuts": list(cuts)}) + "\n"


def _ask(config: Config, part: str, codecs: Sequence[str], repeats: int, cuts: Sequence[str] = ()) -> dict[str, Any]:
    """One part, measured in a separate process."""
    with _start() as child:
        try:
            out, _ = child.communicate(_request(config, part, codecs, repeats, cuts))
        except BaseException:
            child.kill()
            raise
    return _answer(out, part)


def _answer(out: str, part: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(out.strip().rpartition("\n")[2])
    except ValueError:
        raise RunError(f"measuring {part!r} failed: its process ended early; what it said is above") from None
    if error := answer.get("error"):
        raise from_code(error["code"], error["message"]) or SmartEdgeError(error["message"])
    return answer


def _slowdown(config: Config, repeats: int) -> float:
    """Seconds of a training step while another process does the same, ÷ seconds of one alone; at least 1.

    The same process is timed alone, together with the other one, and alone again, in a row: what else the machine does
    changes little meanwhile.
    """
    children = [_start(), _start()]
    try:
        for child in children:
            _tell(child, _request(config, "together", (), min(repeats, _TOGETHER)))
        for child in children:
            _hear(child)  # it is ready
        first, other = children
        before = _step_seconds(first)
        _tell(other, "go\n")
        together = _step_seconds(first)
        _hear(other)
        after = _step_seconds(first)
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    return max(1.0, 2 * together / (before + after)) if before + after else 1.0


def _step_seconds(child: subprocess.Popen[str]) -> float:
    _tell(child, "go\n")
    return Timing.model_validate(_hear(child)["step"]).seconds


def _tell(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(line)
        child.stdin.flush()
    except BrokenPipeError:
        pass  # the process has ended; its last answer says why


def _hear(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    return _answer(child.stdout.readline(), "two at once")
