"""Who answers: the exit, a back here, or a server that comes and goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from smartedge.config import load_config
from smartedge.edge.protection import open_gate
from smartedge.errors import ConfigError, LinkError
from smartedge.inference import Answerer, answering
from smartedge.privacy.mechanisms import Gaussian
from smartedge.types import EncodedBatch, Frame, Task
from smartedge.wire.memory import MemoryLink

TASK = Task("single", ("smile",), ("no", "yes"))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)


class MeanFront:
    """Features are mean colours; the exit says yes where the first one is large."""

    config = load_config(
        {
            "model": {"bottleneck": [3, 1, 1]},
            "dp": {"mechanism": "gaussian", "sigma": 0.5},
            "codec": {"name": "float32"},
        }
    )
    task, feature_shape = TASK, (3, 1, 1)
    mechanism = Gaussian((3, 1, 1), clip=2.0, scale=0.5, delta_=1e-5)
    agreement: ClassVar[dict[str, Any]] = {"seed": 0}

    def features(self, images_BCHW):
        return (images_BCHW.mean(axis=(2, 3), dtype=np.float32) / 255).reshape(-1, 3, 1, 1)

    def logits(self, features_BF, *, released):
        first_B = features_BF[:, 0, 0, 0]
        return np.stack([-first_B, first_B], axis=1)


class Server:
    """Answers yes for everything."""

    frames = 0

    def accept(self, edge, header):
        return header.first_seq

    def ingest(self, edge, header, frame):
        self.frames += 1
        yes = np.tile(np.array([0.0, 1.0], np.float32), (len(frame.batch.ids), 1))
        return Frame(frame.seq, EncodedBatch(frame.batch.ids, frame.batch.labels, yes.tobytes(), b""))

    def sync(self, edge, header):
        return header.first_seq

    def finish(self, edge, header): ...

    def abort(self, edge, header): ...


class ComesAndGoes(MemoryLink):
    there = True

    def open(self, header):
        if not self.there:
            raise LinkError("the other side is not there")
        return super().open(header)


def gate_in(folder):
    return open_gate(MeanFront.config, folder, None, MeanFront.mechanism, None, existing=False)


def test_the_exit_answers_while_the_server_is_away(tmp_path, monkeypatch):
    told, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(answering.time, "monotonic", lambda: clock.now)
    link, server = None, Server()
    link = ComesAndGoes(server)
    with Answerer(MeanFront(), threshold=1.01, server=link, gate=gate_in(tmp_path), tell=told.append) as answerer:
        assert {one.by for one in answerer.answer(IMAGES)} == {"back"}
        link.there = False
        assert {one.by for one in answerer.answer(IMAGES)} == {"exit"}
        link.there = True
        assert {one.by for one in answerer.answer(IMAGES)} == {"exit"}, "it is not asked at once"
        clock.now += 31
        assert {one.by for one in answerer.answer(IMAGES)} == {"back"}
    assert server.frames == 2
    assert [text.split(" (")[0] for text in told] == [
        "the server cannot be reached, so the exit answers",
        "the server is there again",
    ]


def test_an_image_is_one_release_however_often_the_server_is_away(tmp_path):
    link = ComesAndGoes(Server())
    link.there = False
    with Answerer(MeanFront(), threshold=1.01, server=link, gate=gate_in(tmp_path)) as answerer:
        first, again = (answerer.answer(IMAGES) for _ in range(2))
        assert answerer._gate.ledger.releases("infer") == 1
    np.testing.assert_array_equal([one.scores_K for one in first], [one.scores_K for one in again])


def test_without_any_back_the_exit_answers():
    answers = Answerer(MeanFront(), threshold=1.01).answer(IMAGES)
    assert {one.by for one in answers} == {"exit"}


def test_a_back_in_this_process_sees_what_was_not_released():
    seen = []

    def back(features_BF):
        seen.append(features_BF)
        return np.tile(np.array([0.0, 1.0], np.float32), (len(features_BF), 1))

    answers = Answerer(MeanFront(), threshold=1.01, back=back).answer(IMAGES)
    assert {one.by for one in answers} == {"back"}
    np.testing.assert_array_equal(seen[0], MeanFront().features(IMAGES))


def test_the_temperature_changes_how_sure_the_exit_is():
    cold, warm = (Answerer(MeanFront(), threshold=0, temperature=t).answer(IMAGES)[0].confidence for t in (0.1, 10.0))
    assert 0.5 < warm < cold


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -0.1, 90])
def test_a_threshold_is_a_number(threshold):
    with pytest.raises(ConfigError, match=r"must be a number from 0 to 1\.01, as 0.9 for 90 %"):
        Answerer(MeanFront(), threshold=threshold)
