"""The gate: nothing but privacy.release makes what may be packed; clip, then ledger, then noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import smartedge
from smartedge.codec import get_codec, pack
from smartedge.errors import PrivacyError
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import Gaussian, RandomisedResponse, Unprotected, make_mechanism, response_weights
from smartedge.privacy.noise import Noise
from smartedge.privacy.release import Gate, label_event_of, randomise_labels, release, select
from smartedge.types import FeatureBatch, ReleasedBatch, ReleaseEvent, Task

IDS, LABELS = np.arange(2), np.array([0, 1])
FEATURES = np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32)
TASK = Task("single", ("smile",), ("no", "yes"))
SHAPE = (3, 4, 4)


class SpiedNoise(Noise):
    """Counts what is drawn."""

    def __init__(self, key: bytes = bytes(32)) -> None:
        super().__init__(key)
        self.drawn = 0

    def words(self, nonce: bytes, count: int) -> np.ndarray:
        self.drawn += count
        return super().words(nonce, count)


@pytest.fixture
def make_gate(tmp_path):
    ledgers = []

    def make(mechanism=None, *, epsilon=math.inf, noise=None, task=TASK, name="ledger", **settings) -> Gate:
        ledger = Ledger(tmp_path / name, "run", policy={}, budget=Budget(epsilon, 1e-5), existing=False)
        ledgers.append(ledger)
        usual = {"label_epsilon": None, "training_only": False, "front_is_final": True}
        features = mechanism or Gaussian(SHAPE, 5.0, 1.0, 1e-5)
        return Gate(features, ledger, noise or SpiedNoise(), task=task, **{**usual, **settings})

    yield make
    for ledger in ledgers:
        ledger.close()


def test_a_release_without_noise_is_recorded_as_infinite_epsilon():
    released = release(IDS, FEATURES, LABELS)
    assert released.event.epsilon == math.inf
    assert released.label_event.epsilon == math.inf


def test_nobody_else_can_make_one():
    event = ReleaseEvent("none", math.inf)
    with pytest.raises(TypeError, match=r"smartedge\.privacy\.release"):
        ReleasedBatch(IDS, FEATURES, LABELS, event)
    with pytest.raises(TypeError, match=r"smartedge\.privacy\.release"):
        ReleasedBatch(IDS, FEATURES, LABELS, event, key=object())


def test_raw_features_cannot_be_packed():
    for raw in (FEATURES, FeatureBatch(IDS, FEATURES, LABELS)):
        with pytest.raises(TypeError):
            pack(raw, get_codec("uint8"))


@pytest.mark.source
def test_the_key_is_named_in_two_modules_only():
    source = Path(smartedge.__file__).parent
    users = {str(p.relative_to(source)) for p in source.rglob("*.py") if "_RELEASE_KEY" in p.read_text()}
    assert users == {"types.py", "privacy/release.py"}


def test_what_leaves_is_the_clipped_map_plus_noise_and_it_is_recorded(make_gate):
    gate = make_gate()
    released = gate.release(IDS, 100 * FEATURES, LABELS, split="train", seq=0)
    bounded = gate.mechanism.bound(100 * FEATURES)
    noise = (released.features_BF - bounded).astype(np.float64)
    # 96 draws of variance 1: their sum of squares is beyond these quantiles of chi-square with probability 1e-7.
    assert 40 < float(np.square(noise).sum()) < 192
    assert np.array_equal(released.labels, LABELS)
    assert released.event == gate.mechanism.event
    (group,) = gate.ledger.balance().groups
    assert (group.split, group.images, group.releases) == ("train", 2, 1)
    assert group.history == ((gate.mechanism.event, 1),)


def test_a_repeated_frame_is_the_same_release_bit_by_bit(make_gate):
    gate = make_gate(RandomisedResponse(4, 1.0), label_epsilon=1.0)
    codes = np.eye(4, dtype=np.float32)[[1, 3]]
    first = gate.release(IDS, codes, LABELS, split="train", seq=5)
    again = gate.release(IDS, codes.copy(), LABELS, split="train", seq=5)
    assert np.array_equal(first.features_BF, again.features_BF)
    assert np.array_equal(first.labels, again.labels)
    assert gate.ledger.releases("train") == 1
    other = [gate.release(IDS, codes, LABELS, split="train", seq=seq).features_BF for seq in range(6, 40)]
    assert any(not np.array_equal(first.features_BF, features) for features in other), "fresh noise for another frame"
    assert gate.ledger.releases("train") == 35


def test_different_features_under_the_same_number_are_another_release(make_gate):
    gate = make_gate()
    first = gate.release(IDS, FEATURES, LABELS, split="train", seq=0).features_BF
    moved = gate.release(IDS, FEATURES + 0.25, LABELS, split="train", seq=0).features_BF
    assert gate.ledger.releases("train") == 2
    assert not np.allclose(moved - first, 0.25, atol=0.05), "the noise is fresh"
    others = gate.release(IDS + 2, FEATURES, LABELS, split="train", seq=0).features_BF
    assert sum(group.images for group in gate.ledger.balance().groups) == 4, "other images, which have such features"
    assert not np.allclose(others, first, atol=0.05)


def test_a_refusal_comes_before_any_noise_is_drawn(make_gate):
    mechanism = make_mechanism("gaussian", feature_shape=SHAPE, clip=5.0, epsilon=1.0)
    gate = make_gate(mechanism, epsilon=1.0, label_epsilon=1.0)
    gate.release(IDS, FEATURES, LABELS, split="train", seq=0)
    drawn = gate.noise.drawn
    assert drawn == 2 * gate.mechanism.words_per_image + 2 == 2 * (48 + 4) + 2
    with pytest.raises(PrivacyError, match="budget is 1"):
        gate.release(IDS, FEATURES, LABELS, split="train", seq=1)
    assert gate.noise.drawn == drawn


def test_a_failure_after_the_debit_sends_nothing_and_stays_debited(make_gate, monkeypatch):
    gate = make_gate()
    monkeypatch.setattr(gate.noise, "words", lambda nonce, count: (_ for _ in ()).throw(OSError("power")))
    with pytest.raises(OSError, match="power"):
        gate.release(IDS, FEATURES, LABELS, split="train", seq=0)
    assert gate.ledger.releases("train") == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300, "masked"])
@pytest.mark.parametrize("mechanism", [Unprotected(SHAPE), Gaussian(SHAPE, 5.0, 1.0, 1e-5)])
def test_features_that_are_not_finite_are_refused(make_gate, mechanism, bad):
    """1e300 is finite, but not in the precision that is released; a mask hides NaN from a look at all numbers."""
    gate = make_gate(mechanism)
    features = FEATURES.astype(np.float64)
    features[1, 0, 0, 0] = math.nan if bad == "masked" else bad
    if bad == "masked":
        features = np.ma.masked_invalid(features)
    with pytest.raises(PrivacyError, match="not finite"):
        gate.release(IDS, features, LABELS, split="train", seq=0)
    assert gate.ledger.releases("train") == 0
    assert gate.noise.drawn == 0


@pytest.mark.parametrize("mechanism", [RandomisedResponse(4, 1.0), Unprotected((4,)), Gaussian((4,), 5.0, 1.0, 1e-5)])
@pytest.mark.parametrize("shape", [(5, 4), (1, 4), (2, 1), (2, 2, 2)])
def test_features_of_another_shape_are_refused(make_gate, mechanism, shape):
    """Five codewords under one id took one word of noise together, and one image was debited."""
    gate = make_gate(mechanism)
    for ids in (IDS, IDS[:1]):
        if shape != (len(ids), 4):
            with pytest.raises(PrivacyError, match="nothing of this batch was sent"):
                gate.release(ids, np.ones(shape, np.float32), np.zeros(len(ids), np.int64), split="train", seq=0)
    assert gate.ledger.releases("train") == gate.noise.drawn == 0


def test_where_training_alone_is_protected_the_rest_goes_as_it_is_and_the_ledger_says_so(make_gate):
    gate = make_gate(epsilon=1e9, training_only=True, label_epsilon=1.0)
    far = 100 * FEATURES
    assert gate.release(IDS, far, LABELS, split="train", seq=0).event.epsilon < math.inf
    open_batch = gate.release(IDS, far, LABELS, split="val", seq=1)
    assert open_batch.event.epsilon == math.inf
    assert open_batch.label_event.epsilon == math.inf
    assert np.array_equal(open_batch.features_BF, gate.mechanism.bound(far)), (
        "clipped, since that is what the back learns"
    )
    assert np.array_equal(open_batch.labels, LABELS)
    assert gate.ledger.balance().worst("val").epsilon == math.inf


def test_where_training_alone_is_protected_its_budget_holds_and_the_rest_has_none(make_gate):
    mechanism = make_mechanism("gaussian", feature_shape=SHAPE, clip=5.0, epsilon=1.0)
    gate = make_gate(mechanism, epsilon=1.0, training_only=True)
    gate.release(IDS, FEATURES, LABELS, split="train", seq=0)
    drawn = gate.noise.drawn
    with pytest.raises(PrivacyError, match="budget is 1"):
        gate.release(IDS, FEATURES, LABELS, split="train", seq=1)
    assert gate.noise.drawn == drawn
    for seq, split in enumerate(("val", "val", "test"), start=2):
        gate.release(IDS, FEATURES, LABELS, split=split, seq=seq)
    assert gate.ledger.balance().worst("train").epsilon <= 1.0


def test_images_go_through_unchanged_where_nothing_protects_them(make_gate):
    gate = make_gate(Unprotected((3, 2, 2)))
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    released = gate.release(IDS, images, LABELS, split="train", seq=0)
    assert np.array_equal(released.features_BF, images)
    assert released.features_BF.dtype == np.uint8
    assert gate.ledger.releases("train") == 1


def test_an_image_that_is_asked_again_in_any_batch_is_no_new_release(make_gate):
    gate = make_gate(epsilon=1000.0, task=None)
    ids = np.array([2**62, 7])
    first = gate.release(ids, FEATURES, LABELS, split="infer", seq=None)
    assert first.label_event is None
    again = gate.release(ids[::-1], FEATURES[::-1].copy(), LABELS, split="infer", seq=None)
    assert np.array_equal(again.features_BF[::-1], first.features_BF)
    twice = gate.release(ids[[1, 1]], FEATURES[[1, 1]], LABELS, split="infer", seq=None)
    assert np.array_equal(twice.features_BF, first.features_BF[[1, 1]])
    assert gate.ledger.releases("infer") == 1
    assert gate.ledger.balance().worst("infer").images == 2
    other = gate.release(ids[:1], FEATURES[:1] / 2, LABELS[:1], split="infer", seq=None)
    assert not np.array_equal(other.features_BF, first.features_BF[:1])
    assert gate.ledger.releases("infer") == 2, "other features of the same image are a new release"


def test_an_image_that_is_asked_again_needs_no_budget_and_a_new_one_beside_it_has_its_own(make_gate):
    mechanism = make_mechanism("gaussian", feature_shape=SHAPE, clip=5.0, epsilon=1.0)
    gate = make_gate(mechanism, epsilon=1.0, task=None)
    first = gate.release(IDS[:1], FEATURES[:1], LABELS[:1], split="infer", seq=None)
    both = gate.release(IDS.astype(np.int32), FEATURES, LABELS, split="infer", seq=None)
    assert np.array_equal(both.features_BF[0], first.features_BF[0]), "ids of another dtype are the same images"
    assert both.ids.dtype == np.int64
    elsewhere = gate.release(IDS, FEATURES, LABELS, split="val", seq=7).features_BF
    assert not np.array_equal(elsewhere[0], first.features_BF[0]), "the same number and features in another split"
    assert gate.ledger.releases("infer") == gate.ledger.releases("val") == 1
    one, other = (
        gate.release(IDS[[image]], FEATURES[:1], LABELS[:1], split="test", seq=8).features_BF for image in (1, 0)
    )
    assert not np.array_equal(one, other), "another image of the split, the same features"
    assert sum(group.images for group in gate.ledger.balance().groups if group.split == "test") == 2
    with pytest.raises(PrivacyError, match="image 1 of split 'infer'"):
        gate.release(IDS, np.stack([FEATURES[0], FEATURES[1] / 2]), LABELS, split="infer", seq=None)


def test_a_batch_that_is_no_frame_of_a_run_does_not_count_as_one(make_gate):
    gate = make_gate()
    for _ in range(2):
        gate.release(IDS, FEATURES, LABELS, split="train", seq=None)
    assert gate.ledger.releases("train") == 1 and not gate.ledger.holds(1)


def test_training_images_get_new_noise_in_every_frame_and_others_do_not(make_gate):
    gate = make_gate(epsilon=1000.0)
    for split, releases in (("train", 2), ("val", 1)):
        one, two = (gate.release(IDS, FEATURES, LABELS, split=split, seq=seq) for seq in (0, 1))
        assert np.array_equal(one.features_BF, two.features_BF) == (split == "val")
        assert gate.ledger.releases(split) == releases
    assert gate.ledger.holds(2), "a repeated frame is recorded too"
    assert not gate.ledger.holds(3)


def test_while_a_front_learns_a_repetition_is_a_new_release(make_gate):
    """The same noise again would tell that an image's features are what they were under the front before."""
    gate = make_gate(epsilon=1000.0, front_is_final=False)
    for split in ("val", "test"):
        one, two = (gate.release(IDS, FEATURES, LABELS, split=split, seq=seq).features_BF for seq in (0, 1))
        assert not np.array_equal(one, two) and gate.ledger.releases(split) == 2
    asked = [gate.release(IDS, FEATURES, LABELS, split="infer", seq=None).features_BF for _ in range(2)]
    assert np.array_equal(*asked) and gate.ledger.releases("infer") == 1, "a finished front answers"


def test_a_part_of_a_release_is_a_release_under_the_ids_that_it_is_given(make_gate):
    released = make_gate().release(IDS, FEATURES, LABELS, split="train", seq=0)
    part = select(released, np.array([1]), np.array([0]))
    assert part.ids.tolist() == [0]
    assert np.array_equal(part.features_BF, released.features_BF[1:])
    assert part.labels.tolist() == [1]
    assert part.event == released.event
    assert len(pack(part, get_codec("float32")).ids) == 1


# -- labels


def test_a_label_is_randomised_once_for_all_epochs(make_gate):
    gate = make_gate(RandomisedResponse(4, 1.0), label_epsilon=0.5)
    ids, codes = np.arange(64), np.eye(4, dtype=np.float32)[np.arange(64) % 4]
    truth = np.arange(64) % 2
    sent = [gate.release(ids, codes, truth, split="train", seq=seq).labels for seq in range(3)]
    assert np.array_equal(sent[0], sent[1])
    assert np.array_equal(sent[0], sent[2])
    assert not np.array_equal(sent[0], truth)
    turned = np.arange(63, -1, -1)
    mixed = gate.release(ids[turned], codes, truth[turned], split="train", seq=9).labels
    assert np.array_equal(mixed[turned], sent[0]), "whatever batch it comes in"
    assert not np.array_equal(gate.release(ids, codes, truth, split="val", seq=10).labels, sent[0]), "another image"
    (group,) = [g for g in gate.ledger.balance().groups if g.split == "train"]
    assert (group.releases, group.label_epsilon) == (4, 0.5)


@pytest.mark.parametrize("outputs", [2, 5])
def test_labels_of_one_of_k_classes_follow_randomised_response(outputs):
    """Hoeffding per class and answer: a false alarm has probability < 25 · 2·exp(−2nt²) = 1e-6."""
    draws, epsilon = 40_000, 1.2
    task = Task("single", ("c",), tuple("abcde"[:outputs]))
    bound = math.sqrt(math.log(2 * 25 / 1e-6) / (2 * draws))
    total = math.exp(epsilon) + outputs - 1
    for truth in range(outputs):
        words = Noise(bytes(32)).words(bytes([truth]), draws)[:, None]
        sent = randomise_labels(np.full(draws, truth), task, epsilon, words)
        assert sent.dtype == np.int64
        for answer in range(outputs):
            expected = (math.exp(epsilon) if answer == truth else 1) / total
            assert abs(float((sent == answer).mean()) - expected) < bound


def test_columns_of_a_multi_label_task_share_the_budget():
    draws, epsilon = 40_000, 3.0
    task = Task("multi", ("a", "b", "c"), ("a", "b", "c"))
    bound = math.sqrt(math.log(2 * 3 / 1e-6) / (2 * draws))
    truth = np.tile(np.array([1, 0, 1], np.float32), (draws, 1))
    sent = randomise_labels(truth, task, epsilon, Noise(bytes(32)).words(b"", 3 * draws).reshape(draws, 3))
    assert sent.dtype == np.float32
    kept = (sent == truth).mean(axis=0)
    assert np.abs(kept - math.exp(1) / (1 + math.exp(1))).max() < bound
    flips = sent != truth
    assert abs(np.corrcoef(flips.T)[0, 1]) < 5.5 / math.sqrt(draws), "columns are independent"


def test_the_last_words_and_the_first_ones():
    task = Task("single", ("c",), ("a", "b", "c"))
    words = np.array([[0], [2**64 - 1], [2**64 - 1], [2**64 - 1]], dtype=np.uint64)
    sent = randomise_labels(np.array([2, 0, 1, 2]), task, 1.0, words)
    assert sent[0] == 2, "the first words keep the truth"
    assert all(0 <= int(label) < 3 for label in sent)


@pytest.mark.parametrize("epsilon", [0.1, 1.2, 6.0])
def test_the_word_decides_a_label_at_the_exact_threshold(epsilon):
    """The truth, then each other class in turn, has just so many words as response_weights says."""
    often, rare, rest = response_weights(epsilon, likely=1, unlikely=2)
    ends = [often, often + rare, often + 2 * rare]
    assert ends[-1] == 2**64 and rest == 0
    words = np.array([[0], *([end + step] for end in ends for step in (-1, 0) if end + step < 2**64)], dtype=np.uint64)
    sent = randomise_labels(np.ones(len(words), np.int64), Task("single", ("c",), ("a", "b", "c")), epsilon, words)
    assert sent.tolist() == [1, 1, 0, 0, 2, 2, 0][: len(words)]


def test_a_label_that_is_lacking_is_not_randomised():
    task = Task("multi", ("a", "b"), ("a", "b"))
    with pytest.raises(PrivacyError, match="a label is lacking"):
        randomise_labels(np.array([[1.0, np.nan]], np.float32), task, 1.0, np.zeros((1, 2), np.uint64))


@pytest.mark.parametrize(("kind", "label"), [("single", -1), ("single", 3), ("multi", 2.0)])
def test_a_label_that_is_no_class_is_not_randomised(kind, label):
    """It would be sent as it is whenever the truth is sent, and no other image could have it."""
    labels = np.array([label]) if kind == "single" else np.array([[0.0, 1.0, label]], np.float32)
    with pytest.raises(PrivacyError, match="none of the"):
        randomise_labels(labels, Task(kind, tuple("abc"), tuple("xyz")), 1.0, np.zeros(labels.shape, np.uint64))


def test_what_a_label_costs():
    assert label_event_of(TASK, None).epsilon == math.inf
    assert label_event_of(TASK, 0.5) == ReleaseEvent("randomised-response", 0.5, codewords=2)
    assert label_event_of(Task("single", ("c",), ("x", "y", "z")), 0.5).codewords == 3
    many = Task("multi", tuple("abc"), tuple("abc"))
    assert label_event_of(many, 0.5) == ReleaseEvent("randomised-response", 0.5, codewords=2), "of each column"


@pytest.mark.parametrize("mechanism", [None, Unprotected(SHAPE)])
def test_arrays_that_change_after_the_debit_change_nothing_of_what_is_sent(make_gate, monkeypatch, mechanism):
    """The training loop may go on writing into its arrays while the sending thread releases them."""
    arrays = (IDS.copy(), FEATURES.copy(), LABELS.copy())
    gate = make_gate(mechanism)
    wanted = make_gate(mechanism, name="other").release(IDS, FEATURES, LABELS, split="train", seq=0)
    debit = gate.ledger.debit

    def debit_and_change(*args, **settings):
        debit(*args, **settings)
        for array in arrays:
            array[:] = 7

    monkeypatch.setattr(gate.ledger, "debit", debit_and_change)
    released = gate.release(*arrays, split="train", seq=0)
    for name in ("ids", "features_BF", "labels"):
        assert np.array_equal(getattr(released, name), getattr(wanted, name)), name
