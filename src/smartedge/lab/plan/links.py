"""Links by name or by figures: rates, latency and kind of radio.

Up- and down-link rates of 3G, 4G and Wi-Fi are the averages that Eshratifar, Abrishami & Pedram use (*JointDNN: an
efficient training and inference engine for intelligent mobile cloud computing services*, IEEE TMC 2021, arXiv
1801.08618). Their latencies are round figures of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from smartedge.errors import ConfigError

__all__ = ["FRAME_OVERHEAD_BYTES", "LINKS", "Link", "parse_link"]

Radio = Literal["3g", "4g", "wifi"]

# Ethernet, IP and TCP headers of full segments: 1514 bytes on the wire carry 1448. Small next to them, and left out:
# acknowledgements.
_HEADERS = 1514 / 1448
# What gRPC and HTTP/2 add to each frame beside payload, ids and labels: measured, docs/decisions/0005.
FRAME_OVERHEAD_BYTES = 29


@dataclass(frozen=True)
class Link:
    """The connection between edge and cloud, as the edge sees it."""

    name: str
    up_mbits: float | None  # Mbit/s; None: as fast as this machine's loopback
    down_mbits: float | None
    latency_s: float  # one way
    radio: Radio | None  # the radio whose power model applies

    def up_seconds(self, bytes_: float) -> float:
        """Seconds that the up-link needs for this number of bytes of TCP payload."""
        return 0.0 if self.up_mbits is None else bytes_ * _HEADERS * 8e-6 / self.up_mbits

    def down_seconds(self, bytes_: float) -> float:
        """Seconds that the down-link needs for this number of bytes of TCP payload."""
        return 0.0 if self.down_mbits is None else bytes_ * _HEADERS * 8e-6 / self.down_mbits

    def __str__(self) -> str:
        if self.up_mbits is None:
            return self.name
        return f"{self.name} ({self.up_mbits:g} Mbit/s up, {1000 * self.latency_s:g} ms)"


LINKS = {
    "local": Link("local", None, None, 0.0, None),
    "3g": Link("3g", 1.1, 2.0275, 0.050, "3g"),
    "4g": Link("4g", 5.85, 13.76, 0.025, "4g"),
    "wifi": Link("wifi", 18.88, 54.97, 0.005, "wifi"),
}

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?(?:mbit(?:/s)?)?$")
_LATENCY = re.compile(r"(\d+(?:\.\d+)?)ms$")


def parse_link(text: str) -> Link:
    """``3g``, ``4g``, ``wifi``, ``local``; ``RATE[/DOWN][,LATENCY][,RADIO]``; or a name and other values for it.

    ``5.85`` is 5.85 Mbit/s both ways without latency; ``1.1/2.0,50ms,3g`` names all four; ``4g,0ms`` is 4g without
    latency.

    Raises:
        ConfigError: anything else.
    """
    link: Link | None = None
    for part in text.lower().replace(" ", "").split(","):
        if part in LINKS:
            link = LINKS[part] if link is None else replace(link, radio=LINKS[part].radio)
        elif (rate := _RATE.fullmatch(part)) and float(rate[1]) > 0 and float(rate[2] or rate[1]) > 0:
            base = link or Link(text, None, None, 0.0, None)
            link = replace(base, name=text, up_mbits=float(rate[1]), down_mbits=float(rate[2] or rate[1]))
        elif (latency := _LATENCY.fullmatch(part)) and link is not None:
            link = replace(link, name=text, latency_s=float(latency[1]) / 1000)
        else:
            raise ConfigError(
                f"--link {text}: {part!r} is not a link; give {', '.join(LINKS)}, or Mbit/s up[/down] and a one-way "
                "latency, such as 5.85,20ms or 1.1/2.0,50ms,3g"
            )
    assert link is not None
    return link
