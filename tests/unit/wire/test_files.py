"""Files over the link: what the cloud's end answers, and what the edge's end asks, accepts and writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from smartedge.errors import LinkError, RunError
from smartedge.wire import files as files_module
from smartedge.wire.files import PIECE_BYTES, FileAnswers, fetch, list_files
from smartedge.wire.link_pb2 import Ask, File, Told

LONG = os.urandom(2 * PIECE_BYTES + 7)  # also more than is hashed at once


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """The files of edge ``door`` in ``run``, by their names on the link, which are not those on the disk."""
    (tmp_path / "here").write_bytes(LONG)
    (tmp_path / "there").write_bytes(b"")
    return {"long": tmp_path / "here", "empty": tmp_path / "there"}


@pytest.fixture
def answers(given: dict[str, Path]) -> FileAnswers:
    def choose(edge: str, run: str) -> Mapping[str, Path]:
        if (edge, run) != ("door", "run"):
            raise RunError("nothing is here for you")
        return given

    return FileAnswers(choose)


@pytest.fixture
def ask(answers: FileAnswers) -> Callable[[bytes], bytes]:
    return lambda question: answers("door", question)


def told(answers: FileAnswers, **question: object) -> Told:
    return Told.FromString(answers("door", Ask(run="run", **question).SerializeToString()))  # type: ignore[arg-type]


def test_an_edge_hears_its_name_and_of_each_file_its_size_and_checksum(ask: Callable[[bytes], bytes]) -> None:
    edge, files = list_files(ask, "run")
    assert edge == "door"
    assert list(files) == [
        File(name="long", size=len(LONG), sha256=hashlib.sha256(LONG).digest()),
        File(name="empty", size=0, sha256=hashlib.sha256().digest()),
    ]
    with pytest.raises(RunError, match="nothing is here for you"):
        list_files(ask, "another")


def test_a_piece_begins_where_it_was_asked_for_and_says_nothing_else(answers: FileAnswers) -> None:
    for offset in (0, 1, PIECE_BYTES, 2 * PIECE_BYTES, len(LONG), len(LONG) + 1, 2**64 - 1):
        assert told(answers, name="long", offset=offset) == Told(content=LONG[offset : offset + PIECE_BYTES])
    with pytest.raises(RunError, match="there is no such file for this edge"):
        told(answers, name="here")
    with pytest.raises(DecodeError):
        answers("door", b"\xff")


def test_a_file_that_is_gone_is_an_error_of_the_cloud(answers: FileAnswers, given: dict[str, Path]) -> None:
    given["empty"].unlink()
    for question in ({}, {"name": "empty"}):
        with pytest.raises(RunError, match=r"^the cloud cannot read its files: .*its folder is not:"):
            told(answers, **question)


def test_a_file_is_read_again_for_its_checksum_only_where_its_size_or_time_has_changed(
    answers: FileAnswers, given: dict[str, Path]
) -> None:
    """Each edge asks for the list: a feature log of gigabytes must not be read for each of them."""
    path = given["empty"]

    def checksum(content: bytes, time_ns: int) -> bytes:
        path.write_bytes(content)
        os.utime(path, ns=(time_ns, time_ns))
        return told(answers).files[1].sha256

    first = checksum(b"one", 10**18)
    assert checksum(b"two", 10**18) == first == hashlib.sha256(b"one").digest()
    assert checksum(b"two", 10**18 + 1000) == hashlib.sha256(b"two").digest()
    assert checksum(b"three", 10**18 + 1000) == hashlib.sha256(b"three").digest()


@pytest.mark.parametrize("content", [b"", b"x", LONG[:PIECE_BYTES], LONG], ids=len)
def test_a_file_comes_whole_and_is_on_the_disk_when_it_has_come(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Ask] = []
    synced: list[int] = []

    def answer(question: bytes) -> bytes:
        asked.append(Ask.FromString(question))
        begin = asked[-1].offset
        return Told(content=content[begin : begin + PIECE_BYTES]).SerializeToString()

    monkeypatch.setattr(files_module, "sync_file", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    file, path = File(name="long", size=len(content), sha256=hashlib.sha256(content).digest()), tmp_path / "came"
    fetch(answer, "run", file, path)
    assert path.read_bytes() == content and synced == [len(content)]
    assert asked == [Ask(run="run", name="long", offset=begin) for begin in range(0, len(content), PIECE_BYTES)]
    with pytest.raises(FileExistsError):
        fetch(answer, "run", file, path)


@pytest.mark.parametrize(
    ("size", "content", "says"),
    [
        (4, b"four", r"^bad\\x1b\[31m: its checksum is wrong"),
        (4, b"fiv", r"^bad\\x1b\[31m: the cloud sent a piece of another length"),
        (4, b"fives", "a piece of another length"),
        (4, b"", "a piece of another length"),
        (PIECE_BYTES + 1, bytes(PIECE_BYTES + 1), "a piece of another length"),
    ],
)
def test_what_was_not_promised_is_refused(size: int, content: bytes, says: str, tmp_path: Path) -> None:
    answer = Told(content=content).SerializeToString()
    with pytest.raises(LinkError, match=says):
        fetch(lambda question: answer, "run", File(name="bad\x1b[31m", size=size, sha256=bytes(32)), tmp_path / "came")


def test_what_is_no_answer_is_told() -> None:
    with pytest.raises(LinkError, match="not readable; is the other side a smartedge cloud"):
        list_files(lambda question: b"\xff", "run")
