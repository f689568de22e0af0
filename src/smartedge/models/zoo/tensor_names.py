"""Names of the tensors in a file, turned into those of a network: without the prefixes of wrappers, or with its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

__all__ = ["own_names"]

_PREFIX = 3  # steps of a name that may be a prefix, such as ``module.model.``
# Steps that wrappers of torch put anywhere into a name, and numbers that a counter of operations left in each module.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_COUNTED = re.compile(r"(^|\.)total_(ops|params)$")


def own_names(state: Mapping[str, Tensor], own: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by the names of a network, where one prefix more or less makes more names fit; and notes.

    Where several prefixes give equally many (``encoder_q.`` and ``encoder_k.``), the first in the file is taken.

    Args:
        state: as in the file.
        own: the network's names.
    """
    ordered = list(own)
    own = set(ordered)
    state = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items() if not _COUNTED.search(name)}
    found, chosen, fit = state, [""], len(own & state.keys())
    for prefix in _prefixes(state):
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if (names := len(own & inner.keys())) > fit:
            found, chosen, fit = inner, [prefix], names
        elif names == fit and chosen[0]:
            chosen.append(prefix)
    added = ""
    for prefix in _prefixes(ordered):
        outer = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        if (names := len(own & outer.keys())) > max(fit, len(state) // 2):
            found, added, fit = outer, prefix, names
    if added:
        return found, [f"its names were given the prefix {added!r}"]
    if not chosen[0]:
        return found, []
    left = len(state) - len(found)
    others = f", of which those of {' and '.join(map(repr, chosen[1:]))} would fit as well" if chosen[1:] else ""
    said = f" ({left} tensors without it are left out{others})" if left else ""
    return found, [f"without the prefix {chosen[0]!r}{said}"]


def _prefixes(names: Iterable[str]) -> Iterator[str]:
    """Beginnings of the names, by whole steps; short ones first."""
    names = list(names)
    for depth in range(1, _PREFIX + 1):
        yield from dict.fromkeys(".".join(n.split(".")[:depth]) + "." for n in names if n.count(".") >= depth)
