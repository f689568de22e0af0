"""Files over the link: the cloud's end answers questions about them, the edge's end asks until it has them all.

Each question is a call of its own. So a broken connection costs one piece, and whether the edge may ask is checked
again for each piece. ``docs/wire-protocol.md`` has the rules.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from smartedge.errors import LinkError, RunError
from smartedge.files import disk_error, sync_file
from smartedge.logs import plain
from smartedge.wire.link_pb2 import Ask, File, Told

__all__ = ["PIECE_BYTES", "FileAnswers", "fetch", "list_files"]

PIECE_BYTES = 2**19
_HASHED_AT_ONCE = 2**20


class FileAnswers:
    """Answers what an edge asks about the files that it may have. May be called from any thread.

    Args:
        choose: the files that an edge may have, by their names on the link; takes the edge and its run. It raises a
            :class:`~smartedge.errors.RunError` where the edge has no part in the run.
    """

    def __init__(self, choose: Callable[[str, str], Mapping[str, Path]]) -> None:
        self._choose = choose
        self._hashes: dict[Path, tuple[tuple[int, int], bytes]] = {}
        self._hashing = threading.Lock()  # reads whole files: one edge at a time

    def __call__(self, edge: str, question: bytes) -> bytes:
        """The answer to one question.

        Raises:
            DecodeError: it is no question.
            RunError: the edge has no part in the run, there is no such file, or it cannot be read.
        """
        ask = Ask.FromString(question)
        files = self._choose(edge, ask.run)
        try:
            if not ask.name:
                told = [
                    File(name=name, size=path.stat().st_size, sha256=self._hash(path)) for name, path in files.items()
                ]
                return bytes(Told(edge=edge, files=told).SerializeToString())
            if ask.name not in files:
                raise RunError("there is no such file for this edge; ask again which files there are")
            with files[ask.name].open("rb") as file:
                file.seek(min(ask.offset, files[ask.name].stat().st_size))
                return bytes(Told(content=file.read(PIECE_BYTES)).SerializeToString())
        except OSError as error:
            raise RunError(f"the cloud cannot read its files: {disk_error(error)}") from error

    def _hash(self, path: Path) -> bytes:
        status = path.stat()
        now = (status.st_size, status.st_mtime_ns)
        with self._hashing:
            known = self._hashes.get(path)
            if known is None or known[0] != now:
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    while data := file.read(_HASHED_AT_ONCE):
                        digest.update(data)
                known = self._hashes[path] = (now, digest.digest())
        return known[1]


def list_files(ask: Callable[[bytes], bytes], run: str) -> tuple[str, Sequence[File]]:
    """Ask which files there are for this edge. What comes is not checked.

    Args:
        ask: puts one question to the cloud; see :meth:`smartedge.wire.grpc_link.GrpcLink.ask`.
        run: of which the edge is a part.

    Returns:
        The name under which the cloud knows the edge, and the files.
    """
    told = _told(ask, Ask(run=run))
    return told.edge, told.files


def fetch(ask: Callable[[bytes], bytes], run: str, file: File, path: Path) -> None:
    """Bring one file to this machine, as a new file. Its size bounds what is asked for and what is written.

    Raises:
        LinkError: what came is not what was promised.
        OSError: the disk does not take it.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as written:
        while size < file.size:
            content = _told(ask, Ask(run=run, name=file.name, offset=size)).content
            if len(content) != min(PIECE_BYTES, file.size - size):
                raise LinkError(f"{plain(file.name)}: the cloud sent a piece of another length; collect again")
            written.write(content)
            digest.update(content)
            size += len(content)
        written.flush()
        sync_file(written.fileno())
    if digest.digest() != file.sha256:
        raise LinkError(f"{plain(file.name)}: its checksum is wrong; it was changed meanwhile, so collect again")


def _told(ask: Callable[[bytes], bytes], question: Ask) -> Told:
    try:
        told: Told = Told.FromString(ask(question.SerializeToString()))
    except DecodeError as error:
        raise LinkError("what came back over the link is not readable; is the other side a smartedge cloud?") from error
    return told
