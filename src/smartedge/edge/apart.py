"""Divides the network in a process of its own, which ends before the edge's process imports torch.

To build a network takes its library and all its weights; to record it takes torch's compiler. The training needs none
of them. The other process hands over front and exit, and all the rest ends with it: a third of the memory that the
edge took beyond its start (docs/decisions/0087-the-network-is-divided-apart.md).

The two processes exchange a pickle through a pipe. Both are this program, so no stranger's pickle is read.

``smartedge train`` starts the other process itself, before both sides, and hands the pipe to the edge. So a mistake in
the settings of the network is told before the sides begin
(docs/decisions/0101-mistakes-are-told-before-the-sides-begin.md).
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle  # noqa: TID251 - from a process that this one has started, see above
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from smartedge.errors import SmartEdgeError, from_code
from smartedge.models.blueprint import Blueprint
from smartedge.stopping import child_command

if TYPE_CHECKING:
    from smartedge.models.network import EdgeParts

__all__ = ["Division", "open_parts", "read_answer"]

_PROGRAM = "from smartedge.edge.apart import main; main()"
_RIGHT, _WRONG = b"+", b"-"  # the first byte of an answer
_HERE = "the network is divided in the edge's own process, which takes more memory"
Tell = Callable[[str], None]


class Division:
    """The other process: it imports torch, looks at the network that it is given, and divides it.

    It ends with the ``with`` block, whether or not it has answered.

    Args:
        stderr: where the output of a network's own code goes; None: to that of this process.
    """

    def __init__(self, stderr: int | None = None) -> None:
        self._process = subprocess.Popen(
            child_command(_PROGRAM),
            bufsize=0,  # nothing is read that is for another process
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the other one
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._given: IO[bytes] = self._process.stdin
        self.answer: IO[bytes] = self._process.stdout  # for read_answer, when check has returned

    def give(self, blueprint: Blueprint, *, devices: Mapping[str, str], threads: int) -> None:
        """Say what to divide.

        Args:
            blueprint: of the network.
            devices: setting → the device that it names. Whether they are there is looked at first.
            threads: of torch.
        """
        with contextlib.suppress(BrokenPipeError), self._given:  # it has ended, and will not answer
            self._given.write(pickle.dumps((blueprint, dict(devices), threads, sys.path)))

    def check(self) -> None:
        """Wait until device and network have been looked at, before the network is recorded.

        Raises:
            SmartEdgeError: what is wrong with them, as far as it is seen so early.
        """
        if self.answer.read(1) == _WRONG:
            code, told = pickle.loads(self.answer.read())
            raise from_code(code, told) or SmartEdgeError(told)

    def __enter__(self) -> Division:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._given.close()
        self.answer.close()


def read_answer(answer: IO[bytes], tell: Tell) -> bytes | None:
    """Front and exit as :func:`open_parts` reads them. None: the other process has none, and ``tell`` got the reason.

    Raises:
        SmartEdgeError: what is wrong with the network.
    """
    try:
        code, told = pickle.loads(answer.read())
    except (EOFError, pickle.UnpicklingError):
        tell(f"{_HERE}: the process for this ended early")
        return None
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
    """The other process: reads what to divide from standard input, and writes to standard output.

    First comes one byte: whether device and network look right. Then comes a pair: None and the parts; the code of a
    :class:`SmartEdgeError` and its message; or None and the reason why there are no parts.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a network's code prints is no answer
    import torch

    import smartedge.models.network as networks
    from smartedge.models.blame import first_line
    from smartedge.runs.machine import pick_device

    blueprint, devices, threads, sys.path[:] = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    with answers:
        try:
            for key, device in devices.items():
                pick_device(device, key)  # an error comes before the network is built
            model = networks.checked_network(blueprint)
        except SmartEdgeError as error:
            answers.write(_WRONG + pickle.dumps((error.code, str(error))))
            return
        except Exception as error:  # of the user's own code: the edge's own process meets it too, and shows where
            answers.write(_RIGHT + pickle.dumps((None, first_line(error))))
            return
        answers.write(_RIGHT)
        answers.flush()
        try:
            whole = networks.divide(blueprint, model)
            parts = networks.EdgeParts(whole.front, whole.task_exit, whole.feature_shape, whole.layout)
            answer: tuple[str | None, str | bytes] = None, pickle.dumps(parts)
        except SmartEdgeError as error:
            answer = error.code, str(error)
        except Exception as error:  # it is met again, as above; or only a pickle is impossible
            answer = None, first_line(error)
        pickle.dump(answer, answers)
