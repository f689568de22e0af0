"""Divides the network in a process of its own, which ends before the edge's process imports torch.

To build a network takes its library and all its weights; to record it takes torch's compiler. The training needs none
of them. The other process hands over front and exit, and all the rest ends with it: a third of the memory that the
edge took beyond its start (docs/decisions/0087-the-network-is-divided-apart.md).

The two processes exchange a pickle through a pipe. Both are this program, so no stranger's pickle is read.
"""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251 - from a process that this one has started, see above
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from smartedge.errors import SmartEdgeError, from_code
from smartedge.models.blueprint import Blueprint

if TYPE_CHECKING:
    from smartedge.models.network import EdgeParts

__all__ = ["divide_apart", "open_parts"]

_PROGRAM = "from smartedge.edge.apart import main; main()"
_HERE = "the network is divided in the edge's own process, which takes more memory"
Tell = Callable[[str], None]


def divide_apart(blueprint: Blueprint, tell: Tell, *, device: str, threads: int) -> bytes | None:
    """Front and exit as :func:`open_parts` reads them. None: the other process has none, and ``tell`` got the reason.

    Args:
        blueprint: of the network.
        tell: takes a line for the user.
        device: the setting ``hardware.edge_device``. Whether it is there is looked at first.
        threads: of torch.

    Raises:
        SmartEdgeError: what is wrong with the network or the device.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=pickle.dumps((blueprint, device, threads, sys.path)),
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the other one
    )
    if done.returncode:
        tell(f"{_HERE}: the process for this ended with code {done.returncode}")
        return None
    code, told = pickle.loads(done.stdout)
    if isinstance(told, bytes):
        return told
    if code is None:
        tell(f"{_HERE}: {told}")
        return None
    raise from_code(code, told) or SmartEdgeError(told)


def open_parts(made: bytes, tell: Tell) -> EdgeParts | None:
    """Front and exit. None: this process cannot hold them, and ``tell`` got the reason."""
    from smartedge.models.blame import first_line
    from smartedge.models.zoo.networks import importing_from

    try:
        with importing_from(Path.cwd()):  # as when the user's own network was built
            return cast("EdgeParts", _Unpickler(io.BytesIO(made)).load())
    except Exception as error:
        tell(f"{_HERE}: {first_line(error)}")
        return None


class _Unpickler(pickle.Unpickler):
    """Imports the libraries of networks as :mod:`smartedge.models.compat` does."""

    def find_class(self, module: str, name: str) -> Any:
        library = module.partition(".")[0]
        if library in ("timm", "torchvision"):
            from smartedge.models.compat import load_timm, load_torchvision

            (load_timm if library == "timm" else load_torchvision)()
        return super().find_class(module, name)


def main() -> None:
    """The other process: reads what to divide from standard input, and writes the answer to standard output.

    The answer is a pair: None and the parts; the code of a :class:`SmartEdgeError` and its message; or None and the
    reason why there are no parts.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a network's code prints is no answer
    blueprint, device, threads, sys.path[:] = pickle.load(sys.stdin.buffer)
    with answers:
        pickle.dump(_divided(blueprint, device, threads), answers)


def _divided(blueprint: Blueprint, device: str, threads: int) -> tuple[str | None, str | bytes]:
    import torch

    from smartedge.models.blame import first_line
    from smartedge.models.network import EdgeParts, divide
    from smartedge.runs.machine import pick_device

    torch.set_num_threads(threads)
    try:
        pick_device(device, "hardware.edge_device")  # an error comes before the network is built
        whole = divide(blueprint)
        return None, pickle.dumps(EdgeParts(whole.front, whole.task_exit, whole.feature_shape, whole.layout))
    except SmartEdgeError as error:
        return error.code, str(error)
    except Exception as error:  # the edge's own process meets it too, and shows where; or only a pickle is impossible
        return None, first_line(error)
