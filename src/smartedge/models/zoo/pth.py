"""Reads the tensors of a ``.pth`` file without running any of the code that such a file can hold.

``torch.save`` writes a pickle, and a pickle is a program: whoever unpickles it runs it. Here the program is only read.
:func:`pickletools.genops` lists its operations. A small machine follows those that make plain data, and knows the few
names with which torch describes a tensor. Everything else in the file, such as an optimizer or the arguments of a
script, becomes an :class:`Unknown` with a name, and nothing is imported or called for it.

Both forms of the file are read: the zip archive of torch 1.6 and later, and the older one.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

__all__ = ["Unknown", "UnreadableFile", "read_pth"]

_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_REPEATED = 2**20  # numbers of a tensor that repeats those of its stretch
_DAMAGE = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, MemoryError),
    *(struct.error, zipfile.BadZipFile),
)


class UnreadableFile(Exception):
    """The file is damaged, or no file of torch; the text says what is wrong."""


@dataclass
class Unknown:
    """A Python object of the file that was neither imported nor made."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A stretch of memory that the file holds under ``key``."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor before its numbers are read."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pth(path: Path) -> Any:
    """What was saved: tensors, numbers, texts, lists, tuples and dicts. All else is an :class:`Unknown`.

    Raises:
        UnreadableFile: it is damaged, or no file of torch.
        OSError: it cannot be opened.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            return _read_legacy(file)
    except _DAMAGE as error:
        raise UnreadableFile(f"it is damaged, or no file of torch ({error})") from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if len(names) != 1:
            held = ", ".join(archive.namelist()[:3]) or "nothing"
            raise UnreadableFile(
                f"it is a zip archive without torch's data.pkl (it holds {held}); load it in the program that wrote "
                "it, and save the named tensors as safetensors"
            )
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise UnreadableFile("it is TorchScript, a program; load it in torch and save its state_dict()")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise UnreadableFile("it is compressed, which torch never does")
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise UnreadableFile("its parts lie within each other, which torch never does")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise UnreadableFile("it was written on a big-endian machine")
        with archive.open(names[0]) as program:
            saved = _follow(program)

        def bytes_of(storage: _Storage) -> bytes:
            return archive.read(f"{folder}data/{storage.key}")

        return _with_tensors(saved, bytes_of)


def _read_legacy(file: IO[bytes]) -> Any:
    if _follow(file) != _LEGACY_MAGIC:
        raise UnreadableFile(
            "it is neither a zip archive nor torch's older form but another pickle; if you trust it, load it in Python "
            "and save the named tensors as safetensors"
        )
    _follow(file)  # version of the form
    if not _follow(file)["little_endian"]:
        raise UnreadableFile("it was written on a big-endian machine")
    known: dict[str, _Storage] = {}
    saved = _follow(file, known)
    keys = _follow(file)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if key not in known or known[key].count != count:
            raise UnreadableFile(f"nothing in it fits its stretch {key}")
        places[key] = (file.tell(), count * known[key].dtype.itemsize)
        file.seek(sum(places[key]))

    def bytes_of(storage: _Storage) -> bytes:
        place, size = places[storage.key]
        file.seek(place)
        return file.read(size)

    return _with_tensors(saved, bytes_of)


# ---- tensors


def _with_tensors(saved: Any, bytes_of: Callable[[_Storage], bytes]) -> Any:
    """``saved`` with a tensor in place of each view. Views of one stretch share memory, as they did before."""
    memory: dict[str, Tensor] = {}
    made: dict[int, Any] = {}

    def tensor(view: _View) -> Tensor:
        storage = view.storage
        last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
        if min((0, view.offset, *view.size, *view.stride)) < 0 or (0 not in view.size and last >= storage.count):
            raise UnreadableFile(f"a tensor reaches beyond its stretch {storage.key}")
        if math.prod(view.size) > max(storage.count, _REPEATED):
            raise UnreadableFile(f"a tensor of shape {view.size} repeats the {storage.count} numbers that it has")
        if storage.key not in memory:
            data = bytearray(bytes_of(storage))
            if len(data) < storage.count * storage.dtype.itemsize:
                raise UnreadableFile(f"its stretch {storage.key} ends early")
            empty = torch.empty(0, dtype=storage.dtype)
            memory[storage.key] = torch.frombuffer(data, dtype=storage.dtype) if data else empty
        return memory[storage.key].as_strided(view.size, view.stride, view.offset)

    def finished(value: Any, depth: int) -> Any:
        if depth > 20:
            return Unknown("a deeply nested value")
        if id(value) not in made:
            if isinstance(value, _View):
                made[id(value)] = tensor(value)
            elif isinstance(value, dict):
                made[id(value)] = {key: finished(item, depth + 1) for key, item in value.items()}
            elif isinstance(value, (list, tuple)):
                made[id(value)] = type(value)(finished(item, depth + 1) for item in value)
            else:
                return value
        return made[id(value)]

    return finished(saved, 0)


# ---- the machine


class _Mark:
    """Where a group of values begins."""


def _follow(program: IO[bytes], stretches: dict[str, _Storage] | None = None) -> Any:
    """The value that a pickle describes; see the module's first lines.

    Args:
        program: the pickle.
        stretches: filled with the stretches of memory that it names, by their keys: also those of objects that are left
            out.
    """
    machine = _Machine({} if stretches is None else stretches)
    for operation, argument, _ in pickletools.genops(program):
        if operation.name == "STOP":
            break
        machine.do(operation.name, argument)
    return machine.stack[-1]


class _Machine:
    """Follows the operations of a pickle that make plain data."""

    def __init__(self, stretches: dict[str, _Storage]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.stretches = stretches

    def do(self, name: str, argument: Any) -> None:
        """Carry out one operation.

        Raises:
            UnreadableFile: it is none that torch writes.
        """
        if name in _SILENT:
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STORES:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _FETCHES:
            self.stack.append(self.memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise UnreadableFile(f"it holds the operation {name}, which torch does not write")

    def group(self) -> list[Any]:
        """What was put down since the last mark."""
        place = max(index for index, value in enumerate(self.stack) if isinstance(value, _Mark))
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def take(self, count: int) -> list[Any]:
        """The last ``count`` values."""
        if len(self.stack) < count:
            raise UnreadableFile("its program takes more than it has put down")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(self.take(count)))

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1] |= _dict(zip(values[::2], values[1::2], strict=True))

    def name(self, text: str) -> None:
        self.stack.append(Unknown(text))

    def call(self) -> None:
        function, arguments = self.take(2)
        self.stack.append(_result(function, arguments))

    def stretch(self) -> None:
        """A reference to a stretch of memory: ("storage", kind, key, place, count, ...)."""
        (reference,) = self.take(1)
        if reference[0] == "module":  # of a whole network that was saved: its class
            self.stack.append(reference[1])
            return
        kind = reference[1].name.removeprefix("torch.").removesuffix("Storage")
        if reference[0] != "storage" or kind not in _DTYPES:
            raise UnreadableFile(
                f"it holds tensors of a kind that is not known: {reference[1].name}; convert these, for example to "
                "float32, and save the file again"
            )
        storage = _Storage(str(reference[2]), _DTYPES[kind], int(reference[4]))
        if self.stretches.setdefault(storage.key, storage) != storage:
            raise UnreadableFile(f"its stretch {storage.key} is of two kinds")
        self.stack.append(storage)


def _dict(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dict with plain keys. Of others not even the hash is asked for: a tuple may unfold to any size."""
    return {key if isinstance(key, (str, int, float, bool)) else "an object": value for key, value in pairs}


def _result(function: Any, arguments: Any) -> Any:
    """What torch's own functions for tensors would return, as plain data; an :class:`Unknown` for all others."""
    name = function.name if isinstance(function, Unknown) else "an object"
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, offset, size, stride = arguments[:4]
        if isinstance(storage, _Storage):
            return _View(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes
        return _result(arguments[0], arguments[2])
    if name == "collections.OrderedDict":
        return _dict(arguments[0]) if arguments else {}
    if name == "torch.Size":
        return tuple(arguments[0])
    return Unknown(name)


_SILENT = {"PROTO", "FRAME"}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Unknown("a set"),
    "MARK": _Mark,
}
_STORES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_FETCHES = {"GET", "BINGET", "LONG_BINGET"}
_ACTIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "POP": lambda m, _: m.take(1),
    "POP_MARK": lambda m, _: m.group(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.group())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.stack.append(m.group()),
    "FROZENSET": lambda m, _: m.stack.append(Unknown(f"a set of {len(m.group())}")),
    "ADDITEMS": lambda m, _: m.group(),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.group()),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.group()),
    "GLOBAL": lambda m, argument: m.name(str(argument).replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: m.name(".".join(map(str, m.take(2)))),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "NEWOBJ_EX": lambda m, _: m.stack.append(_result(*m.take(3)[:2])),
    "BUILD": lambda m, _: m.take(1),  # attributes of an object, such as a state dict's versions of modules
    "BINPERSID": lambda m, _: m.stretch(),
}
