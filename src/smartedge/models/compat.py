"""Imports torchvision and timm: without ``torch._dynamo``, and where torchvision's operators do not fit torch.

torchvision published for CUDA next to a CPU build of torch (the usual result of mixing package indexes, and what some
ARM images ship) fails at import time with ``operator torchvision::nms does not exist``: its library of operators cannot
be loaded, and it registers a shape rule for two of them without looking. No network needs those two operators
(they belong to object detection), so declaring their schemas is enough to make the import work.

torchvision imports ``torch._dynamo``, which takes a second, for one function of object detection. So a mistake in the
settings would be told a second later. That function gets it when it is called.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from smartedge.errors import CutError
from smartedge.extras import how_to_install
from smartedge.models.blame import first_line

__all__ = ["load_timm", "load_torchvision"]

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_DYNAMO = "torch._dynamo.utils"
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
        with _dynamo_later():
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _misfit(package, error) from error
        raise CutError(
            f"networks by name come from torchvision and timm, and {package} is not installed; "
            f"run: {how_to_install('zoo')}"
        ) from error
    except (ImportError, AttributeError, OSError) as error:
        raise _misfit(package, error) from error


@contextmanager
def _dynamo_later() -> Iterator[None]:
    """Meanwhile ``from torch._dynamo.utils import is_compile_supported`` gives a function that imports it when called.

    Code that asks that module for anything else gets the real one.
    """
    if _DYNAMO in sys.modules:
        yield
        return
    stand_in = ModuleType(_DYNAMO)

    def real(name: str) -> object:
        if name.startswith("__"):  # "inspect" looks at __file__ of all modules
            raise AttributeError(name)
        if sys.modules.get(_DYNAMO) is stand_in:
            del sys.modules[_DYNAMO]
        return getattr(importlib.import_module(_DYNAMO), name)

    vars(stand_in)["is_compile_supported"] = lambda device: real("is_compile_supported")(device)  # type: ignore[operator]
    vars(stand_in)["__getattr__"] = real
    sys.modules[_DYNAMO] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_DYNAMO) is stand_in:
            del sys.modules[_DYNAMO]


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
