"""Keeps finished attacks in a folder, so that a second call can reuse them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.files import private_folder, write_json_atomically
from smartedge.lab.audit.evidence import Evidence, digest_of
from smartedge.runs.checkpoint import save_weights

__all__ = ["Store", "key_of", "weights_key"]


class Store:
    """A folder of finished pieces of work: ``NAME.json`` and, where it has tensors, ``NAME.safetensors``.

    A piece is used only if its key is the one asked for. So a piece of another run, other attributes or another seed is
    made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        private_folder(folder)

    def load(self, name: str, key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The piece; None where it is missing, incomplete, or has another key."""
        try:
            piece = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            if piece["key"] != key:
                return None
            return piece["value"], load_file(self.folder / f"{name}.safetensors") if piece["tensors"] else {}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def save(self, name: str, key: str, value: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Keep a piece. The JSON file is written last: it marks the piece as complete."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        if tensors:
            save_weights(self.folder / f"{name}.safetensors", tensors)
        write_json_atomically(
            self.folder / f"{name}.json", {"key": key, "value": dict(value), "tensors": bool(tensors)}
        )


def key_of(evidence: Evidence, *others: object) -> str:
    """A digest of what a piece of work was made from: the evidence, and the ``repr`` of ``others``."""
    return hashlib.sha256(repr((evidence.fingerprint, others)).encode()).hexdigest()[:32]


def weights_key(network: nn.Module | None) -> str | None:
    """A digest of a network's weights, so that a piece made or judged with other weights is not used."""
    return None if network is None else digest_of(network.state_dict().values())
