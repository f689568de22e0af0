"""Metrics and health of a process (``--metrics``). :func:`serving_telemetry` answers with them over HTTP.

The figures are computed when they are asked for, from the state that the process has anyway. So nothing is counted
twice, and a process that nobody asks does nothing, and imports no HTTP server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

__all__ = ["Figure", "Telemetry", "serving_telemetry"]


@dataclass(frozen=True)
class Figure:
    """One metric. It has one value, or one for each value of one label.

    The values of a label are names that this side knows: of authenticated edges, of splits. No text of a peer.
    """

    name: str  # without the prefix smartedge_, and without _total
    help: str
    kind: Literal["gauge", "counter"]
    value: float | Mapping[str, float] | None  # None: not known yet
    label: str = "edge"


@dataclass(frozen=True)
class Telemetry:
    """Metrics and health of a process, computed when they are asked for."""

    figures: Callable[[], Iterable[Figure]]
    trouble: Callable[[], list[str]]  # what is not as it should be


@contextmanager
def serving_telemetry(
    address: tuple[str, int] | None, telemetry: Telemetry, tell: Callable[[str], None]
) -> Iterator[None]:
    """Answer inside the block, where an address is given, and tell which one it is."""
    if address is None:
        yield
        return
    from smartedge.runs.exposition import MetricsServer

    server = MetricsServer(address, telemetry)
    tell(f"metrics at http://{address[0]}:{server.port}/metrics")
    try:
        yield
    finally:
        server.close()
