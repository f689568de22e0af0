"""Finished attacks, kept in a folder so that a second call goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.files import write_json_atomically
from smartedge.lab.audit.evidence import Evidence, digest_of
from smartedge.runs.checkpoint import save_weights

__all__ = ["Store", "key_of", "weights_key"]


class Store:
    """Finished pieces of work: ``NAME.json`` and, where it has tensors, ``NAME.safetensors``.

    A piece counts only where its key is the one asked for, so that what belongs to another run, other attributes or
    another seed is done again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The piece, or None where it is not there, not whole, or of another key."""
        try:
            piece = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            if piece["key"] != key:
                return None
            return piece["value"], load_file(self.folder / f"{name}.safetensors") if piece["tensors"] else {}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def save(self, name: str, key: str, value: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Keep a piece; the JSON is written last, since it says that all is there."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        if tensors:
            save_weights(self.folder / f"{name}.safetensors", tensors)
        write_json_atomically(
            self.folder / f"{name}.json", {"key": key, "value": dict(value), "tensors": bool(tensors)}
        )


def key_of(evidence: Evidence, *others: object) -> str:
    """Identifies a piece of work by what it was made from: the evidence, and ``others`` (by their ``repr``)."""
    return hashlib.sha256(repr((evidence.fingerprint, others)).encode()).hexdigest()[:32]


def weights_key(network: nn.Module | None) -> str | None:
    """Identifies a network by its weights: a piece that was made or judged with another one does not count."""
    return None if network is None else digest_of(network.state_dict().values())
