"""Checkpoints without pickle: tensors in safetensors, the rest in JSON. One rename puts a checkpoint in place."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smartedge.artifacts.base import json_checksum
from smartedge.artifacts.checkpoint import CheckpointState
from smartedge.errors import RunError
from smartedge.files import private_folder, replacing, sync_folder

__all__ = ["Checkpoints", "State", "load_weights", "save_weights"]

State = dict[str, Any]  # nested: tensors, numbers, strings, lists and mappings

_TENSOR = "__tensor__"


def save_weights(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors by name as safetensors, whole or not at all; they survive a power failure.

    Args:
        path: the file; its folder must be there.
        state: such as the ``state_dict`` of a module; tensors of any dtype and shape.
        metadata: texts that the file holds beside the tensors.

    Raises:
        OSError: the disk does not take it.
    """
    tensors, taken = dict[str, Tensor](), set[int]()
    for name, tensor in state.items():
        whole = tensor.detach().cpu().contiguous()
        storage = whole.untyped_storage()
        if storage.nbytes() != whole.nbytes or storage.data_ptr() in taken:  # safetensors refuses shared memory
            whole = whole.clone()
        taken.add(storage.data_ptr())
        tensors[name] = whole
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:  # it tells an error of the system by a number in its text
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, tensors on the CPU.

    Raises:
        RunError: where it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: the weights cannot be read ({error}); start a new run") from error


class Checkpoints:
    """Numbered checkpoints in one folder.

    A checkpoint is a nested mapping of tensors, numbers, strings, lists and mappings, such as the ``state_dict`` of a
    module or an optimizer. Numbers grow with time; here they are epochs.

    Args:
        folder: made with the first checkpoint.
        remedy: what helps where one cannot be read, for the message.
    """

    def __init__(self, folder: Path, remedy: str = "delete it to resume before it") -> None:
        self.folder = folder
        self._remedy = remedy

    def numbers(self) -> list[int]:
        """Numbers of the checkpoints in the folder, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal())

    def save(self, number: int, state: State) -> None:
        """Write checkpoint ``number``."""
        target = self.folder / f"{number:08d}"
        temporary = self.folder / f".{number:08d}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        private_folder(temporary)
        tensors: dict[str, Tensor] = {}
        tree = _take_tensors(state, "", tensors)
        save_weights(temporary / "tensors.safetensors", tensors)
        CheckpointState(check=_check(temporary, tree), tree=tree).write(temporary / "state.json")
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
        sync_folder(self.folder)

    def load(self, number: int) -> State:
        """Read checkpoint ``number``, tensors on the CPU.

        Raises:
            RunError: where it is missing or damaged.
        """
        folder = self.folder / f"{number:08d}"
        try:
            state = CheckpointState.read(folder / "state.json")
            if _check(folder, state.tree) != state.check:
                raise RunError(f"{folder}: what it holds is not what was written")
            loaded = _put_tensors(state.tree, load_file(folder / "tensors.safetensors"))
        except (OSError, ValueError, KeyError, RunError, SafetensorError) as error:
            raise RunError(f"{folder}: the checkpoint cannot be read ({error}); {self._remedy}") from error
        if not isinstance(loaded, dict):
            raise RunError(f"{folder}: the checkpoint is not a mapping; {self._remedy}")
        return loaded

    def forget_before(self, number: int) -> None:
        """Remove the checkpoints with lower numbers."""
        for earlier in self.numbers():
            if earlier < number:
                shutil.rmtree(self.folder / f"{earlier:08d}")

    def forget_after(self, number: int) -> None:
        """Remove the checkpoints with higher numbers."""
        for later in self.numbers():
            if later > number:
                shutil.rmtree(self.folder / f"{later:08d}")


def _check(folder: Path, tree: object) -> int:
    """The CRC-32 of a checkpoint. A bit that the disk turned would be learned from, and nobody would know."""
    check = json_checksum(tree)
    with (folder / "tensors.safetensors").open("rb") as file:
        while data := file.read(2**20):
            check = zlib.crc32(data, check)
    return check


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by references; mappings become lists of pairs so that integer keys stay integers."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {"map": [[key, _take_tensors(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_tensors(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} at {path or 'its root'}")


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if "map" in value:
            return {key: _put_tensors(item, tensors) for key, item in value["map"]}
        return [_put_tensors(item, tensors) for item in value["list"]]
    return value
