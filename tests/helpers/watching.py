"""What a run of the tiny network does, seen from outside: at torch's own hooks, at the link and in the run directory.

Nothing here knows how the package is built inside, so that the tests hold whatever moves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from smartedge.config import Config
from smartedge.runs.progress import Quiet
from smartedge.training import train
from smartedge.wire.frame import parse
from smartedge.wire.memory import MemoryLink

# The first convolution of each half of tests/e2e/tiny.py, by the shape of its kernel.
FRONT, BACK = (8, 3, 3, 3), (16, 8, 3, 3)


def digest(*values: Any) -> str:
    """Short text that differs where the values do."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            value = value.detach().float().cpu().contiguous().numpy()
        found.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()[:16]


def part_of(optimizer: torch.optim.Optimizer) -> str:
    """What an optimizer updates: ``front`` or ``back`` of the tiny network, the ``whole`` of it, or ``adversary``."""
    shapes = {tuple(p.shape) for group in optimizer.param_groups for p in group["params"]}
    names = {(True, True): "whole", (True, False): "front", (False, True): "back", (False, False): "adversary"}
    return names[FRONT in shapes, BACK in shapes]


@dataclasses.dataclass
class Watch:
    """What was seen, by name; see :meth:`facts`."""

    updates: dict[str, list[tuple[Any, ...]]] = dataclasses.field(default_factory=dict)
    inputs: dict[str, list[Tensor]] = dataclasses.field(default_factory=dict)
    formats: dict[str, set[Any]] = dataclasses.field(default_factory=dict)
    threads: set[int] = dataclasses.field(default_factory=set)
    streams: list[Any] = dataclasses.field(default_factory=list)  # headers
    frames: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Names are those of a part (see :func:`part_of`) or of a split, and what was seen of it.

        ``front update``: of its first step, the settings of the optimizer and the gradients, digested. ``front
        updates``: of all steps. ``front steps``: their number. ``front input``: what its first convolution got in
        the first step. ``front format``, ``front format in evaluation``: memory format and autocast dtype of that.
        ``train frames``: payloads. ``train labels``: those that travel.
        """
        facts: dict[str, Any] = {"threads": self.threads}
        for part, updates in self.updates.items():
            facts |= {f"{part} update": updates[0], f"{part} updates": digest(updates), f"{part} steps": len(updates)}
        for part, inputs in self.inputs.items():
            facts[f"{part} input"] = digest(*inputs)
        facts |= {f"{part} format{when}": seen for (part, when), seen in self.formats.items()}
        if self.streams:
            fields = dataclasses.asdict(self.streams[0])
            facts["header"] = {name: fields[name] for name in fields if name not in ("run", "agreement")}
        for split, frames in self.frames.items():
            facts[f"{split} frames"] = digest(*((frame.batch.payload, frame.batch.side) for frame in frames))
            facts[f"{split} labels"] = digest(*(frame.batch.labels.tolist() for frame in frames))
        return facts

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watch]:
        """Look on while the block runs."""
        open_as_usual, write_as_usual, exchange_as_usual = MemoryLink.open, MemoryLink.write, MemoryLink.exchange

        def opened(link: MemoryLink, header: Any) -> int:
            self.streams.append(header)
            return open_as_usual(link, header)

        def wrote(link: MemoryLink, message: Any) -> None:
            self._see_frame(message)
            write_as_usual(link, message)

        def exchanged(link: MemoryLink, message: Any) -> Any:
            self._see_frame(message)
            return exchange_as_usual(link, message)

        hooks = [
            register_module_forward_pre_hook(self._see_call),
            register_optimizer_step_pre_hook(self._see_update),
        ]
        MemoryLink.open, MemoryLink.write, MemoryLink.exchange = opened, wrote, exchanged  # type: ignore[method-assign]
        try:
            yield self
        finally:
            MemoryLink.open, MemoryLink.write = open_as_usual, write_as_usual  # type: ignore[method-assign]
            MemoryLink.exchange = exchange_as_usual  # type: ignore[method-assign]
            for hook in hooks:
                hook.remove()

    def _see_frame(self, message: Any) -> None:
        header = self.streams[-1]
        self.frames.setdefault(header.split, []).append(parse(message, header))

    def _see_call(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not isinstance(module, nn.Conv2d) or type(inputs[0]) is not Tensor:
            return
        part = {FRONT: "front", BACK: "back"}.get(tuple(module.weight.shape))
        if part is None or len(inputs[0]) < 2:  # a probe for a shape
            return
        self.threads.add(torch.get_num_threads())
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        when = "" if module.training else " in evaluation"
        self.formats.setdefault((part, when), set()).add((last, dtype))
        if module.training:
            self.inputs.setdefault(part, []).append(inputs[0].detach().clone())

    def _see_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        seen = (type(optimizer).__name__, repr(settings), digest(*gradients))
        self.updates.setdefault(part_of(optimizer), []).append(seen)


def facts_of(config: Config) -> dict[str, Any]:
    """Train in this process, and tell what was seen: :meth:`Watch.facts`, and

    ``privacy``: of the results. ``policy``: what the ledger fixes.
    """
    with Watch().watching() as watch:
        train(config, single_process=True, monitor=Quiet())
    facts = watch.facts()
    facts["privacy"] = json.loads((config.run_dir / "results.json").read_text())["privacy"]
    ledger = config.run_dir / "edge" / "ledger.sqlite"
    if ledger.exists():
        with contextlib.closing(sqlite3.connect(ledger)) as opened:
            rows = opened.execute(
                "SELECT name, value FROM facts WHERE name NOT IN ('run', 'place', 'checksum') ORDER BY name"
            ).fetchall()
        facts["ledger"] = json.dumps(rows)
    return facts
