"""Answers for new images: by the task exit on the edge where it is confident, else by the back in the cloud.

:class:`Answerer` works with a front that torch runs (:class:`TorchFront`, from a run directory) or that ONNX Runtime
runs (:class:`smartedge.fronts.runtime.OnnxFront`, from a front bundle). Names are imported at first use, since the
second needs no torch.

``answering`` answers images from ``sources``, ``backs`` is the back, here or on a server. ``trained`` is a finished
run that answers. ``calibrating`` and ``run_calibration`` find when to ask the back, ``exporting`` publishes a front.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartedge.inference.answering import Answer, Answerer, Front
    from smartedge.inference.backs import BackServer, LocalBack
    from smartedge.inference.exporting import export_front
    from smartedge.inference.sources import SourceImage, open_source
    from smartedge.inference.trained import TorchFront, TrainedRun

_PUBLIC = {
    "Answer": "answering",
    "Answerer": "answering",
    "BackServer": "backs",
    "Front": "answering",
    "LocalBack": "backs",
    "SourceImage": "sources",
    "TorchFront": "trained",
    "TrainedRun": "trained",
    "export_front": "exporting",
    "open_source": "sources",
}

__all__ = [
    "Answer",
    "Answerer",
    "BackServer",
    "Front",
    "LocalBack",
    "SourceImage",
    "TorchFront",
    "TrainedRun",
    "export_front",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'smartedge.inference' has no attribute {name!r}")
    return getattr(importlib.import_module(f"smartedge.inference.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
