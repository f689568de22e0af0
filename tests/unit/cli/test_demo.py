"""``smartedge demo`` makes its runs anew, also where an earlier call was killed at any moment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from smartedge.cli import app


def test_a_call_that_was_killed_while_it_removed_a_run_can_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "hierarchical"
    (run / "edge").mkdir(parents=True)
    for file in ("run.json", "edge/run.json", "edge/ledger.sqlite"):
        (run / file).touch()
    begun = []

    def killed(folder: Path) -> None:
        for file in ("run.json", "ledger.sqlite"):
            (folder / file).unlink(missing_ok=True)
        raise KeyboardInterrupt

    def train(config: object) -> None:
        begun.append(run.exists())
        raise KeyboardInterrupt

    monkeypatch.setattr("smartedge.training.train", train)
    with monkeypatch.context() as midway:
        midway.setattr(shutil, "rmtree", killed)
        assert app.main(["demo", "--out", str(tmp_path)]) == 130
    assert not begun and (run / "edge").exists()
    assert app.main(["demo", "--out", str(tmp_path)]) == 130
    assert begun == [False]
