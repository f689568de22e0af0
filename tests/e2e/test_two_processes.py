"""Two real processes over a real socket: the same weights as one process."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from forked import Popen
from runs import assert_same_run
from safetensors.torch import load_file

from smartedge.codec import unpack
from smartedge.data import open_dataset
from smartedge.errors import CutError, DataError, RunError
from smartedge.files import write_atomically
from smartedge.runs.progress import Quiet, Update
from smartedge.training import train

METHODS = [
    ("hierarchical", "joint"),
    pytest.param("hierarchical", "freeze-and-log", marks=pytest.mark.slow),
    ("upload", "joint"),
    pytest.param("upload", "freeze-and-log", marks=pytest.mark.slow),
    ("split", "joint"),
    ("local", "joint"),
]


class Told(Quiet):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, update: Update) -> None:
        self.texts.append(update.text)


@pytest.mark.parametrize(("method", "schedule"), METHODS)
def test_two_processes_give_the_weights_of_one(tiny_config, request, method, schedule):
    if (method, schedule) != METHODS[0]:  # which starts its sides as a user's command does
        request.getfixturevalue("forked_sides")
    one = tiny_config("one", method=method, schedule=schedule)
    two = tiny_config("two", method=method, schedule=schedule)
    train(one, single_process=True, monitor=Quiet())
    told = Told()
    results = train(two, monitor=told)
    assert_same_run(one.run_dir, two.run_dir)
    assert not [text for text in told.texts if "takes more memory" in text]  # the edge took what was divided for it
    if method != "local":
        counted, known = (
            json.loads((run / "edge" / "summary.json").read_text())["traffic"]["up"]
            for run in (two.run_dir, one.run_dir)
        )
        for split in ("train", "val", "test"):  # the socket's bytes are the messages', and little besides
            assert 0.9 * known[split] < counted[split] < 1.1 * known[split] + 8000
    sent = results.bytes_per_image
    if method == "local":
        assert (sent.up, sent.down) == (0, 0)
    else:
        assert sent.source == ("kernel tcp_info" if sys.platform == "linux" else "payload")
    if method == "split":
        assert sent.down > 8 * 8 * 8 * 4  # the gradient, in float32
    elif method != "local":
        assert sent.down < 40  # acknowledgements of the transport, nothing of ours
    assert results.releases_per_image == (0 if method == "local" else 1 if schedule == "freeze-and-log" else 3)


@pytest.mark.usefixtures("forked_sides")
def test_the_log_holds_what_was_sent_and_nothing_that_must_stay(tiny_config, open_log):
    config = tiny_config("run", schedule="freeze-and-log")
    train(config, monitor=Quiet())
    data = config.data
    dataset = open_dataset(
        "drawn", "smile", sensitive=("masculine",), image_size=16, limit=data.limit, seed=0, cache_dir=data.cache_dir
    )
    log = open_log(config.run_dir)
    seen: dict[str, dict[int, int]] = {"train": {}, "val": {}, "test": {}}
    for expected_seq, frame in enumerate(log.frames()):
        header = log.header_of(frame.seq)
        assert frame.seq == expected_seq
        assert header.feature_shape == (8, 8, 8)
        batch = unpack(frame.batch, header)
        assert np.isfinite(batch.features_BF).all()
        for image, label in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True):
            assert image not in seen[header.split], "released twice"
            seen[header.split][image] = label
    for name, split in dataset.splits.items():
        assert seen[name] == dict(zip(split.ids.tolist(), split.labels.tolist(), strict=True))
    cloud_files = [file for file in (config.run_dir / "cloud").rglob("*") if file.is_file()]
    assert cloud_files
    assert not [file for file in cloud_files if b"masculine" in file.read_bytes()]


def test_sides_with_different_settings_refuse_each_other(tiny_config, tmp_path):
    files = {}
    for side, lr in (("cloud", 0.1), ("edge", 0.2)):
        config = tiny_config(side, train={"lr": lr})
        files[side] = tmp_path / f"{side}.yaml"
        files[side].write_text(config.to_yaml())
    command = [sys.executable, "-m", "smartedge"]
    listening = ["--listen", "127.0.0.1:0", "--progress", "json", "--until-input-ends"]
    cloud = Popen([*command, "cloud", str(files["cloud"]), *listening], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        port = json.loads(cloud.stdout.readline())["port"]
        edge = Popen([*command, "edge", str(files["edge"]), "--connect", f"127.0.0.1:{port}"], stderr=subprocess.PIPE)
        _, said = edge.communicate(timeout=60)
        assert edge.returncode == RunError.exit_code
        assert "train.lr: 0.2 at the edge, 0.1 here" in said
        assert cloud.poll() is None, "bad input costs the sender an error and the receiver nothing"
    finally:
        cloud.stdin.close()  # whoever started it is gone
        assert cloud.wait(timeout=30) == 0
        cloud.stdout.close()


def test_a_run_is_not_overwritten(tiny_config):
    config = tiny_config("run", method="local", epochs=1)
    train(config, single_process=True, monitor=Quiet())
    with pytest.raises(RunError, match="--resume"):
        train(config, single_process=True, monitor=Quiet())
    (config.run_dir.parent / "empty").mkdir()
    with pytest.raises(RunError, match="no run to resume"):
        train(config, {"run_dir": str(config.run_dir.parent / "empty")}, resume=True, monitor=Quiet())


@pytest.mark.usefixtures("forked_sides")
def test_a_run_that_failed_at_its_settings_can_be_started_again(tiny_config):
    config = tiny_config("run", epochs=1)
    with pytest.raises(CutError, match="stage9"):
        train(config, {"model": {"cut": "stage9"}}, monitor=Quiet())
    with pytest.raises(DataError, match="smiel"):
        train(config, {"data": {"desired": "smiel"}}, single_process=True, monitor=Quiet())
    assert train(config, single_process=True, monitor=Quiet()).epochs == 1


def test_multi_label_runs(tiny_config):
    config = tiny_config("run", data={"desired": ["smile", "beard", "makeup"], "sensitive": []}, epochs=1)
    results = train(config, single_process=True, monitor=Quiet())
    assert results.task.kind == "multi"
    predictions = load_file(config.run_dir / "predictions.safetensors")
    assert predictions["exit"].shape == predictions["back"].shape == (40, 3)
    assert np.isfinite(results.test.back.auroc)


@pytest.mark.usefixtures("forked_sides")
def test_a_run_over_tls_with_certificates_on_both_sides_and_a_token(tiny_config, tmp_path, certificates):
    token = tmp_path / "token"
    write_atomically(token, "a secret that no file of the run holds\n")
    link = {
        "token_file": str(token),
        "tls_ca": str(certificates / "ca.pem"),
        "tls_cert": str(certificates / "cert.pem"),
        "tls_key": str(certificates / "key.pem"),
    }
    plain, secured = tiny_config("plain", epochs=1), tiny_config("secured", epochs=1, link=link)
    train(plain, single_process=True, monitor=Quiet())
    train(secured, monitor=Quiet())
    assert_same_run(plain.run_dir, secured.run_dir)
    files = [file for file in secured.run_dir.rglob("*") if file.is_file()]
    assert not [file for file in files if b"a secret that no file" in file.read_bytes()]
