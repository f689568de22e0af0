"""The rows of the table: each a defence on the plain map, or on a bottleneck of as many bytes as ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from privacy import protection_of

from published.channel_pruning import ChannelPruning
from published.distance_correlation import NoPeek
from published.learner import Defence
from published.max_entropy import Adversary, MaxEntropy
from smartedge.models.layout import Layout

__all__ = ["ROWS", "Row"]

Make = Callable[[float, tuple[int, ...], Layout], Defence]  # the value of the row's setting, feature shape, layout

NARROW = "4x1x1"


@dataclass(frozen=True)
class Row:
    """One defence, in one place.

    Attributes:
        title: its name in the table.
        source: the paper, or nothing.
        bottleneck: None: the plain map.
        settings: of the library, beside those of all rows (model, data, training).
        make: the defence with which the front learns; None: the library's own step, as the settings say.
        after: what is done to the features of a front that is trained, one of the kinds of :func:`fitted_after`.
        front: the row whose front this row uses; None: its own.
        setting: name of the number that was chosen on the validation images.
        values: what was tried for it. Where there is one, nothing was chosen.
        kept: how many channels are sent; None: all.
        side: further bytes of an image.
        anew: the back gets a new release of every image in every epoch, as the paper does it. Otherwise one release.
        note: for the reader of the table.
    """

    title: str
    source: str = ""
    bottleneck: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    make: Make | None = None
    after: str | None = None
    front: str | None = None
    setting: str = ""
    values: tuple[float, ...] = (0.0,)
    kept: int | None = None
    side: int = 0
    anew: bool = False
    note: str = ""


def _no_peek(value: float, shape: tuple[int, ...], layout: Layout) -> Defence:
    return NoPeek(value)


def _max_entropy(value: float, shape: tuple[int, ...], layout: Layout) -> Defence:
    return MaxEntropy(value, Adversary("mlp" if shape[1] == 1 else "conv", shape, layout))


def _pruning(keep: int) -> Make:
    def make(value: float, shape: tuple[int, ...], layout: Layout) -> Defence:
        return ChannelPruning(value, keep, shape, Adversary("mlp" if shape[1] == 1 else "conv", shape, layout))

    return make


def _exit(confusion: str, shape: str) -> dict[str, Any]:
    """One adversarial exit, one step of it for each of the front's, never reset: as in the papers."""
    return {"adversary": {"exits": [shape], "confusion": confusion, "steps": 1, "reset_every": 0}}


_OURS = {key: value for key, value in protection_of("smiling-male-resnet18").items() if key in ("adversary", "dp")}
_PRIPHIT_DP = {"mechanism": "laplace", "granularity": "element"}
_SHREDDER = "learned noise (Shredder)"
_NOPEEK = "distance correlation (NoPeek)"
_DISCO = "channel pruning (DISCO)"
_MAXENT = "maximum-entropy adversary (MaxEnt-ARL)"
_MINIMAX = "minimax adversary (DeepObfuscator)"
_PRIPHIT = "PriPHiT: adversarial exit and Laplace noise"
_ANEW = "training images are sent anew in every epoch; the certificate is about one release"
_HIDES_IMAGE = "hides the image, not an attribute"

ROWS: dict[str, Row] = {
    "undefended": Row("undefended"),
    "bottleneck": Row("narrow bottleneck alone", bottleneck=NARROW),
    "ours": Row(
        "ours: bottleneck, Gaussian noise, two adversarial exits",
        bottleneck=NARROW,
        settings=_OURS,
        note="every training image is released once",
    ),
    "ours-mixture": Row(
        "ours: bottleneck, Gaussian noise, the mixture term",
        bottleneck=NARROW,
        settings={**_OURS, "adversary": {"mixture": 3.0}},
        note="every training image is released once",
    ),
    "projection": Row("random projection", "Liu et al. 2006", front="undefended", after="projection", values=(1024,)),
    "projection-narrow": Row(
        "random projection", "Liu et al. 2006", front="undefended", after="projection", values=(4,)
    ),
    "shredder": Row(
        _SHREDDER,
        "Mireshghallah et al. 2020",
        front="undefended",
        after="noise",
        anew=True,
        setting="start of the noise, b/spread",
        values=(1.0, 2.0, 4.0, 8.0),
    ),
    "shredder-narrow": Row(
        _SHREDDER,
        "Mireshghallah et al. 2020",
        bottleneck=NARROW,
        front="bottleneck",
        after="noise",
        anew=True,
        setting="start of the noise, b/spread",
        values=(0.25, 0.5, 1.0, 2.0),
    ),
    "nopeek": Row(_NOPEEK, "Vepakomma et al. 2020", make=_no_peek, setting="α₁", values=(1.0, 10.0), note=_HIDES_IMAGE),
    "nopeek-narrow": Row(
        _NOPEEK,
        "Vepakomma et al. 2020",
        bottleneck=NARROW,
        make=_no_peek,
        setting="α₁",
        values=(1.0, 10.0),
        note=_HIDES_IMAGE,
    ),
    "disco": Row(
        _DISCO,
        "Singh et al. 2021",
        make=_pruning(22),
        setting="α",
        values=(0.5, 0.9),
        kept=22,
        side=8,
        note="22 of 64 channels are sent (R = 0.65)",
    ),
    "disco-narrow": Row(
        _DISCO,
        "Singh et al. 2021",
        bottleneck="8x1x1",
        make=_pruning(4),
        setting="α",
        values=(0.5, 0.9),
        kept=4,
        side=1,
        note="4 of 8 numbers are sent",
    ),
    "maxent": Row(_MAXENT, "Roy & Boddeti 2019", make=_max_entropy, setting="α", values=(1.0, 3.0, 10.0)),
    "maxent-narrow": Row(
        _MAXENT, "Roy & Boddeti 2019", bottleneck=NARROW, make=_max_entropy, setting="α", values=(1.0, 3.0, 10.0)
    ),
    "minimax": Row(_MINIMAX, "Li et al. 2021", settings=_exit("minimax", "conv"), setting="λ", values=(1.0, 3.0)),
    "minimax-narrow": Row(
        _MINIMAX,
        "Li et al. 2021",
        bottleneck=NARROW,
        settings=_exit("minimax", "mlp"),
        setting="λ",
        values=(1.0, 3.0),
    ),
    "priphit": Row(
        _PRIPHIT,
        "Sepehri et al. 2024",
        settings={**_exit("uniform", "conv"), "dp": {**_PRIPHIT_DP, "clip": 2.0, "sigma": 1.0}},
        setting="λ",
        values=(3.0, 10.0),
        anew=True,
        note=_ANEW,
    ),
    "priphit-narrow": Row(
        _PRIPHIT,
        "Sepehri et al. 2024",
        bottleneck=NARROW,
        settings={**_exit("uniform", "mlp"), "dp": {**_PRIPHIT_DP, "sigma": 0.4}},
        setting="λ",
        values=(3.0, 10.0),
        anew=True,
        note=f"{_ANEW}; noise of the same standard deviation as ours",
    ),
}
