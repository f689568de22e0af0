"""Named tensors from files of weights: what kind of file it is shows in its first bytes, not in its ending.

Training scripts put weights in many places of a checkpoint. The place with the most tensors is taken, and said.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smartedge.errors import CutError
from smartedge.files import open_regular
from smartedge.images.decode import is_lfs_pointer
from smartedge.models.weight_files import INDEX, weight_files
from smartedge.models.zoo.pth import Unknown, UnreadableFile, read_pth

__all__ = ["read_weights"]

# Where training scripts put the weights, the most usual first. Other places (``encoder``, ``params``) come after these.
_PLACES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema", "module", "net", "network")
_DEPTH = 3  # dicts within dicts that are looked into
_FIRST = 512  # bytes that tell the kind of a file
# What a file begins with that is none of torch or safetensors: what it is, and what to do.
_KINDS = (
    (b"PK\x03\x04", "it ends early, as an interrupted download does; fetch it again"),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it"),
    (b"\x89HDF", "it is HDF5, as Keras writes it; convert it to safetensors"),
    (b"\x08", "it is of ONNX or TensorFlow; take the weights of the network in torch (state_dict), as safetensors"),
    (b"\x93NUMPY", "it is an array of NumPy; save named tensors as safetensors"),
    (b"GGUF", "it is GGUF, whose numbers are quantised; take the weights as safetensors"),
    (b"TFL3", "it is of TensorFlow Lite; take the weights as safetensors"),
)

# What to do with a file without tensors, by what it holds most of.
_REMEDIES = {
    "object": "A file that holds a network as a Python object can only be read by running its code; if you trust it, "
    "load it in torch and save model.state_dict() with safetensors.torch.save_file",
    "array": "Its numbers are arrays of NumPy; if you trust it, load it in Python and save the named arrays with "
    "safetensors.numpy.save_file",
    "optimizer": "It is the state of an optimizer; give the file that holds model.state_dict()",
    "": "Save model.state_dict(), the tensors of torch by their names",
}


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors of a file, and notes about what was chosen.

    Raises:
        CutError: it cannot be read, or holds no named tensors. The message says what it holds.
    """
    state: dict[str, Tensor] = {}
    notes: list[str] = []
    for file in weight_files(path):
        found, notes = _read(file)
        state |= found
    return state, notes


def _read(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    first = b""
    try:
        if path.is_dir():
            raise CutError(f"model.weights: {path} is a folder; give the file in it{_within(path)}")
        with open_regular(path) as file:
            first = file.read(_FIRST)
        if is_lfs_pointer(first[:64]):
            raise CutError(f"model.weights: {path} is a git-LFS pointer, not the file itself; run 'git lfs pull'")
        if not first:
            raise UnreadableFile("it is empty; fetch it again")
        if _is_safetensors(first):
            return load_file(path), []
        saved = read_pth(path)
    except OSError as error:
        raise CutError(f"model.weights: {path} cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise CutError(f"model.weights: {path} cannot be read: {error}; fetch it again") from error
    except UnreadableFile as error:
        raise CutError(f"model.weights: {path} cannot be read: {_what(path, first) or error}") from error
    places = {place: tensors for place, tensors in _places(saved, "", 0, set()) if tensors}
    if not places:
        raise CutError(f"model.weights: {path} {_what_else(saved)}")
    most = max(map(len, places.values()))
    # Further tensors, such as a best accuracy or the state of an optimizer, are fewer. Copies (EMA) are as many.
    alike = sorted((p for p in places if len(places[p]) == most), key=_rank)
    chosen, *others = alike
    others += [place for place in places if 2 * len(places[place]) > most and place not in alike]
    if not chosen:
        return places[chosen], []
    beside = f"; not used is what is in its {', '.join(map(repr, others))}" if others else ""
    return places[chosen], [f"taken from its {chosen!r}{beside}"]


def _is_safetensors(first: bytes) -> bool:
    """Eight bytes of a length, then JSON."""
    return first[8:9] == b"{" and first[:2] != b"PK"


def _what(path: Path, first: bytes) -> str:
    """What the file is, by its first bytes; empty: not known, or a whole archive."""
    if zipfile.is_zipfile(path):
        return ""
    if first.lstrip()[:1] == b"<":
        return "it is a web page or XML, not the file itself; fetch the file behind the page's download link"
    if first[257:262] == b"ustar":
        return "it is a tar archive; unpack it, or where torch 0.1 wrote it, load it there and save its state_dict()"
    if first.lstrip()[:1] in (b"{", b"["):
        return "it is JSON; give the file of weights that belongs to it"
    return next((said for begin, said in _KINDS if first.startswith(begin)), "")


def _within(folder: Path) -> str:
    known = (INDEX, ".safetensors", ".pth", ".pt", ".bin", ".ckpt")  # the index first: it names several files
    names = sorted(each.name for each in folder.iterdir())
    found = [name for ending in known for name in names if name.endswith(ending)]
    return f", such as {found[0]}" if found else ", a .safetensors or .pth file"


def _places(saved: Any, place: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dict in what was saved, by its place such as ``ema.state_dict``, with the tensors that it names."""
    if not isinstance(saved, Mapping) or id(saved) in seen:
        return
    seen.add(id(saved))
    yield place, {str(name): value for name, value in saved.items() if isinstance(value, Tensor)}
    if depth < _DEPTH:
        for name, value in saved.items():
            if isinstance(name, str):  # the state of an optimizer has numbers
                yield from _places(value, f"{place}.{name}".lstrip("."), depth + 1, seen)


def _rank(place: str) -> int:
    last = place.rpartition(".")[2] if place.partition(".")[0] not in _PLACES else place.partition(".")[0]
    return _PLACES.index(last) if last in _PLACES else len(_PLACES)


def _what_else(saved: Any) -> str:
    held = f"it holds {', '.join(map(repr, list(saved)[:8])) or 'nothing'}" if isinstance(saved, Mapping) else ""
    kind = saved.name if isinstance(saved, Unknown) else type(saved).__name__
    often = Counter(_other_kinds(saved, 0)).most_common(1)
    return f"holds no named tensors: {held or f'it holds a {kind}'}. {_REMEDIES[often[0][0] if often else '']}"


def _other_kinds(value: Any, depth: int) -> Iterator[str]:
    """The keys of ``_REMEDIES`` for what lies in what was saved."""
    if isinstance(value, Unknown) and not value.name.endswith("multiarray.scalar"):
        yield "array" if value.name.endswith((".multiarray._reconstruct", ".numeric._frombuffer")) else "object"
    elif isinstance(value, (Mapping, list, tuple)) and depth <= _DEPTH:
        if isinstance(value, Mapping) and "param_groups" in value:
            yield "optimizer"
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _other_kinds(item, depth + 1)
