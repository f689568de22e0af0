"""Releases of whole runs, as the ledger and the results count them."""

from __future__ import annotations

import contextlib
import math
import sqlite3

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from smartedge.artifacts.results import Results
from smartedge.codec import get_codec
from smartedge.config import load_config
from smartedge.edge.protection import open_gate
from smartedge.errors import PrivacyError, RunError
from smartedge.inference import Answerer, LocalBack, TorchFront, TrainedRun
from smartedge.privacy.balance import read_balance
from smartedge.privacy.checksum import seal
from smartedge.privacy.mechanisms import Gaussian
from smartedge.privacy.place import note_frames
from smartedge.runs.progress import Quiet
from smartedge.training import train
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.memory import MemoryLink

GAUSSIAN = {"mechanism": "gaussian", "epsilon": 8.0}


def run(config):
    results = train(config, single_process=True, monitor=Quiet())
    return results, read_balance(config.run_dir / "edge" / "ledger.sqlite")


@pytest.mark.parametrize("schedule", ["joint", "two-stage", "freeze-and-log"])
def test_each_epoch_of_sending_is_a_release_and_freeze_and_log_one(tiny_config, schedule):
    config = tiny_config("run", schedule=schedule, model={"bottleneck": "2x2x2"}, dp=GAUSSIAN)
    results, balance = run(config)
    releases = 1 if schedule == "freeze-and-log" else 3
    assert config.releases == results.releases_per_image == releases
    counted = {(group.split, group.releases): group.images for group in balance.groups}
    evaluated = releases if schedule == "joint" else 1  # a frozen front makes the same features of a val image again
    assert counted == {("train", releases): 96, ("val", evaluated): 20, ("test", 1): 40}
    privacy = results.privacy
    assert privacy.releases_max == releases
    assert privacy.epsilon_total == pytest.approx(8.0, rel=1e-6), "all of the budget, and no more"
    assert balance.worst().epsilon <= 8.0 * (1 + 1e-9)
    assert privacy.randomised_response_baseline < 1
    assert Results.read(config.run_dir / "results.json") == results


def test_a_run_without_protection_is_recorded_as_such(tiny_config):
    results, balance = run(tiny_config("run", epochs=2))
    assert results.privacy.mechanism == "none"
    assert results.privacy.epsilon is results.privacy.randomised_response_baseline is None
    assert balance.worst("train").epsilon == math.inf
    assert balance.worst("train").releases == 2


def test_only_training_images_are_protected_where_the_settings_say_so(tiny_config):
    config = tiny_config("run", epochs=1, model={"bottleneck": "2x2x2"}, dp={**GAUSSIAN, "apply_to": "training"})
    results, balance = run(config)
    assert balance.worst("train").epsilon == pytest.approx(8.0, rel=1e-6)
    assert balance.worst("test").epsilon == math.inf
    assert results.privacy.epsilon_total == pytest.approx(8.0, rel=1e-6)


def test_the_cloud_is_judged_by_labels_that_it_never_saw(tiny_config):
    """With randomised labels the cloud's own figures are against noise; those of the results are not."""
    dp = {"mechanism": "gaussian", "epsilon": 200.0, "label_epsilon": 1.0}
    config = tiny_config("run", epochs=1, model={"bottleneck": "2x2x2"}, dp=dp, data={"limit": {"test": 200}})
    results, balance = run(config)
    edge, cloud = (load_file(config.run_dir / side / "predictions.safetensors") for side in ("edge", "cloud"))
    assert torch.equal(edge["ids"], cloud["ids"])
    # 200 labels, each turned with probability 1/(1 + e) = 0.27; outside 15 to 100 with probability below 1e-7.
    assert 15 < int((edge["labels"] != cloud["labels"]).sum()) < 100
    accuracy = float((cloud["scores"].argmax(dim=1) == edge["labels"]).double().mean())
    assert results.test.back.accuracy == pytest.approx(accuracy)
    joined = load_file(config.run_dir / "predictions.safetensors")
    truth = dict(zip(edge["ids"].tolist(), edge["labels"].tolist(), strict=True))
    assert joined["labels"].tolist() == [truth[image] for image in joined["ids"].tolist()]
    assert balance.worst("train").label_epsilon == 1.0
    assert results.privacy.epsilon_with_label == pytest.approx(results.privacy.epsilon_total + 1.0)


class Cloud:
    """A server that answers one half for everything, and keeps what came."""

    def __init__(self):
        self.frames = []

    def accept(self, edge, header):
        return header.first_seq

    def ingest(self, edge, header, frame):
        self.frames.append(frame.batch)
        payload, side = get_codec("float32").encode(np.full((len(frame.batch.ids), 2), 0.5, np.float32))
        return Frame(frame.seq, EncodedBatch(frame.batch.ids, frame.batch.labels, payload, side))

    def sync(self, edge, header):
        return header.first_seq

    def finish(self, edge, header): ...

    def abort(self, edge, header): ...


@pytest.fixture
def private_run(tiny_config):
    """A finished run in which an image has a budget of one release."""
    config = tiny_config("run", schedule="freeze-and-log", model={"bottleneck": "2x2x2"}, dp=GAUSSIAN)
    run(config)
    return TrainedRun.open(config.run_dir)


def some_images(seed, count=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def answer(run, images_BCHW, *, threshold, server=None):
    front = TorchFront(run)
    gate, back = None, None
    if server is None:
        back = LocalBack(run)
    else:
        gate = open_gate(run.config, run.folder / "edge", None, front.mechanism, None, existing=True)
    with Answerer(front, threshold=threshold, back=back, server=server, gate=gate) as answerer:
        return answerer.answer(images_BCHW.numpy())


def test_the_same_image_asked_ten_times_is_one_release(private_run):
    cloud, images = Cloud(), some_images(0)
    ledger = private_run.folder / "edge" / "ledger.sqlite"

    def ask(asked):
        return answer(private_run, asked, threshold=1.01, server=MemoryLink(cloud))

    assert {given.by for given in ask(images)} == {"back"}
    np.testing.assert_array_equal(cloud.frames[0].ids, np.arange(5))
    assert read_balance(ledger).worst("infer").releases == 1
    for batch in (images, images[1:3], images[[4, 0]], images[2:3], images.flip(0), *[images[3:4]] * 5):
        ask(batch)
    assert read_balance(ledger).worst("infer").releases == 1
    assert sum(group.images for group in read_balance(ledger).groups if group.split == "infer") == 5
    assert cloud.frames[1].payload == cloud.frames[0].payload
    ledger.unlink()
    with pytest.raises(PrivacyError, match="is gone"):
        ask(images)


def test_an_answer_without_a_server_releases_nothing(private_run):
    given = answer(private_run, some_images(0), threshold=1.01)
    assert {one.by for one in given} == {"back"}
    assert answer(private_run, some_images(0), threshold=0, server=MemoryLink(Cloud()))[0].by == "exit"
    assert read_balance(private_run.folder / "edge" / "ledger.sqlite").worst("infer") is None


def test_nothing_but_the_release_decides_what_crosses(private_run, monkeypatch):
    """Where all images are released alike, all that crosses is alike too: which are sent, how many, ids, bytes."""
    heard = []
    released = np.linspace(-1, 1, 5 * 8, dtype=np.float32).reshape(5, 2, 2, 2)[[3, 0, 4, 1, 2]]
    monkeypatch.setattr(Gaussian, "randomise", lambda self, bounded_BF, words: as_given(bounded_BF, released))
    logits = TorchFront(private_run).logits(released, released=True)
    sure = torch.from_numpy(logits).softmax(dim=1).max(dim=1).values.sort().values
    threshold = float(sure[2:4].mean())  # some are sent and some are not
    for seed in range(6):
        cloud = Cloud()
        given = answer(private_run, some_images(seed), threshold=threshold, server=MemoryLink(cloud))
        heard.append(([one.by for one in given], [(f.ids.tolist(), f.payload, f.side) for f in cloud.frames]))
    assert all(one == heard[0] for one in heard[1:])
    assert {*heard[0][0]} == {"exit", "back"}
    assert heard[0][1][0][0] == list(range(heard[0][0].count("back"))), "numbered without gaps"


def as_given(like, released):
    """Of the type that the mechanism works on."""
    return torch.from_numpy(released) if isinstance(like, torch.Tensor) else released


class Breaks(Quiet):
    """Progress that ends the run in its third epoch."""

    def update(self, update):
        if update.side == "edge" and update.phase == "train" and "epoch 3/" in update.text:
            raise RuntimeError("the power went")


@pytest.fixture
def broken_off(tiny_config):
    config = tiny_config("run", model={"bottleneck": [4, 2, 2]}, dp={"mechanism": "gaussian", "epsilon": 8.0})
    with pytest.raises(RuntimeError, match="the power went"):
        train(config, single_process=True, monitor=Breaks())
    return config


def test_a_run_goes_on_with_its_whole_ledger_only(broken_off):
    ledger = broken_off.run_dir / "edge" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(ledger)) as db, db:
        (last,) = db.execute("SELECT max(seq) FROM frames").fetchone()
        db.execute("DELETE FROM releases WHERE frame IN (SELECT frame FROM frames WHERE seq > ?)", (last - 10,))
        db.execute("DELETE FROM frames WHERE seq > ?", (last - 10,))
        seal(db)  # an older copy is whole in itself
    note_frames(ledger, 0)  # as on a file system that keeps no such notes
    with pytest.raises(PrivacyError, match="does not hold them all"):
        train(broken_off, resume=True, single_process=True, monitor=Quiet())


def test_a_run_goes_on_with_the_images_it_began_with_only(broken_off):
    fewer = load_config(broken_off, {"data": {"limit": {"train": 80}}})
    (broken_off.run_dir / "config.yaml").write_text(fewer.to_yaml())  # as if the settings were the same
    with pytest.raises(RunError, match="its images or labels are not those"):
        train(fewer, resume=True, single_process=True, monitor=Quiet())
    (broken_off.run_dir / "config.yaml").write_text(broken_off.to_yaml())
    results = train(broken_off, resume=True, single_process=True, monitor=Quiet())
    assert results.releases_per_image == 3
