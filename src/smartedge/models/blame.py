"""Where and why the user's own code failed, in a few words for an error's message."""

from __future__ import annotations

import importlib
import shlex
import traceback
from pathlib import Path

import torch

__all__ = ["first_line", "kind_and_place", "place_and_reason", "where_to_find"]

# Frames that say nothing to the author of the network.
_HIDDEN = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<frozen importlib", importlib.__file__)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def place_and_reason(error: BaseException) -> str:
    """The user's line that raised the error, where there is one, and the error's first line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = _frames(error)
    place = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}: " if frames else ""
    return place + first_line(error)


def kind_and_place(error: BaseException) -> str:
    """The kind of the error, and :func:`place_and_reason`."""
    return f"{type(error).__name__}: {place_and_reason(error)}"


def where_to_find(error: ModuleNotFoundError) -> str:
    """What to do about a module that the user's code imports in vain: it may lie beside the file that imports it."""
    name, frames = (error.name or "").partition(".")[0], _frames(error)
    folder = Path(frames[-1].filename).parent if frames else Path()
    beside = bool(name) and ((folder / name).is_dir() or (folder / f"{name}.py").exists())
    return f"let Python find it: PYTHONPATH={shlex.quote(str(folder))}" if beside else "install it"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Those in the user's own code, the innermost last."""
    return [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_HIDDEN)]
