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
from smartedge.config import load_config
from smartedge.errors import PrivacyError, RunError
from smartedge.inference import EdgeModel, TrainedRun, answer, ask_over
from smartedge.privacy.ledger import read_balance
from smartedge.runs.progress import Quiet
from smartedge.training import train
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
    assert counted == {("train", releases): 96, ("val", releases): 20, ("test", 1): 40}
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


def test_offloading_spends_budget_and_no_ids_but_rows_go_over_the_link(tiny_config):
    config = tiny_config("run", schedule="freeze-and-log", model={"bottleneck": "2x2x2"}, dp=GAUSSIAN)
    run(config)
    trained = TrainedRun.open(config.run_dir)
    edge = EdgeModel(trained)
    images_BCHW = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = []

    class Cloud:
        def accept(self, header): ...

        def ingest(self, header, frame):
            seen.append(frame.batch)
            from smartedge.codec import get_codec
            from smartedge.types import EncodedBatch, Frame

            payload, side = get_codec("float32").encode(np.full((len(frame.batch.ids), 2), 0.5, np.float32))
            batch = EncodedBatch(frame.batch.ids, frame.batch.labels, payload, side)
            return Frame(frame.seq, batch)

        def finish(self, header): ...

        def abort(self, header): ...

    def ask(images):
        return answer(trained, edge, images, threshold=1.01, ask=ask_over(MemoryLink(Cloud()), trained, edge))

    assert {given.by for given in ask(images_BCHW)} == {"back"}
    np.testing.assert_array_equal(seen[0].ids, np.arange(5))
    ledger = config.run_dir / "edge" / "ledger.sqlite"
    assert read_balance(ledger).worst("infer").releases == 1
    ask(images_BCHW)
    assert seen[1].payload == seen[0].payload, "the same question is the same release"
    assert read_balance(ledger).worst("infer").releases == 1
    with pytest.raises(PrivacyError, match="split 'infer'"):
        ask(images_BCHW[1:3])  # another batch: fresh noise, for which these images have no budget left
    assert len(seen) == 2
    ledger.unlink()
    with pytest.raises(PrivacyError, match="is gone"):
        ask(images_BCHW)


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
    with contextlib.closing(sqlite3.connect(broken_off.run_dir / "edge" / "ledger.sqlite")) as db, db:
        (last,) = db.execute("SELECT max(seq) FROM frames").fetchone()
        db.execute("DELETE FROM releases WHERE frame IN (SELECT frame FROM frames WHERE seq > ?)", (last - 10,))
        db.execute("DELETE FROM frames WHERE seq > ?", (last - 10,))
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
