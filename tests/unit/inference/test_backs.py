"""The back of a finished run: its answers, here and to edges, and which edges it answers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_run import finished_run

from smartedge.codec import get_codec, pack, unpack
from smartedge.errors import RunError
from smartedge.inference import BackServer, TrainedRun
from smartedge.inference.answering import header_of
from smartedge.inference.backs import LocalBack, _agree
from smartedge.models.network import divide
from smartedge.privacy.release import release
from smartedge.types import Frame, StreamHeader
from smartedge.wire.frame import answer_header

FEATURES = np.random.default_rng(0).random((5, 256, 2, 2), dtype=np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return finished_run(tmp_path_factory.mktemp("run"))[0]


@pytest.fixture(scope="module")
def server(run: TrainedRun) -> BackServer:
    return BackServer(run)


def asked_by(run: TrainedRun, **changes: Any) -> StreamHeader:
    header = header_of(run.config, run.task, run.agreement, (256, 2, 2), frames=2)
    return dataclasses.replace(header, **changes)


def test_each_answer_is_about_its_image_alone_and_the_same_over_a_link(run: TrainedRun, server: BackServer) -> None:
    back, header = LocalBack(run), asked_by(run)
    together, single = back(FEATURES), [back(FEATURES[row : row + 1])[0] for row in range(5)]
    np.testing.assert_allclose(together, single, rtol=0, atol=1e-6)
    assert together.sum(axis=1) == pytest.approx(1) and np.ptp(together[:, 0]) > 1e-3
    new = divide(run.config.division(3)).back.eval()
    with torch.no_grad():
        assert not np.allclose(new(torch.from_numpy(FEATURES)).softmax(1), together, atol=1e-3)

    released = release(np.arange(5), FEATURES, np.zeros(5, np.int64))
    assert server.accept("edge", header) == 0
    reply = server.ingest("edge", header, Frame(1, pack(released, get_codec("float32"))))
    assert reply.seq == 1
    np.testing.assert_array_equal(unpack(reply.batch, answer_header(header)).features_BF, together)


def test_where_edges_have_different_cuts_the_back_is_that_of_the_runs_own_cut(run: TrainedRun, tmp_path: Path) -> None:
    here, there = run.folder / "cloud", tmp_path / "cloud"
    (there / "backs").mkdir(parents=True)
    shutil.copy(here / "summary.json", there)
    shutil.copy(here / "back.safetensors", there / "backs" / f"{run.config.model.cut}.safetensors")
    moved = dataclasses.replace(run, folder=tmp_path)
    np.testing.assert_array_equal(LocalBack(moved)(FEATURES), LocalBack(run)(FEATURES))


def test_a_run_that_the_cloud_has_not_finished_has_no_back(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has not finished this run"):
        LocalBack(dataclasses.replace(run, folder=tmp_path))


@pytest.mark.parametrize(
    "other",
    [
        {"codec": "uint8"},
        {"feature_shape": (128, 2, 2)},
        {"feature_dtype": "uint8"},
        {"task_kind": "multi"},
        {"outputs": 2},
        {"answer_shape": (2,)},
        {"batch_size": 65},
        {"agreement": '{"seed": 7}'},
    ],
    ids=lambda other: next(iter(other)),
)
def test_an_edge_of_another_run_is_refused(run: TrainedRun, server: BackServer, other: dict[str, Any]) -> None:
    assert server.accept("edge", asked_by(run, batch_size=3, first_seq=4)) == 4
    with pytest.raises(RunError, match="holds another run"):
        server.accept("edge", asked_by(run, **other))


def test_an_edge_that_wants_to_train_is_told_where(run: TrainedRun, server: BackServer) -> None:
    with pytest.raises(RunError, match="train with 'smartedge cloud'"):
        server.accept("edge", asked_by(run, labels=True))


def test_a_run_with_a_published_front_knows_it_by_its_digest() -> None:
    own = {"front": "d1", "model": {"name": "x"}, "data": {}, "codec": {}, "dp": {"sigma": 1.0}, "seed": 1}
    assert _agree({**own, "seed": 2, "schedule": "joint"}, own), "how the front was trained does not matter"
    assert not _agree({**own, "front": "d2"}, own)
    assert not _agree({**own, "dp": {"sigma": 0.5}}, own)
    assert not _agree({key: value for key, value in own.items() if key != "front"}, own)
    plain = {key: value for key, value in own.items() if key != "front"}
    assert _agree({**plain, "front": "d1"}, plain) and not _agree({**plain, "seed": 2}, plain)
