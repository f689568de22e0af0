"""Imports torchvision where its compiled operators do not fit the installed torch.

torchvision published for CUDA next to a CPU build of torch (the usual result of mixing package indexes, and what some
ARM images ship) fails at import time with ``operator torchvision::nms does not exist``: its library of operators cannot
be loaded, and it registers a shape rule for two of them without looking. No network needs those two operators
(they belong to object detection), so declaring their schemas is enough to make the import work.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

import torch

from smartedge.errors import CutError
from smartedge.models.blame import first_line

__all__ = ["load_timm", "load_torchvision"]

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a schema lives as long as the library object that declared it


def load_torchvision() -> ModuleType:
    """Import torchvision. Nothing is changed where the import works by itself.

    Raises:
        CutError: torchvision is not installed (names the extra that brings it), or does not fit the installed torch.
    """
    try:
        return _load("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise _misfit("torchvision", error) from error
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library = torch.library.Library("torchvision", "FRAGMENT")
                library.define(operator + _SCHEMA)
                _declared.append(library)
        try:
            return _load("torchvision")
        except RuntimeError as again:
            raise _misfit("torchvision", again) from again


def load_timm() -> ModuleType:
    """Import timm, which imports torchvision.

    Raises:
        CutError: timm is not installed (names the extra that brings it), or does not fit the installed torch.
    """
    load_torchvision()
    try:
        return _load("timm")
    except RuntimeError as error:
        raise _misfit("timm", error) from error


def _load(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _misfit(package, error) from error
        raise CutError(
            f"networks by name come from torchvision and timm, and {package} is not installed; "
            'run: pip install "smartedge[zoo]"'
        ) from error
    except (ImportError, AttributeError, OSError) as error:
        raise _misfit(package, error) from error


def _misfit(package: str, error: Exception) -> CutError:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return CutError(
        f"{package} {version} does not fit torch {torch.__version__} here: importing it fails "
        f"({first_line(error)}). Install versions that belong together, "
        "from one index: pip install --upgrade torch torchvision timm"
    )
