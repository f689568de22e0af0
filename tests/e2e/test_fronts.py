"""A published front: exported, checked, run without torch, and equal to torch, over a real socket."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from smartedge.artifacts.front import CertifiedAttribute, FrontManifest
from smartedge.cli.app import main
from smartedge.cloud.runner import CloudRunner
from smartedge.config import load_config
from smartedge.edge.labelled import LabelledFolder
from smartedge.edge.protection import open_gate
from smartedge.errors import FrontError, RunError
from smartedge.files import write_atomically
from smartedge.fleet.signing import make_signing_key, read_trust_key, sign
from smartedge.fronts.bundle import open_front, settings_for_release
from smartedge.fronts.requirements import Requirement
from smartedge.fronts.runtime import OnnxFront
from smartedge.inference import Answerer, BackServer, TorchFront, TrainedRun, export_front
from smartedge.launch.links import receiver_for
from smartedge.methods import hierarchical
from smartedge.methods.mechanism import mechanism_of
from smartedge.models.zoo.networks import build
from smartedge.runs.progress import Quiet
from smartedge.stopping import Stop
from smartedge.training import release_images, run_edge, train
from smartedge.wire.memory import MemoryLink

EXACT = {"name": "tiny:build_exact", "cut": "stage1"}
NOISE = {"mechanism": "gaussian", "epsilon": 8.0, "clip": 100.0}


def write_photographs(folder) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        for name, light in (("dark", 60), ("light", 180)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(light - 50, light + 50, (18, 22, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "train" / "dark" / "3.png").write_bytes(b"not an image")


@pytest.fixture
def published(tiny_config, tmp_path):
    """``published(**settings)``: a trained run on photographs, and its front bundle, signed by ``factory``."""
    write_photographs(tmp_path / "photographs")

    def make(**changes):
        data = {"path": str(tmp_path / "photographs"), "desired": "label", "sensitive": [], "limit": {}}
        changes["train"] = {"batch_size": 8, **changes.get("train", {})}
        config = tiny_config("run", epochs=1, schedule="freeze-and-log", data=data, **changes)
        train(config, single_process=True, monitor=Quiet())
        (tmp_path / "factory").mkdir(mode=0o700)
        make_signing_key(tmp_path / "factory")
        trained = TrainedRun.open(config.run_dir)
        key = tmp_path / "factory" / "front.key"
        export_front(trained, tmp_path / "front", name="tiny", version=3, threshold=0.7, key=key)
        return trained, tmp_path / "front", read_trust_key(tmp_path / "factory" / "front.pub")

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"bottleneck": [4, 2, 2]}, "dp": {"mechanism": "gaussian", "epsilon": 8.0}},
        {"model": {"codebook": 6}, "dp": {"mechanism": "randomised-response", "epsilon": 3.0}},
    ],
    ids=["noise on a bottleneck", "codewords"],
)
def test_onnx_runtime_computes_what_torch_computes(published, changes):
    trained, folder, trust = published(**changes)
    torch_front, onnx_front = TorchFront(trained), OnnxFront(open_front(folder, trust=trust))
    images_BCHW = np.random.default_rng(1).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    features_BF = torch_front.features(images_BCHW)
    np.testing.assert_allclose(onnx_front.features(images_BCHW), features_BF, atol=1e-5, rtol=0)
    for released in (False, True):
        wanted = torch_front.logits(features_BF, released=released)
        np.testing.assert_allclose(onnx_front.logits(features_BF, released=released), wanted, atol=1e-5, rtol=0)
    assert onnx_front.mechanism.policy() == torch_front.mechanism.policy()


def stored(open_log, config):
    """What the cloud stored: of each frame its number, ids, labels and bytes."""
    log = open_log(config.run_dir)
    return [
        (f.seq, f.batch.ids.tolist(), f.batch.labels.tolist(), bytes(f.batch.payload), bytes(f.batch.side))
        for f in log.frames()
    ]


def with_a_cloud(config, edge) -> None:
    """Run an edge against a cloud's end of a real socket."""
    cloud = CloudRunner(config, config.run_dir / "cloud", Quiet(), resume=False, inline=False)
    receiver = receiver_for(config, cloud.ingest, "127.0.0.1", 0)
    receiver.start()
    try:
        assert edge(f"127.0.0.1:{receiver.port}")
    finally:
        receiver.close()
        cloud.close()


def share_key(config) -> None:
    (config.run_dir / "edge").mkdir(parents=True)
    key = config.run_dir / "edge" / "noise.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)


def test_the_same_bytes_as_an_edge_with_torch(published, tmp_path, open_log):
    """Same run, same key of the noise, same images: the same streams, and every frame equal to the last byte."""
    _, folder, trust = published(model=EXACT, dp=NOISE)
    source = tmp_path / "photographs"
    config = settings_for_release(folder)
    with_torch, without = (load_config(config, {"run_dir": str(tmp_path / name)}) for name in ("torch", "onnx"))
    data = {"path": str(source), "cache_dir": str(tmp_path.parent / "cache")}
    with_torch = load_config(with_torch, {"data": data, "hardware": {"threads": 1, "edge_device": "cpu"}})
    assert with_torch.agreement() == without.agreement()
    for each in (with_torch, without):
        share_key(each)
    with_a_cloud(with_torch, lambda location: run_edge(with_torch, location, Quiet()))
    front = open_front(folder, trust=trust)
    told: list[str] = []

    class Told(Quiet):
        def update(self, update):
            told.extend([update.text] if update.phase == "exit" else [])

    with_a_cloud(without, lambda location: release_images(front, without, source, location, Told()))
    images = LabelledFolder.open(source, front.task)
    ((_, pixels, labels),) = images.batches("test", np.arange(12), 12, config.data.image_size, config.data.fit)
    run = OnnxFront(front)
    right = np.mean(run.logits(run.features(pixels), released=False).argmax(1) == labels)
    assert right > 0 and told == [f"the exit answers {100 * right:.1f} % of 12 test images right"]
    wanted = stored(open_log, with_torch)
    assert [len(ids) for _, ids, *_ in wanted] == [8, 8, 7, 8, 4, 8, 4], "one of 24 training images is damaged"
    assert stored(open_log, without) == wanted


def test_a_front_of_pretrained_weights_that_stayed_frozen(published, tmp_path, open_log):
    """It answers as torch does, and feeds a training whose back begins anew, or with given weights."""
    network = build("tiny:build", outputs=7, image_size=16, seed=5)
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    model = {"weights": str(tmp_path / "tiny.safetensors"), "bottleneck": None}
    trained, folder, trust = published(model=model, train={"freeze": "front", "lr_pretrained": 1e-4})
    front = open_front(folder, trust=trust)
    images_BCHW = np.random.default_rng(1).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    features_BF = OnnxFront(front).features(images_BCHW)
    np.testing.assert_allclose(features_BF, TorchFront(trained).features(images_BCHW), atol=1e-5, rtol=0)
    config = load_config(settings_for_release(folder), {"run_dir": str(tmp_path / "next")})
    given = settings_for_release(folder, [f"run_dir={tmp_path}/next", f"model.weights={tmp_path}/tiny.safetensors"])
    assert (config.train.lr_pretrained, given.train.lr_pretrained) == (None, 1e-4)
    for cloud in (config, given):
        with_a_cloud(cloud, lambda location: release_images(front, config, tmp_path / "photographs", location, Quiet()))
        assert sum(len(ids) for _, ids, *_ in stored(open_log, config)) == 47
        shutil.rmtree(config.run_dir)
    for cloud, begins_so in ((config, False), (given, True)):
        back, _ = hierarchical.cloud(cloud, 2)
        weights = [name for name, value in back.named_parameters() if value.dim() == 4]
        assert weights
        assert all(map(torch.equal, map(back.get_parameter, weights), map(network.get_parameter, weights))) == begins_so


def test_a_stopped_release_goes_on_and_repeats_nothing(published, tmp_path, open_log):
    _, folder, trust = published(model=EXACT, dp=NOISE)
    source, front = tmp_path / "photographs", open_front(folder, trust=trust)
    once, twice = (load_config(settings_for_release(folder), {"run_dir": str(tmp_path / n)}) for n in ("once", "twice"))
    for each in (once, twice):
        share_key(each)
    with_a_cloud(once, lambda location: release_images(front, once, source, location, Quiet()))

    class StopAtThird(Quiet):
        stop = Stop()

        def update(self, update):
            if update.phase == "release train" and update.done == 3:
                self.stop.set()

    cloud = CloudRunner(twice, twice.run_dir / "cloud", Quiet(), resume=False, inline=False)
    receiver = receiver_for(twice, cloud.ingest, "127.0.0.1", 0)
    receiver.start()
    location, monitor = f"127.0.0.1:{receiver.port}", StopAtThird()
    try:
        assert not release_images(front, twice, source, location, monitor, stop=monitor.stop)
        assert release_images(front, twice, source, location, Quiet(), resume=True)
    finally:
        receiver.close()
        cloud.close()
    assert stored(open_log, twice) == stored(open_log, once)


@pytest.mark.parametrize("options", [[], ["-OO"]], ids=["as it comes", "without docstrings and assertions"])
def test_no_torch_is_loaded(published, tmp_path, options):
    """A fresh interpreter without torch, pyarrow and safetensors: it answers, and releases a folder into its spool."""
    _, folder, _ = published(model={"bottleneck": [4, 2, 2]}, dp={"mechanism": "gaussian", "epsilon": 8.0})
    program = f"""
import sys
for name in ("torch", "pyarrow", "safetensors", "scipy", "dp_accounting", "timm", "torchvision"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from smartedge.cli.app import main
trust = ["--trust", {str(tmp_path / "factory" / "front.pub")!r}, "--require", "version>=3"]
photographs = {str(tmp_path / "photographs")!r}
code = main(["infer", {str(folder)!r}, "--source", photographs + "/test/dark", "--once", "--json", *trust])
import smartedge.edge.releasing, smartedge.training
from smartedge.fronts.bundle import open_front, settings_for_release
from smartedge.fronts.runtime import OnnxFront
from smartedge.edge.labelled import LabelledFolder
from pathlib import Path
front = OnnxFront(open_front(Path({str(folder)!r}), trust=None))
images = LabelledFolder.open(Path(photographs), front.task)
ids, _ = images.usable("test", 16, "crop")
part, pixels, labels = next(images.batches("test", ids, 8, 16, "crop"))
print([code, front.features(pixels).shape])
"""
    done = subprocess.run([sys.executable, *options, "-W", "error", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *answers, last = done.stdout.splitlines()
    assert last == "[0, (8, 4, 2, 2)]"
    rows = [json.loads(line) for line in answers]
    assert len(rows) == 6 and {row["by"] for row in rows} == {"exit"} and rows[0]["answer"] in ("dark", "light")


def test_a_published_front_asks_the_back_of_its_run(published, tmp_path):
    """The server is of the run that trained the front; one of another run refuses."""
    trained, folder, trust = published(
        model={"bottleneck": [4, 2, 2]}, dp={"mechanism": "gaussian", "epsilon": 8.0}, codec={"name": "float32"}
    )
    front = OnnxFront(open_front(folder, trust=trust))
    images_BCHW = np.random.default_rng(1).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    gate = open_gate(front.config, _folder(tmp_path / "state"), None, front.mechanism, None, existing=False)
    with Answerer(front, threshold=1.01, server=MemoryLink(BackServer(trained)), gate=gate) as answerer:
        assert {given.by for given in answerer.answer(images_BCHW)} == {"back"}
        trained.agreement["seed"] = 1
        with pytest.raises(RunError, match="holds another run"):
            answerer.answer(images_BCHW)


def test_noise_of_several_releases_is_no_noise_of_one(published, tmp_path):
    """Audited with the noise of six releases, used with that of one: refused."""
    _, folder, _ = published(model={"bottleneck": [4, 2, 2]}, dp={"mechanism": "gaussian", "epsilon": 8.0})
    manifest = FrontManifest.read(folder / "manifest.json")
    config = load_config({**manifest.settings, "schedule": "joint", "epochs": 6})
    policy = mechanism_of(config, manifest.feature_shape).policy()
    assert policy["sigma"] > manifest.policy["sigma"]
    settings = {**manifest.settings, "schedule": "joint", "epochs": 6}
    manifest.model_copy(update={"settings": settings, "policy": policy}).write(folder / "manifest.json")
    front = open_front(folder, trust=None)
    derived = load_config(settings_for_release(folder), {"run_dir": str(tmp_path / "new")})
    with pytest.raises(FrontError, match="noise for several releases"):
        release_images(front, derived, tmp_path / "photographs", "127.0.0.1:9", Quiet())


def test_a_front_that_is_not_what_was_published_is_refused(published, tmp_path):
    _, folder, trust = published(model={"bottleneck": [4, 2, 2]}, dp={"mechanism": "gaussian", "epsilon": 8.0})
    assert open_front(folder, trust=trust).manifest.version == 3
    stranger = make_signing_key(_folder(tmp_path / "stranger"))
    with pytest.raises(FrontError, match="published by somebody else"):
        open_front(folder, trust=stranger)

    changed = shutil.copytree(folder, tmp_path / "weights")
    (changed / "front.onnx").write_bytes((folder / "front.onnx").read_bytes()[:-1] + b"\0")
    with pytest.raises(FrontError, match="is not the file that was published"):
        open_front(changed, trust=trust)

    changed = shutil.copytree(folder, tmp_path / "manifest")
    manifest = FrontManifest.read(folder / "manifest.json").model_copy(update={"threshold": 0.1})
    manifest.write(changed / "manifest.json")
    with pytest.raises(FrontError, match="it was changed"):
        open_front(changed, trust=trust)

    (changed / "manifest.sig").unlink()
    with pytest.raises(FrontError, match="is not signed"):
        open_front(changed, trust=trust)
    assert open_front(changed, trust=None).manifest.threshold == 0.1

    weaker = manifest.model_copy(update={"policy": {**manifest.policy, "sigma": 0.01}})
    weaker.write(changed / "manifest.json")
    signature = sign((changed / "manifest.json").read_bytes(), tmp_path / "factory" / "front.key")
    write_atomically(changed / "manifest.sig", signature.hex())
    with pytest.raises(FrontError, match="privacy policy is not that of its settings"):
        open_front(changed, trust=trust)
    with pytest.raises(FrontError, match="certificate<=70%: its bundle says nothing"):
        open_front(folder, trust=trust, require=[Requirement.parse("certificate<=70%")])


def test_settings_of_another_version_are_told_as_those_of_the_front(published):
    _, folder, _ = published(model={"bottleneck": [4, 2, 2]})
    manifest = FrontManifest.read(folder / "manifest.json")
    manifest.model_copy(update={"settings": {**manifest.settings, "old": 1}}).write(folder / "manifest.json")
    for use in (lambda: open_front(folder, trust=None), lambda: settings_for_release(folder)):
        with pytest.raises(
            FrontError, match=r"manifest.json: the settings in it(.|\n)*old: unknown key.*publish it again"
        ):
            use()


def test_an_edge_that_sends_labels_asks_more_of_a_certificate_than_one_that_asks_questions(published, tmp_path, capsys):
    """Its frames hold the desired labels in clear."""
    _, folder, _ = published(model={"bottleneck": [4, 2, 2]}, dp={"mechanism": "gaussian", "epsilon": 8.0})
    bound = CertifiedAttribute(desired=False, bound=0.6, confidence=0.95, releases=1, label_known=False)
    manifest = FrontManifest.read(folder / "manifest.json")
    manifest.model_copy(update={"certificate": {"round": bound}, "certificate_left_out": 0}).write(
        folder / "manifest.json"
    )
    required = ["--unsigned", "--require", "certificate<=70%"]
    photographs = tmp_path / "photographs"
    assert main(["infer", str(folder), str(photographs / "test" / "dark" / "0.png"), *required]) == 0
    assert main(["edge", "--front", str(folder), "--source", str(photographs), "--connect", "127.0.0.1:9", *required])
    assert "--known-label" in capsys.readouterr().err


def test_a_verb_says_whom_it_trusts(published, tmp_path, capsys):
    _, folder, _ = published(model={"bottleneck": [4, 2, 2]})
    image = str(tmp_path / "photographs" / "test" / "dark" / "0.png")
    assert main(["infer", str(folder), image]) == 2
    assert "who may publish fronts for this edge?" in capsys.readouterr().err
    assert main(["infer", str(folder), image, "--unsigned"]) == 0
    assert "is not checked" in capsys.readouterr().err


def _folder(path):
    path.mkdir(mode=0o700)
    return path
