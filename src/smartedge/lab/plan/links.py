"""Links by name or by figures: rates, latency and kind of radio.

Up- and down-link rates of 3G, 4G and Wi-Fi are the averages that Eshratifar, Abrishami & Pedram use (*JointDNN: an
efficient training and inference engine for intelligent mobile cloud computing services*, IEEE TMC 2021, arXiv
1801.08618). Their latencies are round figures of ours.
"""

from __future__ import annotations

import re

from smartedge.artifacts.plan import Link
from smartedge.errors import ConfigError

__all__ = ["FRAME_OVERHEAD_BYTES", "LINKS", "parse_link"]

# What gRPC and HTTP/2 add to each frame beside payload, ids and labels: measured, docs/decisions/0005.
FRAME_OVERHEAD_BYTES = 29


LINKS = {
    "local": Link(name="local", up_mbits=None, down_mbits=None, latency_s=0.0, radio=None),
    "3g": Link(name="3g", up_mbits=1.1, down_mbits=2.0275, latency_s=0.050, radio="3g"),
    "4g": Link(name="4g", up_mbits=5.85, down_mbits=13.76, latency_s=0.025, radio="4g"),
    "wifi": Link(name="wifi", up_mbits=18.88, down_mbits=54.97, latency_s=0.005, radio="wifi"),
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
            link = LINKS[part] if link is None else link.model_copy(update={"radio": LINKS[part].radio})
        elif (rate := _RATE.fullmatch(part)) and float(rate[1]) > 0 and float(rate[2] or rate[1]) > 0:
            base = link or Link(name=text, up_mbits=None, down_mbits=None, latency_s=0.0, radio=None)
            link = base.model_copy(
                update={"name": text, "up_mbits": float(rate[1]), "down_mbits": float(rate[2] or rate[1])}
            )
        elif (latency := _LATENCY.fullmatch(part)) and link is not None:
            link = link.model_copy(update={"name": text, "latency_s": float(latency[1]) / 1000})
        else:
            raise ConfigError(
                f"--link {text}: {part!r} is not a link; give {', '.join(LINKS)}, or Mbit/s up[/down] and a one-way "
                "latency, such as 5.85,20ms or 1.1/2.0,50ms,3g"
            )
    assert link is not None
    return link
