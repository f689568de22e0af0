"""Weights in several files: Hugging Face writes an index, which names the file of each tensor."""

from __future__ import annotations

import json
from pathlib import Path

from smartedge.errors import CutError
from smartedge.files import open_regular

__all__ = ["INDEX", "weight_files"]

INDEX = ".index.json"
_ENDINGS = (".safetensors", ".bin")  # of the files that it names
_MOST = 2**26  # bytes of an index


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: the file itself, or those that an index names, which lie beside it.

    Raises:
        CutError: it is an index that cannot be read, or names a file that is not beside it.
    """
    if not path.name.lower().endswith(INDEX):
        return [path]
    try:
        with open_regular(path) as file:
            places = json.loads(file.read(_MOST))["weight_map"].values()
        names = sorted({str(name) for name in places})
    except OSError as error:
        raise CutError(f"model.weights: {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CutError(f"model.weights: {path} is no index of files of weights: it has no weight_map") from error
    if elsewhere := [name for name in names if Path(name).name != name or not name.endswith(_ENDINGS)]:
        raise CutError(f"model.weights: {path} names {elsewhere[0]!r}, which is no file of weights beside it")
    if lacking := [name for name in names if not (path.parent / name).is_file()]:
        raise CutError(
            f"model.weights: {path} names {len(names)} files, and {len(lacking)} of them are not beside it: "
            f"{', '.join(lacking[:3])}; copy them to {path.parent}"
        )
    if not names:
        raise CutError(f"model.weights: {path} names no file")
    return [path.parent / name for name in names]
