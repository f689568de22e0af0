"""The audit of small runs on drawn faces, as the command line does it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smartedge.cli import app
from smartedge.config import Config, load_run_config
from smartedge.data import open_dataset
from smartedge.data.columns import read_columns, yes_no_columns
from smartedge.data.drawn.faces import draw
from smartedge.data.drawn.parts import ATTRIBUTES
from smartedge.data.sources import open_raw
from smartedge.images.size import ImageSize
from smartedge.lab.audit import suite
from smartedge.lab.audit.certificate.run import certify
from smartedge.lab.audit.certificate.settings import CertifySettings
from smartedge.lab.audit.clock import Clock, OutOfTime
from smartedge.lab.audit.gathering import gather
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.settings import AuditSettings
from smartedge.lab.audit.undefended import _train_front
from smartedge.launch.datasets import dataset_of
from smartedge.methods.front_step import edge_step
from smartedge.runs.progress import Quiet
from smartedge.training import train
from smartedge.wire.memory import MemoryLink

QUICK = "linear,trees,membership,epsilon"
PROTECTED: dict[str, Any] = {
    "schedule": "freeze-and-log",
    "model": {"name": "tiny:build", "cut": "stage1", "bottleneck": "2x2x2", "exit": {"width": 8, "depth": 1}},
    "dp": {"mechanism": "gaussian", "epsilon": 4},
}


def trained(make: Callable[..., Config], name: str, **changes: Any) -> Path:
    config = make(name, **changes)
    train(config, single_process=True, monitor=Quiet())
    return config.run_dir


def audit(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["smartedge", "audit", *map(str, arguments)])
    return app.main()


def result_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "audit" / "audit.json").read_text(encoding="utf-8"))
    return found


def test_a_protected_run_from_the_command_line(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = trained(tiny_config, "protected", **PROTECTED)
    assert audit(monkeypatch, run_dir, "--attacks", QUICK, "--seeds", "1") == 0
    printed = capsys.readouterr().out
    assert "masculine" in printed and "undefended" in printed and str(run_dir / "audit" / "audit.json") in printed
    found = result_of(run_dir)
    assert found["schema_version"] == 3 and found["skipped"] == []
    assert (
        found["audited"]["attackers_images_seen"]
        and "learned from images that the front was trained on" in found["verdict"]
    )
    block = found["attributes"]["masculine"]
    for reference in ("best", "undefended", "floor", "prediction_floor"):
        assert 0 <= block[reference]["balanced_accuracy"] <= 1
        assert len(block[reference]["ci95"]) == 2 and block[reference]["attack"] and "auroc" in block[reference]
    assert set(block["attacks"]) == {"linear", "trees", "ensemble"} and block["chance"] == 0.5
    assert found["dp"]["epsilon_claimed"] == pytest.approx(4) and found["dp"]["releases_max"] == 1
    assert 0 < found["dp"]["epsilon_lower_bound"] <= 4 and found["dp"]["holds"]
    assert found["dp"]["control_without_noise"] > 4
    assert block["dp_bound"] == found["dp"]["noise_bound"] < found["dp"]["attribute_bound"] < 1
    assert (run_dir / "audit" / "undefended" / "front.safetensors").exists()

    # A second call trains nothing: neither the undefended front nor an attacker.
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "audit").rglob("*.safetensors")}
    assert audit(monkeypatch, run_dir, "--attacks", QUICK, "--seeds", "1") == 0
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "audit").rglob("*.safetensors")} == before
    again = result_of(run_dir)
    assert again["attributes"] == found["attributes"]

    # Stages that a call does not ask for stay as they were found; those that it does ask for are found anew.
    assert audit(monkeypatch, run_dir, "--attacks", "membership", "--seeds", "1") == 0
    later = result_of(run_dir)
    assert later["attributes"] == found["attributes"] and later["dp"] == again["dp"]
    assert set(later["settings"]["attacks"]) == {*QUICK.split(","), "membership"}
    assert audit(monkeypatch, run_dir, "--attacks", "linear", "--seeds", "1") == 0
    later = result_of(run_dir)
    assert set(later["attributes"]["masculine"]["attacks"]) == {"linear", "ensemble"}
    assert later["membership"] is not None

    # No budget for anything: one cheap attacker is made all the same, the others are listed, and nothing is made up.
    attacks = "linear,trees,deep,membership,epsilon"
    assert audit(monkeypatch, run_dir, "--attacks", attacks, "--budget", "0.001s", "--fresh") == 0
    found = result_of(run_dir)
    block = found["attributes"]["masculine"]
    assert set(block["attacks"]) == {"linear"} and block["attacks"]["linear"]["tried"] == 1
    assert block["undefended"] is None and found["membership"] is None and found["dp"]["holds"] is None
    left_out = {"features", "undefended", "linear", "trees", "deep", "membership", "epsilon"}
    assert {entry["attack"] for entry in found["skipped"]} == left_out
    said = capsys.readouterr().out
    assert said.count("not in full: ") == 1 and f"audit.json lists all {len(found['skipped'])}" in " ".join(
        said.split()
    )


def test_what_is_attacked_is_what_crossed_the_link(tiny_config: Callable[..., Config]) -> None:
    """The test features are the log's; without noise they are the front's, but for the codec's rounding."""
    run_dir = trained(tiny_config, "plain")
    evidence = gather(run_dir, ["masculine", "smile", "glasses"], clock=Clock(None), monitor=Quiet())
    assert len(evidence.test) == 40 and evidence.test_features_NF.shape == (40, 8, 8, 8)
    exact = evidence.bounded(evidence.images(evidence.test))
    span = float(exact.max() - exact.min())
    assert float((evidence.test_features_NF - exact).abs().max()) <= span / 255
    assert torch.equal(evidence.test_labels["smile"], evidence.test_desired), "a desired column may be audited"
    truth = draw(evidence.test_ids.numpy(), split="test", image_size=16)[1]
    for name in ("masculine", "glasses"):
        assert np.array_equal(evidence.test_labels[name].numpy(), truth[:, ATTRIBUTES.index(name)])
    stored = load_file(run_dir / "edge" / "predictions.safetensors")
    assert torch.equal(evidence.exit_scores["test"], stored["scores"])
    # A mirrored view is the front's answer to the mirrored image.
    first = evidence.images(evidence.train.split, torch.arange(4))
    assert torch.allclose(evidence.train.views_VNF[1][:4], evidence.bounded(first.flip(-1)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_certificate_of_an_audit_is_that_of_certify(tiny_config: Callable[..., Config]) -> None:
    data = {"limit": {"train": 128, "val": 20, "test": 60}, "audit_share": 0.25}
    run_dir = trained(tiny_config, "certified", epochs=1, data=data, **PROTECTED)
    asked = AuditSettings(attacks=("linear", "deep", "certificate"), seeds=1)
    found = suite.audit(run_dir, asked, Quiet())
    assert found.certificate is not None and found.certificate.training_image is not None
    for ours, known in ((found.certificate.one_release, False), (found.certificate.training_image, True)):
        theirs = certify(run_dir, CertifySettings(label_known=known), Quiet())
        assert ours is not None and ours.assumptions == theirs.assumptions and ours.splits == ("test", "audit")
        one, other = ours.attributes["masculine"], theirs.attributes["masculine"]
        assert one.units == other.units and one.bound == pytest.approx(other.bound, abs=1e-3)
    block, bound = found.attributes["masculine"], found.certificate.one_release
    assert block.full_depth_needed is ("deep" in block.attacks) and bound is not None and block.best is not None
    if not block.full_depth_needed:
        assert bound.attributes["masculine"].bound <= block.best.balanced_accuracy + 0.02
    kept = suite.audit(run_dir, AuditSettings(attacks=("linear",), seeds=1), Quiet())
    assert kept.certificate == found.certificate, "a stage that was not asked for stays"


def test_features_are_computed_once(tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = trained(tiny_config, "once", epochs=1)
    first = gather(run_dir, ["masculine"], clock=Clock(None), monitor=Quiet())
    clean = first.bounded_test_NF
    bounded = RunEvidence.bounded
    monkeypatch.setattr(RunEvidence, "bounded", lambda *_, **__: pytest.fail("the front was asked again"))
    again = gather(run_dir, ["masculine"], clock=Clock(None), monitor=Quiet())
    assert torch.equal(again.bounded_test_NF, clean) and torch.equal(again.val.views_VNF[0], first.val.views_VNF[0])
    assert all(torch.equal(*views) for views in zip(again.train.views_VNF, first.train.views_VNF, strict=True))
    assert (run_dir / "audit" / "features").stat().st_mode & 0o077 == 0, "others may not read them"
    # Another front's features are not taken for this one's.
    monkeypatch.setattr(RunEvidence, "bounded", bounded)
    front = load_file(run_dir / "edge" / "front.safetensors")
    save_file({name: tensor * 2 for name, tensor in front.items()}, run_dir / "edge" / "front.safetensors")
    other = gather(run_dir, ["masculine"], clock=Clock(None), monitor=Quiet())
    assert not torch.equal(other.bounded_test_NF, clean) and not torch.equal(
        other.val.views_VNF[0], first.val.views_VNF[0]
    )


def test_attackers_learn_from_images_that_the_front_has_not_seen(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"limit": {"train": 128, "val": 20, "test": 40}, "audit_share": 0.25}
    run_dir = trained(tiny_config, "apart", epochs=1, data=data)
    evidence = gather(run_dir, ["masculine"], clock=Clock(None), monitor=Quiet())
    config = load_run_config(run_dir)
    dataset = dataset_of(config)
    assert dataset.audit is not None and len(dataset.splits["train"]) == 96
    own = evidence.train
    assert not own.seen and own.split.ids.tolist() == dataset.audit.ids.tolist()
    assert not {*own.split.ids} & {*dataset.splits["train"].ids}
    truth = draw(own.split.ids, split="train", image_size=16)[1]
    assert np.array_equal(own.labels["masculine"].numpy(), truth[:, ATTRIBUTES.index("masculine")])
    assert audit(monkeypatch, run_dir, "--attacks", "linear", "--seeds", "1") == 0
    found = result_of(run_dir)
    assert found["audited"]["attackers_images_seen"] is False and "data.audit_share" not in found["verdict"]
    assert found["audited"]["images"]["train"] == 32


def test_a_budget_covers_images_and_references_and_the_cheap_attack_is_made(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image through the front takes a twentieth of a second here, and nothing else takes any time."""
    run_dir = trained(tiny_config, "slow", epochs=1, model={"bottleneck": "2x2x2"}, schedule="freeze-and-log")
    now = [0.0]
    bounded = RunEvidence.bounded

    def slowly(self: RunEvidence, images_BCHW: torch.Tensor, **how: Any) -> torch.Tensor:
        now[0] += 0.05 * len(images_BCHW)
        return bounded(self, images_BCHW, **how)

    monkeypatch.setattr(RunEvidence, "bounded", slowly)
    monkeypatch.setattr(suite, "Clock", lambda budget: Clock(budget, lambda: now[0]))
    full = 20 + 96 + 96  # images of val and train, the latter mirrored as well
    asked = AuditSettings(attacks=("linear", "membership"), seeds=1, budget=20.0)
    found = suite.audit(run_dir, asked, Quiet())
    assert now[0] < 20 < 0.05 * 2 * full, "with all images of run and reference it would have taken longer"
    assert found.attributes["masculine"].best is not None and found.membership is not None
    assert [entry.attack for entry in found.skipped] == ["features"]
    # The protected images would take two seconds, and there is one left.
    found = suite.audit(run_dir, AuditSettings(attacks=asked.attacks, seeds=1, budget=7.0, fresh=True), Quiet())
    assert found.attributes["masculine"].best is not None and found.membership is None
    assert ("membership", "the protected images would take the front 2 s") in [
        (entry.attack, entry.reason) for entry in found.skipped
    ]


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_undefended_front_is_trained_with_the_runs_own_settings(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels_last: bool
) -> None:
    """Where the run has no protection, the audit's front is the run's own: every weight, and every image's layout."""
    layouts = []

    def step(front: Any, head: Any, optimizer: Any, inputs_BCHW: torch.Tensor, *rest: Any, **how: Any) -> Any:
        layouts.append(inputs_BCHW.is_contiguous(memory_format=torch.channels_last))
        return edge_step(front, head, optimizer, inputs_BCHW, *rest, **how)

    own = {"channels_last": channels_last, "clip_grad_norm": 0.1, "label_smoothing": 0.1, "optimizer": "sgd"}
    run_dir = trained(tiny_config, "plain", epochs=2, train={"batch_size": 16, **own})
    monkeypatch.setattr("smartedge.methods.hierarchical.edge_step", step)
    config = load_run_config(run_dir)
    folder = tmp_path / "again"
    with pytest.raises(OutOfTime):  # and it goes on where it was stopped
        _train_front(config, dataset_of(config), folder, Quiet(), Clock(10.0, iter([0.0] * 4 + [11.0] * 9).__next__))
    share = _train_front(
        config, dataset_of(config), folder, Quiet(), Clock(10.0, iter([0.0] * 9 + [11.0] * 9).__next__)
    )
    assert 0.25 <= share < 1 and load_file(folder / "unfinished" / "front.safetensors")
    assert not (folder / "front.safetensors").exists()
    assert _train_front(config, dataset_of(config), folder, Quiet(), Clock(None)) == 1
    assert not (folder / "unfinished").exists()
    assert set(layouts) == {channels_last}
    for name in ("front", "exit"):
        theirs, ours = (load_file(where / f"{name}.safetensors") for where in (run_dir / "edge", folder))
        assert all(torch.equal(tensor, ours[key]) for key, tensor in theirs.items()), name


@pytest.mark.parametrize("method", ["split", "upload"])
def test_other_methods_that_send_something(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    run_dir = trained(tiny_config, method, method=method, epochs=1)
    assert audit(monkeypatch, run_dir, "--attacks", "deep,trees", "--seeds", "1") == 0
    found = result_of(run_dir)
    block = found["attributes"]["masculine"]
    assert found["audited"]["undefended"] and block["undefended"] == block["best"]
    assert block["prediction_floor"] is None, "there is no exit"
    assert found["dp"]["epsilon_claimed"] is None and block["dp_bound"] is None


@pytest.mark.parametrize("edge", [None, "door-3"])
def test_the_audit_of_an_edge_of_a_fleet_names_it(
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    edge: str | None,
) -> None:
    if edge is not None:
        monkeypatch.setattr(MemoryLink.__init__, "__defaults__", (edge,))
    run_dir = trained(tiny_config, "run", method="upload", epochs=1)
    assert audit(monkeypatch, run_dir, "--attacks", "linear", "--seeds", "1") == 0
    assert result_of(run_dir)["audited"]["edge"] == edge
    assert ("protected images of edge door-3 (balanced" in capsys.readouterr().out) == (edge is not None)


def test_codewords(tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = trained(
        tiny_config,
        "codewords",
        schedule="freeze-and-log",
        model={"name": "tiny:build", "cut": "stage1", "codebook": 4, "exit": {"width": 8, "depth": 1}},
        dp={"mechanism": "randomised-response", "epsilon": 2},
    )
    assert audit(monkeypatch, run_dir, "--attacks", "posterior,deep,epsilon,membership", "--seeds", "1") == 0
    found = result_of(run_dir)
    assert "posterior" in found["attributes"]["masculine"]["attacks"]
    assert found["dp"]["epsilon_lower_bound"] == pytest.approx(2, rel=0.1) and found["dp"]["holds"]


@pytest.mark.slow
def test_a_named_undefended_run_and_all_attributes(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(tiny_config, "plain", epochs=1)
    protected = trained(tiny_config, "protected", epochs=1, **PROTECTED)
    arguments = (protected, "--attacks", "linear", "--attributes", "all", "--seeds", "1")
    assert audit(monkeypatch, *arguments, "--undefended", plain) == 0
    found = result_of(protected)
    assert set(found["attributes"]) == set(ATTRIBUTES) and found["attributes"]["smile"]["desired"]
    assert not (protected / "audit" / "undefended").exists()

    # The attacks on the named run are kept with it: the next audit beside it makes none of them again.
    another = trained(tiny_config, "another", epochs=1, seed=1, **PROTECTED)
    before = {path: path.stat().st_mtime_ns for path in (plain / "audit" / "attacks").iterdir()}
    assert {path.name.split("-")[0] for path in before} == {"undefended"}
    assert audit(monkeypatch, another, *arguments[1:], "--undefended", plain) == 0
    assert {path: path.stat().st_mtime_ns for path in (plain / "audit" / "attacks").iterdir()} == before
    beside = result_of(another)
    assert beside["attributes"]["hat"]["undefended"] == found["attributes"]["hat"]["undefended"]
    assert beside["settings"]["undefended_differs"] == ["seed is 0, and 1 in the audited run"]
    assert "differs in more than its protection: seed is 0, and 1" in beside["verdict"]
    assert found["settings"]["undefended_differs"] == [] and "differs in more" not in found["verdict"]
    assert audit(monkeypatch, another, *arguments[1:], "--undefended", plain, "--fresh") == 0
    assert {path: path.stat().st_mtime_ns for path in (plain / "audit" / "attacks").iterdir()} != before
    capsys.readouterr()
    assert audit(monkeypatch, *arguments, "--undefended", protected) == 2
    assert "has a bottleneck, noise or adversarial exits of its own" in capsys.readouterr().err


def test_wrong_use_is_explained(
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run_dir = trained(
        tiny_config, "run", epochs=1, data={**tiny_config("x").model_dump(mode="json")["data"], "sensitive": []}
    )

    def says(exit_code: int, text: str, *arguments: str | Path) -> None:
        assert audit(monkeypatch, *arguments) == exit_code
        assert text in capsys.readouterr().err

    says(10, "holds no run", tmp_path / "nowhere")
    says(2, "--attributes NAME,NAME, or --attributes all", run_dir)
    says(3, "has no column 'moustache'", run_dir, "--attributes", "moustache")
    says(2, "such as 90s, 5m or 2h", run_dir, "--budget", "soon")
    says(2, "guess is not known", run_dir, "--attributes", "smile", "--attacks", "guess")
    shutil.move(run_dir / "cloud", tmp_path / "cloud")
    says(10, "there is no cloud/; edge/ and cloud/ must be in one", run_dir, "--attributes", "masculine")
    shutil.move(tmp_path / "cloud", run_dir / "cloud")
    shutil.rmtree(run_dir / "edge")
    says(10, "there is no edge/; edge/ and cloud/ must be in one", run_dir, "--attributes", "masculine")


def test_columns_beside_those_a_data_set_was_opened_with(tmp_path: Path) -> None:
    dataset = open_dataset(
        "drawn", "smile", image_size=16, limit={"train": 30, "val": 10, "test": 20}, cache_dir=tmp_path
    )
    raw = open_raw("drawn", ImageSize.of(16), {"train": 30, "val": 10, "test": 20}, tmp_path)
    labels, classes = read_columns(raw, dataset, ["hat", "smile"])
    assert classes == {"hat": ("no", "yes"), "smile": ("no", "yes")}
    for name, split in dataset.splits.items():
        assert torch.equal(labels[name]["smile"], split.labels)
        assert np.array_equal(
            labels[name]["hat"].numpy(), draw(split.ids, split=name, image_size=16)[1][:, ATTRIBUTES.index("hat")]
        )
    assert yes_no_columns(raw) == ATTRIBUTES
