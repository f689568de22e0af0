"""What the threads of the link and the training thread share."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.cloud import handover as handover_module
from smartedge.cloud.handover import Decoded, Handover
from smartedge.errors import LinkError, RunError
from smartedge.types import EncodedBatch, FeatureBatch, Frame


def test_the_handover_keeps_no_more_than_it_has_room_for() -> None:
    decoded = Decoded(FeatureBatch(np.arange(4), np.zeros((4, 64), np.float32), np.zeros(4, np.int64)), 0.0)  # 1 KiB
    handover = Handover(2500)
    for seq in range(3):
        handover.keep(("edge", seq), decoded)
        handover.keep(("edge", seq), decoded)
    assert [handover.kept(("edge", seq)) is not None for seq in range(3)] == [True, True, False]
    handover.drop(("edge", 0))
    handover.drop(("edge", 0))
    handover.keep(("edge", 3), decoded)
    handover.keep(("other", 4), decoded)
    assert [handover.kept(("edge", seq)) is not None for seq in range(5)] == [False, True, False, True, False]
    handover.go_back("edge", 2)
    assert [handover.kept(("edge", seq)) is not None for seq in (1, 3)] == [True, False]
    assert handover.learned == {"edge": 2}


def test_a_frame_that_just_fits_is_kept_and_one_that_comes_again_is_forgotten() -> None:
    decoded = Decoded(FeatureBatch(np.arange(4), np.zeros((4, 64), np.float32), np.zeros(4, np.int64)), 0.0)  # 1 KiB
    handover = Handover(3072)
    for key in (("edge", 1), ("edge", 2), ("other", 2)):
        handover.keep(key, decoded)
        assert handover.kept(key) is not None
    handover.go_back("edge", 2)
    assert handover.kept(("edge", 1)) is not None and handover.kept(("edge", 2)) is None
    assert handover.kept(("other", 2)) is not None, "another edge's do not come again"


def test_whoever_waits_for_training_holds_no_other_edge_up(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(handover_module, "about_to_wait", lambda: said.append("waits"))
    handover = Handover()
    with handover.changed:
        handover.wait(lambda: True)
        assert said == []
        handover.wait(lambda: bool(said))
    assert said == ["waits"]


def test_whoever_waits_hears_that_training_has_failed() -> None:
    handover = Handover()
    handover.failure = ValueError("the disk is full")
    with handover.changed, pytest.raises(RunError, match="training has failed: the disk is full"):
        handover.wait(lambda: None)


def test_an_edge_that_goes_back_gets_no_answer_of_before_and_its_run_is_open_again() -> None:
    handover = Handover()
    handover.answers[3] = Frame(3, EncodedBatch(np.arange(1), np.zeros(1, np.int64), b"", b""))
    handover.complete, handover.learned = True, {"edge": 4, "other": 9}
    handover.go_back("edge", 2)
    assert not handover.answers and not handover.complete and handover.learned == {"edge": 2, "other": 9}


def test_whoever_waits_hears_that_the_cloud_ends() -> None:
    handover = Handover()
    with handover.in_use():
        pass
    with handover.changed, pytest.raises(LinkError, match="the cloud was stopped; it may come back"):
        handover.wait(lambda: None)
