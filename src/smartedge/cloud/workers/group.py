"""The workers that train one back together: processes of torchrun, joined by ``torch.distributed``.

The first worker leads. It decides what is done next, and it alone writes files. Nothing is pickled: workers exchange
tensors, and text.
"""

from __future__ import annotations

import datetime
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from smartedge.cloud.workers.shared_sum import SharedSum
from smartedge.config import differences
from smartedge.errors import ConfigError, RunError

__all__ = ["ALONE", "SILENCE_S", "Group", "WorkerGroup", "WorkersLost", "check_alike", "place_of_worker"]

_PIECE = 2**20  # numbers of a vector that are on the way at a time
_SHORT = 4096  # bytes that workers tell each other in one exchange; what is longer takes two
_PATIENCE = datetime.timedelta(minutes=30)  # that a worker waits for the others within a step
SILENCE_S = 60.0  # after which a worker that waits for the others says so


class WorkersLost(Exception):
    """Another worker has ended, or cannot be reached. The launcher starts all workers again."""


def place_of_worker() -> tuple[int, int]:
    """Number of this worker, from 0, and how many there are, as torchrun says; 0 and 1 where nobody says it.

    Raises:
        ConfigError: the environment says a part of it, or what cannot be.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    said = {name: os.environ.get(name, "") for name in names}
    if not said["RANK"] and not said["WORLD_SIZE"]:
        return 0, 1
    if missing := [name for name in names if not said[name]]:
        raise ConfigError(
            f"environment: {', '.join(missing)} is missing, and {', '.join(name for name in names if said[name])} is "
            "set; start the workers with torchrun, which sets all of them, or unset them for one worker alone"
        )
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not said[name].isdecimal():
            raise ConfigError(f"environment: {name} is {said[name]!r}, not a number; start the workers with torchrun")
    rank, size = int(said["RANK"]), int(said["WORLD_SIZE"])
    if rank >= size:
        raise ConfigError(
            f"environment: RANK is {rank}, and there are {size} workers (WORLD_SIZE), with numbers from 0; start them "
            "with torchrun"
        )
    return rank, size


class Group:
    """One worker alone; the base of :class:`WorkerGroup`.

    Attributes:
        rank: number of this worker, from 0.
        size: how many workers there are.
    """

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this worker decides, and writes files."""
        return self.rank == 0

    def own(self, shards: int) -> range:
        """The shards of a step that this worker computes: a block, in their order."""
        each, more = divmod(shards, self.size)
        begin = self.rank * each + min(self.rank, more)
        return range(begin, begin + each + (self.rank < more))

    def agree(self, decide: Callable[[], str]) -> str:
        """What the first worker decides. The others get its text."""
        return decide()

    def gather(self, data: bytes) -> list[bytes]:
        """The data of all workers, in their order."""
        return [data]

    def refuse_others(self, facts: dict[str, JsonValue]) -> None:
        """Return when all workers are here, with the same facts.

        Raises:
            RunError: which facts of one of them are not those of the first.
        """
        check_alike([json.loads(each) for each in self.gather(json.dumps(facts).encode())])

    def add_up(
        self, data: bytes, terms: Sequence[Sequence[Tensor]], like: Sequence[Tensor]
    ) -> tuple[list[bytes], list[Tensor]]:
        """Add the terms of all shards of a step, in the order of the shards; and :meth:`gather`, in the same exchange.

        Args:
            data: what this worker tells the others about its shards.
            terms: those of this worker, in order, see :func:`smartedge.methods.sharded_step.run_shards`. May be empty.
                The first one may be changed.
            like: tensors of the shapes of a term, which are on this worker's device.

        Returns:
            The data of all workers, in their order; and the sum. Every worker gets the same. The sum must not be
            changed in place, and is valid until the next call.
        """
        total = list(terms[0])
        for term in terms[1:]:
            torch._foreach_add_(total, list(term))
        return [data], total

    def close(self) -> None:
        """Leave the group."""


ALONE = Group()


class WorkerGroup(Group):
    """The workers that torchrun started. Its environment variables say who they are.

    Args:
        device: where this worker computes. Vectors on a GPU travel by NCCL, others by Gloo.
        tell: is told where this worker has waited long for the others.

    Raises:
        WorkersLost: the others cannot be reached.
        ConfigError: the environment is not that of torchrun.
    """

    def __init__(self, device: torch.device, tell: Callable[[str], None]) -> None:
        self.rank, self.size = place_of_worker()
        self._waits: float | None = None  # since when this worker waits for the others
        threading.Thread(target=self._watch, args=(tell,), name="silence", daemon=True).start()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with self._guarded():
            dist.init_process_group(backend, timeout=_PATIENCE)
        one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
        self._shared = SharedSum(self.rank, self.gather) if one_machine and device.type == "cpu" else None

    def agree(self, decide: Callable[[], str]) -> str:
        """See :meth:`Group.agree`."""
        data = decide().encode() if self.leads else b""
        short = torch.from_numpy(_begun(data))
        with self._guarded():
            dist.broadcast(short, src=0)
        size, found = _told(short.numpy())
        if size > len(found):
            text = torch.from_numpy(_padded(data, size))
            with self._guarded():
                dist.broadcast(text, src=0)
            found = text.numpy().tobytes()
        return found.decode()

    def gather(self, data: bytes) -> list[bytes]:
        """See :meth:`Group.gather`."""
        told = [_told(each) for each in self._gathered(_begun(data))]
        longest = max(size for size, _ in told)
        if all(size == len(found) for size, found in told):
            return [found for _, found in told]
        whole = self._gathered(_padded(data, longest))
        return [each[:size].tobytes() for each, (size, _) in zip(whole, told, strict=True)]

    def _gathered(self, mine: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Arrays of one length, of all workers."""
        found = [torch.empty(len(mine), dtype=torch.uint8) for _ in range(self.size)]
        with self._guarded():
            dist.all_gather(found, torch.from_numpy(mine))
        return [each.numpy() for each in found]

    def add_up(
        self, data: bytes, terms: Sequence[Sequence[Tensor]], like: Sequence[Tensor]
    ) -> tuple[list[bytes], list[Tensor]]:
        """See :meth:`Group.add_up`. On one machine workers add in memory that they share, if its system allows it.

        Else the sum goes from worker to worker, and each adds its terms to it. An all-reduce would add in an order of
        its own, which depends on the number of workers.
        """
        if self._shared is None:
            told, total = self.gather(data), None
        else:
            told, total = self._shared.add_up(data, terms, like)
        if total is None:
            self._shared = None
            total = self._along_the_chain(terms, like)
        parts = total.split([tensor.numel() for tensor in like])
        return told, [part.reshape(tensor.shape) for part, tensor in zip(parts, like, strict=True)]

    def _along_the_chain(self, terms: Sequence[Sequence[Tensor]], like: Sequence[Tensor]) -> Tensor:
        vectors = [torch.cat([tensor.reshape(-1) for tensor in term]) for term in terms]
        total = vectors.pop(0) if self.rank == 0 else _empty(like)
        sending = []
        with self._guarded():
            for begin in range(0, len(total), _PIECE):
                piece = total[begin : begin + _PIECE]
                if self.rank > 0:
                    dist.recv(piece, src=self.rank - 1)
                for vector in vectors:
                    piece += vector[begin : begin + _PIECE]
                if self.rank + 1 < self.size:
                    sending.append(dist.isend(piece, dst=self.rank + 1))
            for work in sending:
                assert work is not None
                work.wait()
            dist.broadcast(total, src=self.size - 1)
        return total

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Tell a lost worker apart from errors of training, which are RuntimeErrors too."""
        self._waits = time.monotonic()
        try:
            yield
        except (RuntimeError, OSError) as error:
            raise WorkersLost(f"another worker has ended, or cannot be reached ({error})") from error
        finally:
            self._waits = None

    def _watch(self, tell: Callable[[str], None]) -> None:
        """Say that this worker waits, after twice as long each time."""
        told: float | None = None
        after = SILENCE_S
        while True:
            time.sleep(SILENCE_S / 10)
            since = self._waits
            if since is None:
                continue
            if since != told:
                told, after = since, SILENCE_S
            seconds = time.monotonic() - since
            if seconds >= after:
                after *= 2
                tell(_silence(self.rank, seconds))

    def close(self) -> None:
        """See :meth:`Group.close`."""
        dist.destroy_process_group()


def check_alike(facts: Sequence[JsonValue]) -> None:
    """Refuse workers of which one differs from the first: what they add up would be of no single training.

    Args:
        facts: of each worker, in their order.

    Raises:
        RunError: which worker differs, and in what.
    """
    for rank, its in enumerate(facts):
        if found := differences(facts[0], its).items():
            told = "; ".join(f"{key} is {json.dumps(here)}, not {json.dumps(first)}" for key, (first, here) in found)
            raise RunError(
                f"worker {rank} differs from worker 0 ({told}); all workers need one folder of the run, and the same "
                "versions"
            )


def _begun(data: bytes) -> NDArray[np.uint8]:
    """Eight bytes for the length of the data, and as many of the data as fit; always of one length."""
    return _padded((len(data).to_bytes(8, "little") + data)[:_SHORT], _SHORT)


def _padded(data: bytes, size: int) -> NDArray[np.uint8]:
    found = np.zeros(size, np.uint8)
    found[: len(data)] = np.frombuffer(data, np.uint8)
    return found


def _told(short: NDArray[np.uint8]) -> tuple[int, bytes]:
    """The length of the data in what :func:`_begun` gave, and its beginning."""
    told = short.tobytes()
    size = int.from_bytes(told[:8], "little")
    return size, told[8 : 8 + size]


def _empty(like: Sequence[Tensor]) -> Tensor:
    return torch.empty(sum(tensor.numel() for tensor in like), dtype=like[0].dtype, device=like[0].device)


def _silence(rank: int, seconds: float) -> str:
    """What a worker says that has waited for the others."""
    minutes = round(_PATIENCE.total_seconds() / 60)
    which = "another one hangs" if rank == 0 else "the first one evaluates alone, or hangs, or another one does"
    return (
        f"worker {rank} has waited {seconds:.0f} s for the others: {which} (stopped, or its disk or network does not "
        f"answer). All are started again after {minutes} minutes; to do so now, end the process that hangs"
    )
