"""Who answers: the exit, a back here, or a server that comes and goes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from smartedge.config import load_config
from smartedge.edge.protection import open_gate
from smartedge.errors import ConfigError, LinkError
from smartedge.inference import Answerer, answering
from smartedge.inference.answering import Answer
from smartedge.privacy.mechanisms import Gaussian
from smartedge.privacy.release import Gate
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


class KnowsImages(Server):
    """Answers yes with the probability that the second feature gives, and keeps what it is asked about."""

    def __init__(self):
        self.seen = []

    def ingest(self, edge, header, frame):
        self.seen.append(np.frombuffer(frame.batch.payload, np.float32).reshape(-1, *header.feature_shape))
        yes_B = self.seen[-1][:, 1, 0, 0]
        payload = np.stack([1 - yes_B, yes_B], axis=1).tobytes()
        return Frame(frame.seq, EncodedBatch(frame.batch.ids, frame.batch.labels, payload, b""))


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


def test_each_answer_is_about_its_own_image_and_from_its_release(tmp_path):
    """More images than a frame holds. The exit is as sure of one as it must be; of half it is less sure."""
    images = np.random.default_rng(1).integers(0, 256, (150, 3, 8, 8), dtype=np.uint8)
    shown, server = [], KnowsImages()

    class Front(MeanFront):
        def logits(self, features_BF, *, released):
            shown.append((features_BF, released))
            return super().logits(features_BF, released=released)

    with Answerer(Front(), threshold=1.01, server=MemoryLink(server), gate=gate_in(tmp_path)) as answerer:
        answerer.answer(images)
        [(released_BF, is_release)] = shown
        assert is_release and not np.allclose(released_BF, MeanFront().features(images), atol=0.1)
        np.testing.assert_array_equal(np.concatenate(server.seen), released_BF)
        assert [len(seen) for seen in server.seen] == [64, 64, 22]

        sure = [1 / (1 + np.exp(-2 * abs(first))) for first in released_BF[:, 0, 0, 0].astype(np.float64)]
        answerer.threshold = float(np.sort([one.confidence for one in answerer.answer(images)])[75])
        answers = answerer.answer(images)
    assert any(one.confidence == answerer.threshold for one in answers)
    for one, certain, features in zip(answers, sure, released_BF, strict=True):
        assert one.confidence == pytest.approx(certain, abs=1e-6)
        assert one.by == ("back" if one.confidence < answerer.threshold else "exit")
        yes = features[1, 0, 0] if one.by == "back" else 1 / (1 + np.exp(-2 * features[0, 0, 0]))
        assert one.scores_K[1] == pytest.approx(yes, abs=1e-6)


def test_where_the_exit_answers_everything_nothing_is_released(tmp_path):
    with Answerer(MeanFront(), threshold=0.0, server=MemoryLink(Server()), gate=gate_in(tmp_path)) as answerer:
        answers = answerer.answer(IMAGES)
        assert answerer._gate.ledger.releases("infer") == 0
    first_B = MeanFront().features(IMAGES)[:, 0, 0, 0]
    assert [one.scores_K[1] for one in answers] == pytest.approx(1 / (1 + np.exp(-2 * first_B)))


def test_images_without_a_data_set_are_told_apart_by_their_pixels():
    images = np.random.default_rng(2).integers(0, 256, (1000, 3, 2, 2), dtype=np.uint8)
    ids = answering._ids_of(images)
    assert len(set(ids.tolist())) == 1000 and ids.min() >= 0
    np.testing.assert_array_equal(answering._ids_of(images[::-1]), ids[::-1])


@pytest.mark.parametrize("together", [4, 1])
def test_another_image_with_the_same_release_changes_nothing_that_crosses(tmp_path, monkeypatch, together):
    """Which images are sent, how many, in which frames, and the exit's answers follow from the releases alone."""
    release, released, crossed = Gate.release, [], []
    others = IMAGES.copy()
    others[1], others[2] = 0, others[3]

    class Kept(MemoryLink):
        def open(self, header):
            sent.append(replace(header, run="run"))
            return super().open(header)

        def exchange(self, message):
            sent.append((bytes(message.head), bytes(message.payload)))
            return super().exchange(message)

    def replayed(self, *batch, **how):
        released.append(release(self, *batch, **how))
        return released[len(released) - 1 - len(crossed) * 4 // together]

    monkeypatch.setattr(Gate, "release", replayed)
    for name, images in (("one", IMAGES), ("other", others)):
        sent: list[object] = []
        (tmp_path / name).mkdir()
        (key := tmp_path / name / "noise.key").write_bytes(bytes(range(32)))
        key.chmod(0o600)
        with Answerer(MeanFront(), threshold=0.6, server=Kept(Server()), gate=gate_in(tmp_path / name)) as answerer:
            answers = [answerer.answer(images[start : start + together]) for start in range(0, 4, together)]
        crossed.append((sent, [(each.by, each.confidence) for batch in answers for each in batch]))
    assert crossed[0] == crossed[1]
    assert {by for by, _ in crossed[0][1]} == {"exit", "back"}, "the exit keeps some of them"


def test_without_any_back_the_exit_answers():
    answers = Answerer(MeanFront(), threshold=1.01).answer(IMAGES)
    assert {one.by for one in answers} == {"exit"}


def test_a_back_in_this_process_sees_what_was_not_released():
    seen = []

    def back(features_BF):
        seen.append(features_BF)
        return np.tile(np.array([0.0, 1.0], np.float32), (len(features_BF), 1))

    answerer = Answerer(MeanFront(), threshold=0.0, back=back)
    answerer.threshold = np.median([one.confidence for one in answerer.answer(IMAGES)])
    by_back = np.array([one.by == "back" for one in answerer.answer(IMAGES)])
    assert by_back.sum() == 2
    np.testing.assert_array_equal(seen[0], MeanFront().features(IMAGES)[by_back])


def test_the_temperature_changes_how_sure_the_exit_is():
    cold, warm = (Answerer(MeanFront(), threshold=0, temperature=t).answer(IMAGES)[0].confidence for t in (0.1, 10.0))
    assert 0.5 < warm < cold


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -0.1, 90])
def test_a_threshold_is_a_number(threshold):
    with pytest.raises(ConfigError, match=r"must be a number from 0 to 1\.01, as 0.9 for 90 %"):
        Answerer(MeanFront(), threshold=threshold)


def test_an_answer_in_words_has_the_confidence_of_whoever_gave_it():
    """What the back says is as sure as its own scores, whatever the exit's confidence was."""
    scores_K = np.array([0.25, 0.75], np.float32)
    assert Answer(scores_K, 0.125, "back").text(TASK) == ("yes", 0.75)
    columns = Task("multi", ("hat", "smile"), ("hat", "smile"))
    assert Answer(scores_K, 0.125, "back").text(columns)[0] == "smile"
    assert Answer(scores_K / 2, 0.125, "back").text(columns)[0] == "(none)"
