"""The processes that take frames in for one run, side by side: which edges each takes, and what they do one at a time.

They meet in the cloud's folder of the run and hold locks there. The system releases a lock when its process ends,
however that happens. So the folder must be on a disk whose locks all of them see.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, Iterator
from hashlib import blake2b
from pathlib import Path

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.follower import StoreFollower
from smartedge.cloud.store.marks import is_complete
from smartedge.files import PRIVATE, private_folder
from smartedge.locks import holding, lock_at_once, lock_shared, open_lock
from smartedge.wire.slots import about_to_wait

__all__ = ["IngestGroup", "SharedStore"]

_FOLDER = "ingest"
_PROCESS, _EDGE = ".process", ".edge"


class IngestGroup:
    """The processes that are alive, and the edges that this one has claimed.

    Each edge has an order of preference over the processes, by a hash. It belongs to the first one that is alive and
    has not its part yet: no process has more than one edge more than another. Where a process comes or goes, few others
    than its own edges change hands. An edge that another one still holds is taken when it is free.

    All processes must count the same edges. So each edge has a file in the folder, made by whoever sees it first.

    Args:
        cloud: the cloud's folder of the run.
    """

    def __init__(self, cloud: Path) -> None:
        self._folder = cloud / _FOLDER
        private_folder(self._folder)
        self._claims: dict[str, int] = {}
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        made = self._folder / f"{self.name}.new"
        self._alive = open_lock(made)
        lock_at_once(self._alive)
        made.rename(self._folder / f"{self.name}{_PROCESS}")  # locked before others can see it

    def share(self, edges: Collection[str]) -> list[str]:
        """Those of the edges that this process takes now; it has a claim to each."""
        for edge in edges:
            (self._folder / f"{edge}{_EDGE}").touch(PRIVATE)
        known = [path.name.removesuffix(_EDGE) for path in self._folder.glob(f"*{_EDGE}")]
        wanted = {edge for edge, name in _divided(known, self._processes()).items() if name == self.name} & {*edges}
        for edge in sorted(wanted - self._claims.keys()):
            file = open_lock(self._folder / f"{edge}{_EDGE}")
            if lock_at_once(file):
                self._claims[edge] = file
            else:  # its last owner has not noticed yet
                os.close(file)
        return sorted(wanted & self._claims.keys())

    def release(self, edge: str) -> None:
        """Give up the claim to an edge; nothing of it is used any more."""
        if (file := self._claims.pop(edge, None)) is not None:
            os.close(file)

    def close(self) -> None:
        """Leave the group."""
        for edge in list(self._claims):
            self.release(edge)
        (self._folder / f"{self.name}{_PROCESS}").unlink(missing_ok=True)
        os.close(self._alive)

    def _processes(self) -> list[str]:
        """Names of the processes that are alive. Files of the others are removed."""
        alive = []
        for path in self._folder.glob(f"*{_PROCESS}"):
            name = path.name.removesuffix(_PROCESS)
            if name == self.name or _is_locked(path):
                alive.append(name)
            else:
                path.unlink(missing_ok=True)
        return alive


class SharedStore(StoreFollower):
    """A store that several processes write, each the logs of its own edges; and what the others have written.

    Args:
        cloud: the cloud's folder of the run.
        handover: gets the edges of which a stream is durable, and whether the run is complete.
        max_bytes: the log of an edge takes no more than this; None: what the disk holds.
    """

    def __init__(self, cloud: Path, handover: Handover, *, max_bytes: int | None = None) -> None:
        super().__init__(cloud, handover, max_bytes=max_bytes)
        self._folder = cloud / _FOLDER
        private_folder(self._folder)
        self._inside: dict[str, int] = {}

    def enter(self, edge: str) -> None:
        """Frames of an edge are about to be appended. Waits while the store is closed for a moment."""
        if edge not in self._inside:
            file = open_lock(self._folder / "gate")
            with holding(self._folder / "turn", _share):
                _share(file)
            self._inside[edge] = file
            # So that a thread that has just looked at the store does not see it complete before its edges.
            with self._handover.changed:
                self._handover.complete = is_complete(self._cloud)

    def leave(self, edge: str) -> None:
        """What was appended of the edge is durable."""
        if (file := self._inside.pop(edge, None)) is not None:
            os.close(file)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Inside, nobody appends anything, and everything that was appended is durable."""
        # Once this process has its turn nobody else comes in. So it waits only for those that are inside already.
        with holding(self._folder / "turn"), holding(self._folder / "gate"):
            yield

    def one_at_a_time(self) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process lets a new edge in."""
        return holding(self._folder / "new")


def _divided(edges: Collection[str], processes: Collection[str]) -> dict[str, str]:
    """Edge → its process. Rendezvous hashing with bounded loads: the same at everybody who knows the same names."""
    least, more = divmod(len(edges), len(processes))
    room = {process: least for process in processes}
    found = {}
    for edge in sorted(edges):
        order = sorted(processes, key=lambda process: _weight(edge, process), reverse=True)
        process = next((each for each in order if room[each] > 0), None)
        if process is None:  # all have the least
            process = next(each for each in order if room[each] == 0)
        room[process] -= 1
        found[edge] = process
    assert sum(left < 0 for left in room.values()) == more
    return found


def _weight(edge: str, process: str) -> bytes:
    return blake2b(f"{edge}/{process}".encode(), digest_size=8).digest()


def _share(file: int) -> None:
    """Lock a file together with others that share it. Others may work while this waits."""
    if not lock_at_once(file, shared=True):
        about_to_wait()
        lock_shared(file)


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not lock_at_once(file, shared=True)  # shared: two processes may look at the same moment
    finally:
        os.close(file)
