"""The figures of one side on disk, damaged in ways that a disk can have."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from torch.utils.tensorboard import SummaryWriter

from smartedge.artifacts.metrics import read_metrics
from smartedge.errors import RunError
from smartedge.runs.record import Recorder

FIGURES = {"loss": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": None, "base_rate": 0.5, "seconds": None}


@pytest.fixture
def rows(tmp_path: Path) -> list[bytes]:
    recorder = Recorder(tmp_path, "cloud")
    for epoch in range(3):
        recorder.write(epoch, "val", FIGURES)
    recorder.close()
    return recorder.path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe{"], ids=["nothing", "torn", "not text"])
def test_a_last_line_that_is_torn_is_left_out(tmp_path: Path, rows: list[bytes], damage: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(rows) + damage)
    assert [row.epoch for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize("damage", [b"{\n", b"\xff\xfe{\n"], ids=["torn", "not text"])
def test_a_damaged_line_in_between_is_named(tmp_path: Path, rows: list[bytes], damage: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(rows[0] + damage + rows[1])
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: is not a line of metrics"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_resumed_side_writes_the_lines_of_its_epochs_once(tmp_path: Path, rows: list[bytes]) -> None:
    recorder = Recorder(tmp_path, "cloud", resume_epoch=1)
    assert recorder.path.read_bytes() == rows[0]
    recorder.write(1, "val", FIGURES)
    recorder.close()
    assert recorder.path.read_bytes() == b"".join(rows[:2])


def test_a_board_gets_every_figure_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge").mkdir()
    board = create_autospec(SummaryWriter)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", board)
    for resumed in (0, 4):
        recorder = Recorder(tmp_path / "edge", "edge", resume_epoch=resumed)
        board.assert_called_with(str(tmp_path / "tensorboard" / "edge"), purge_step=resumed or None)
    recorder.write(4, "val", {**FIGURES, "loss": 0.25})
    drawn = [call.args for call in board.return_value.add_scalar.call_args_list]
    assert drawn == [
        (f"{name}/val", 0.25 if name == "loss" else 0.5, 4) for name, value in FIGURES.items() if value is not None
    ]
    board.return_value.flush.assert_called_once_with()
    recorder.close()
    board.return_value.close.assert_called_once_with()


def test_without_tensorboard_the_lines_are_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge").mkdir()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recorder = Recorder(tmp_path / "edge", "edge")
    recorder.write(0, "val", FIGURES)
    recorder.close()
    assert len(read_metrics(recorder.path)) == 1 and not (tmp_path / "tensorboard").exists()
