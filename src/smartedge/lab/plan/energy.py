"""Energy of the edge's radio and processor, from published models. Nothing is measured here, and every result says so.

Radio: Huang, Qian, Gerber, Mao, Sen & Spatscheck, *A close examination of performance and power characteristics of 4G
LTE networks*, MobiSys 2012, table 4: while data move, the power is linear in the throughput, ``P = α·t + β``. The tail
after a transmission (seconds at up to 1 W on LTE) is left out: in training it occurs once.

Processor: the board's published power under load × the seconds in which it computes. Idle power is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from smartedge.artifacts.plan import Energy, Link, Radio

__all__ = ["RADIOS", "RadioPower", "edge_energy"]


@dataclass(frozen=True)
class RadioPower:
    """Power of a radio in mW: ``up``·Mbit/s + ``base`` while sending, ``down``·Mbit/s + ``base`` while receiving."""

    up: float  # α_u, mW per Mbit/s
    down: float  # α_d, mW per Mbit/s
    base: float  # β, mW


RADIOS: dict[Radio, RadioPower] = {
    "3g": RadioPower(868.98, 122.12, 817.88),
    "4g": RadioPower(438.39, 51.97, 1288.04),
    "wifi": RadioPower(283.17, 137.01, 132.86),
}


def edge_energy(
    link: Link, *, compute_watts: float | None, busy_s: float, bytes_up: float, bytes_down: float
) -> Energy:
    """Energy of a run.

    Args:
        link: has the kind of radio and its rates. If one of them is not known, the radio's energy is None, except where
            nothing is sent.
        compute_watts: power of the edge while it computes; None: not known.
        busy_s: seconds in which the edge computes.
        bytes_up: over the whole run.
        bytes_down: over the whole run.
    """
    compute = None if compute_watts is None else compute_watts * busy_s
    if bytes_up + bytes_down == 0:
        return Energy(compute=compute, radio=0.0)
    if link.radio is None or link.up_mbits is None or link.down_mbits is None:
        return Energy(compute=compute, radio=None)
    power = RADIOS[link.radio]
    sending_mw = power.up * link.up_mbits + power.base
    receiving_mw = power.down * link.down_mbits + power.base
    millijoules = sending_mw * link.up_seconds(bytes_up) + receiving_mw * link.down_seconds(bytes_down)
    return Energy(compute=compute, radio=millijoules / 1000)
