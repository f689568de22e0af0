"""Which files an edge may have: of its own run, its own log, and nothing of others."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from headers import stream_header

from smartedge.cloud.files_for_edges import files_for_edges
from smartedge.cloud.store.feature_log import FeatureLog, log_folder
from smartedge.errors import LogError, RunError
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.files import FileAnswers
from smartedge.wire.frame import serialise
from smartedge.wire.link_pb2 import Ask, Told


def stored(cloud: Path, edge: str, cut: str = "stage1") -> None:
    """A log of this edge, of the run that is called after it."""
    with contextlib.closing(FeatureLog(log_folder(cloud, edge), edge)) as log:
        header = stream_header(run=f"run of {edge}", agreement=json.dumps({"model": {"cut": cut}}))
        log.begin(header)
        encoded = EncodedBatch(np.arange(3), np.array([0, 1, 0]), np.zeros((3, 2, 2, 2), np.float32).tobytes(), b"")
        log.append(0, *serialise(Frame(0, encoded), header))
        log.sync()


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    for name in ("summary.json", "metrics.jsonl", "predictions.safetensors", "back.safetensors", "order.jsonl"):
        (tmp_path / name).write_text(name)
    stored(tmp_path, "door")
    return tmp_path


def test_one_edge_gets_what_report_and_audit_read(cloud: Path) -> None:
    assert sorted(files_for_edges(cloud)("door", "run of door")) == [
        "000000.frames", "back.safetensors", "mark", "metrics.jsonl", "predictions.safetensors", "streams",
        "summary.json",
    ]  # fmt: skip


def test_of_several_edges_none_gets_files_of_another_or_of_all(cloud: Path) -> None:
    stored(cloud, "gate", cut="stage2")
    (cloud / "backs").mkdir()
    (cloud / "backs" / "stage2.safetensors").write_text("stage2")
    choose = files_for_edges(cloud)
    for edge, back in (("door", cloud / "back.safetensors"), ("gate", cloud / "backs" / "stage2.safetensors")):
        given = choose(edge, f"run of {edge}")
        assert "predictions.safetensors" not in given and given["back.safetensors"] == back
        folders = {path.parent for path in given.values()}
        assert folders == {cloud, cloud / "store" / edge, back.parent}


@pytest.mark.parametrize(
    ("edge", "run"),
    [("door", "run of gate"), ("door", ""), ("hall", "run of door"), ("edge", "run of door"), ("..", "x"), ("", "x")],
)
def test_who_has_no_part_in_the_run_gets_nothing(cloud: Path, edge: str, run: str) -> None:
    stored(cloud, "gate")
    with pytest.raises(RunError, match=r"has nothing of edge|a name has"):
        files_for_edges(cloud)(edge, run)


def test_a_damaged_log_is_an_error_that_names_the_edge(cloud: Path) -> None:
    (log_folder(cloud, "door") / "streams").write_bytes(b"")
    with pytest.raises(LogError, match="edge 'door'"):
        files_for_edges(cloud)("door", "run of door")


def test_pieces_end_with_the_file_and_no_other_name_is_read(cloud: Path) -> None:
    answers = FileAnswers(files_for_edges(cloud))

    def ask(**question: object) -> Told:
        return Told.FromString(answers("door", Ask(run="run of door", **question).SerializeToString()))  # type: ignore[arg-type]

    assert ask(name="").edge == "door"
    assert ask(name="summary.json", offset=8).content == b"json"
    assert ask(name="summary.json", offset=2**64 - 1).content == b""
    for name in ("order.jsonl", "../door/mark", "store/door/mark", "/etc/hostname", "000001.frames", "\0"):
        with pytest.raises(RunError, match="there is no such file"):
            ask(name=name)


def test_a_file_that_changed_has_another_checksum(cloud: Path) -> None:
    answers = FileAnswers(files_for_edges(cloud))

    def checksum() -> bytes:
        told = Told.FromString(answers("door", Ask(run="run of door").SerializeToString()))
        return next(file.sha256 for file in told.files if file.name == "summary.json")

    first = checksum()
    assert checksum() == first
    (cloud / "summary.json").write_text("something longer")
    assert checksum() != first
