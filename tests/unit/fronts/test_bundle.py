"""A front bundle is used where it is what its publisher signed, and where its noise is that of its settings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from smartedge.artifacts.front import CertifiedAttribute, FrontManifest
from smartedge.artifacts.task import TaskFacts
from smartedge.cloud.ingest.same_run import agreed
from smartedge.config import load_config
from smartedge.errors import ConfigError, FrontError, RunError
from smartedge.files import write_atomically
from smartedge.fleet.signing import make_signing_key, sign
from smartedge.fronts.bundle import check_new, note_on_back, open_front, settings_for_release
from smartedge.fronts.requirements import Requirement
from smartedge.methods.mechanism import mechanism_of

CONTENT = {name: name.encode() for name in ("front.onnx", "exit.onnx", "front.safetensors", "exit.safetensors")}
CONFIG = load_config(
    {
        "epochs": 6,
        "schedule": "two-stage",
        "model": {"bottleneck": "2x2x2"},
        "train": {"front_epochs": 3, "distill": {"epochs": 2}},
        "dp": {"mechanism": "gaussian", "epsilon": 8.0},
    }
)
POLICY = mechanism_of(CONFIG, (2, 2, 2)).policy()
CERTIFICATE = CertifiedAttribute(desired=False, bound=0.6, confidence=0.95, releases=1, label_known=False)
Publish = Callable[..., str]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """``publish(**changes)``: write and sign the bundle ``tmp_path / "front"``; gives the public key of its owner."""

    def publish(*, key: str = "owner", content: dict[str, bytes] = CONTENT, **changes: object) -> str:
        folder, owner = tmp_path / "front", tmp_path / key
        folder.mkdir(exist_ok=True)
        owner.mkdir(mode=0o700, exist_ok=True)
        for name, data in content.items():
            (folder / name).write_bytes(data)
        facts = {
            "name": "faces",
            "version": 3,
            "created": datetime(2026, 1, 1, tzinfo=timezone.utc),
            "smartedge_version": "0.1",
            "opset": 17,
            "difference": 0.0,
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
            "image_size": 64,
            "task": TaskFacts(kind="single", columns=("Smiling",), names=("no", "yes")),
            "feature_shape": (2, 2, 2),
            "settings": {**CONFIG.agreement(), "front": "0" * 64},
            "policy": POLICY,
            "calibration": None,
            "threshold": 0.9,
            "audit": None,
            "certificate": {"Male": CERTIFICATE},
            "certificate_left_out": 0,
        }
        FrontManifest(**{**facts, **changes}).write(folder / "manifest.json")  # type: ignore[arg-type]
        trust = make_signing_key(owner)
        signature = sign((folder / "manifest.json").read_bytes(), owner / "front.key")
        write_atomically(folder / "manifest.sig", signature.hex() + "\n")
        return trust

    return publish


def test_a_front_is_what_its_owner_published(publish: Publish, tmp_path: Path) -> None:
    front = open_front(tmp_path / "front", trust=publish())
    assert (front.folder, front.manifest.version) == (tmp_path / "front", 3)
    assert (front.task.kind, front.task.columns, front.task.names) == ("single", ("Smiling",), ("no", "yes"))
    assert front.config.agreement() == CONFIG.agreement() and front.mechanism.policy() == POLICY
    assert [front.read(name) for name in CONTENT] == list(CONTENT.values())


@pytest.mark.parametrize("name", CONTENT)
def test_every_file_must_be_the_one_that_was_published(publish: Publish, tmp_path: Path, name: str) -> None:
    trust, file = publish(), tmp_path / "front" / name
    file.write_bytes(b"another")
    with pytest.raises(FrontError, match=rf"{name}: is not the file that was published; copy the bundle again"):
        open_front(tmp_path / "front", trust=trust)
    file.unlink()
    with pytest.raises(FrontError, match=rf"{name}: cannot be read \(No such file or directory\)"):
        open_front(tmp_path / "front", trust=trust)


def test_a_signature_is_needed_of_the_key_that_is_trusted_and_of_this_manifest(
    publish: Publish, tmp_path: Path
) -> None:
    folder, trust = tmp_path / "front", publish()
    with pytest.raises(FrontError, match="published by somebody else"):
        open_front(folder, trust=make_signing_key(tmp_path))
    signature = (folder / "manifest.sig").read_text()
    publish(threshold=0.1)
    (folder / "manifest.sig").write_text(signature)
    with pytest.raises(FrontError, match="it was changed"):
        open_front(folder, trust=trust)
    (folder / "manifest.sig").write_text("")
    with pytest.raises(FrontError, match="it was changed"):
        open_front(folder, trust=trust)
    (folder / "manifest.sig").write_text("no signature")
    with pytest.raises(FrontError, match=r"manifest\.sig: cannot be read"):
        open_front(folder, trust=trust)
    (folder / "manifest.sig").unlink()
    with pytest.raises(FrontError, match=r"is not signed; .*--unsigned"):
        open_front(folder, trust=trust)
    assert open_front(folder, trust=None).manifest.threshold == 0.1


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -1.0, 90.0])
def test_a_threshold_is_a_confidence(publish: Publish, tmp_path: Path, threshold: float) -> None:
    publish()
    file = tmp_path / "front" / "manifest.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "threshold": threshold}))
    with pytest.raises(FrontError, match=r"manifest\.json: .*threshold"):
        open_front(tmp_path / "front", trust=None)


def test_noise_that_is_not_that_of_the_settings_is_refused_also_where_it_is_signed(
    publish: Publish, tmp_path: Path
) -> None:
    trust = publish(policy={**POLICY, "sigma": 0.01})
    with pytest.raises(FrontError, match="privacy policy is not that of its settings"):
        open_front(tmp_path / "front", trust=trust)


@pytest.mark.parametrize("content", [{**CONTENT, "more": b""}, {"front.onnx": b"", "exit.onnx": b""}])
def test_a_manifest_names_the_files_of_a_bundle_and_no_others(
    publish: Publish, tmp_path: Path, content: dict[str, bytes]
) -> None:
    trust = publish(content=content)
    with pytest.raises(FrontError, match=r"manifest\.json: does not name the files of a front bundle"):
        open_front(tmp_path / "front", trust=trust)


def test_requirements_are_those_of_an_edge_that_sends_labels_unless_it_says_that_it_does_not(
    publish: Publish, tmp_path: Path
) -> None:
    folder, trust = tmp_path / "front", publish()
    wanted = [Requirement.parse("version>=3"), Requirement.parse("certificate<=70%")]
    with pytest.raises(FrontError, match="this edge sends it"):
        open_front(folder, trust=trust, require=wanted)
    assert open_front(folder, trust=trust, require=wanted, labels_sent=False).manifest.name == "faces"


def test_a_folder_that_is_there_is_not_published_into(tmp_path: Path) -> None:
    check_new(tmp_path / "new")
    with pytest.raises(FrontError, match="is there already"):
        check_new(tmp_path)


def test_a_release_with_a_front_trains_nothing_and_sends_each_image_once(publish: Publish, tmp_path: Path) -> None:
    publish()
    config = settings_for_release(tmp_path / "front", ["train.batch_size=7"])
    assert config.schedule == "freeze-and-log" and config.model.front == tmp_path / "front" / "front.safetensors"
    assert (config.train.front_epochs, config.train.distill.epochs, config.train.batch_size) == (None, 0, 7)
    assert (config.dp, config.epochs, config.model.bottleneck) == (CONFIG.dp, 6, CONFIG.model.bottleneck)
    with pytest.raises(FrontError, match=r"manifest\.json: is not there; this is no front bundle"):
        settings_for_release(tmp_path)


def test_a_front_of_pretrained_weights_that_stayed_frozen_is_opened_and_released_with(
    publish: Publish, tmp_path: Path
) -> None:
    """Its settings name modules to freeze and layers that correct them, and hold digests of the files of weights."""
    run = load_config(CONFIG, {"train": {"freeze": "front"}, "model": {"adapter": 2}})
    settings: dict[str, Any] = {**run.agreement(), "front": "0" * 64, "start": "1" * 64, "weights": "2" * 64}
    settings["train"] = {**settings["train"], "lr_pretrained": 1e-4}
    trust = publish(settings=settings)
    assert open_front(tmp_path / "front", trust=trust).config.train.freeze == ("front",)
    config = settings_for_release(tmp_path / "front")
    assert (config.train.freeze, config.model.adapter, config.model.start) == (("front",), 2, None)
    assert config.bottleneck == (2, 2, 2)


def test_a_front_that_began_with_weights_of_timm_by_a_setting_is_opened(publish: Publish, tmp_path: Path) -> None:
    changes = {"model": {"weights": "timm"}, "train": {"lr_pretrained": 1e-4}, "data": {"image_size": 16}}
    trust = publish(settings=load_config(CONFIG, changes).agreement())
    assert open_front(tmp_path / "front", trust=trust).config.train.lr_pretrained is None


def test_the_back_can_begin_with_the_weights_of_the_fronts_run_and_no_others(publish: Publish, tmp_path: Path) -> None:
    for name in ("same.pth", "other.pth"):
        (tmp_path / name).write_text(name)
    changes = {"model": {"weights": str(tmp_path / "same.pth")}, "train": {"lr_pretrained": 1e-4}}
    begun = load_config(CONFIG, changes).agreement()
    publish(settings=begun)
    config = settings_for_release(tmp_path / "front")
    assert "--set model.weights=FILE lets it begin with the same" in note_on_back(tmp_path / "front", config)[0]
    same = settings_for_release(tmp_path / "front", [f"model.weights={tmp_path}/same.pth"])
    assert note_on_back(tmp_path / "front", same) == []
    assert agreed(same, json.dumps(config.agreement())).model.weights == f"{tmp_path}/same.pth"
    assert (config.train.lr_pretrained, same.train.lr_pretrained) == (None, 1e-4)
    rate = settings_for_release(
        tmp_path / "front", [f"model.weights={tmp_path}/same.pth", "train.lr_pretrained=null"]
    ).train.lr_pretrained
    assert rate is None
    with pytest.raises(ConfigError, match=r"model\.weights: .*other\.pth is not what the run of .*front began with"):
        settings_for_release(tmp_path / "front", [f"model.weights={tmp_path}/other.pth"])
    with pytest.raises(RunError, match=r"weights: .*; give both the same config"):  # without a given front they count
        agreed(load_config(CONFIG), json.dumps(begun))
