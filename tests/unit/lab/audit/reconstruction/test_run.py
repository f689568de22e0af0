from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.reconstruction import reconstruct
from smartedge.lab.audit.reconstruction import run as module
from smartedge.lab.audit.reconstruction.samples import combinations
from smartedge.runs.progress import Quiet

FIGURES = {
    "images",
    "psnr",
    "ssim",
    "perceptual",
    "sensitive_balanced_accuracy",
    "sensitive_balanced_accuracy_adapted",
    "sensitive_auroc",
    "desired_balanced_accuracy",
    "ci95",
    "training",
}


@pytest.fixture
def quick(monkeypatch):
    """As few steps as show that everything is wired."""
    part = "smartedge.lab.audit.reconstruction."
    monkeypatch.setattr(part + "networks._WIDEST", 16)
    for name in ("decoder._LEAST_STEPS", "gan._LEAST_STEPS", "classifier._LEAST_STEPS"):
        monkeypatch.setattr(part + name, 6)
    for name in ("decoder._EPOCHS", "gan._EPOCHS", "classifier._EPOCHS", "run._ADAPT_EPOCHS"):
        monkeypatch.setattr(part + name, 1)
    for name in ("run.STEPS", "white_box._TUNING_STEPS"):
        monkeypatch.setattr(part + name, 2)
    monkeypatch.setattr(part + "white_box._TUNED_ON", 2)
    monkeypatch.setattr(part + "run._LEAST_ADAPT_STEPS", 1)
    monkeypatch.setattr(part + "run._SUBSET", 10)


def attacked(evidence, undefended, folder, *, seconds=None, seed=0):
    return as_dict(evidence, undefended, budget=Clock(seconds), folder=folder, seed=seed)


def as_dict(evidence, undefended, **how):
    """What :func:`reconstruct` gives, and what it skips, as JSON values."""
    skipped = []
    found = reconstruct(evidence, undefended, sensitive=["masculine"], monitor=Quiet(), skipped=skipped, **how)
    figures = {} if found is None else found.model_dump(mode="json", exclude_unset=True)
    return {**figures, "skipped": [entry.model_dump(exclude_unset=True) for entry in skipped]}


def forbid(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    for name in ("train_classifier", "train_decoder", "train_gan", "choose_weights", "invert"):
        monkeypatch.setattr(module, name, fail)


def test_the_block_holds_every_attack_with_and_without_protection_and_is_reused(
    blind, shuffled, quick, tmp_path, monkeypatch
):
    undefended = replace(shuffled, name="undefended")
    block = attacked(blind, undefended, tmp_path)
    assert set(block) == {"decoder", "gan", "white_box", "originals", "mean_image", "skipped"}
    assert block["skipped"] == []
    for attack in ("decoder", "gan", "white_box"):
        figures = block[attack]
        assert set(figures) == FIGURES | {"undefended"}
        assert set(figures["undefended"]) == FIGURES
        assert figures["images"] == (10 if attack == "white_box" else 40)
        assert set(figures["sensitive_balanced_accuracy"]) == {"masculine"}
        assert set(figures["sensitive_balanced_accuracy_adapted"]) == {"masculine"}
        assert figures["perceptual"]["name"] == "distance in the features of the undivided tiny:build"
    assert block["decoder"]["psnr"] != block["decoder"]["undefended"]["psnr"]
    assert json.loads(json.dumps(block, allow_nan=False)) == block

    with safe_open(tmp_path / "samples.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = {name: json.loads(value) for name, value in file.metadata().items()}
    assert set(tensors) == {"ids", "originals", "desired", "sensitive", "defended", "undefended"}
    assert tensors["desired"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert tensors["sensitive"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    for name in ("originals", "defended", "undefended"):
        assert tensors[name].dtype == torch.uint8 and tensors[name].shape == (8, 3, 16, 16)
    assert torch.equal(tensors["originals"], blind.images(blind.test, tensors["ids"]))
    assert notes["desired"] == {"column": "smile", "names": ["no", "yes"]}
    assert notes["sensitive"] == {"column": "masculine", "names": ["no", "yes"]}
    assert set(notes["attacks"]) == {"defended", "undefended"} and notes["network"] == "tiny:build"

    forbid(monkeypatch)
    assert attacked(blind, undefended, tmp_path) == block
    with pytest.raises(AssertionError, match="done again"):
        attacked(blind, undefended, tmp_path, seed=1)
    other = replace(blind, test_features_NF=blind.test_features_NF + 1)
    with pytest.raises(AssertionError, match="done again"):
        attacked(other, undefended, tmp_path)


def test_an_undefended_run_is_attacked_once(shuffled, quick, tmp_path):
    block = attacked(shuffled, replace(shuffled, name="undefended"), tmp_path)
    for attack in ("decoder", "gan", "white_box"):
        figures = dict(block[attack])
        assert figures.pop("undefended") == figures
    assert not list(tmp_path.glob("undefended*"))
    with safe_open(tmp_path / "samples.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("defended"), file.get_tensor("undefended"))


def test_without_an_undefended_front_nothing_stands_in_for_it(shuffled, quick, tmp_path):
    for nothing in (None, shuffled):
        block = attacked(shuffled, nothing, tmp_path)
        assert [block[attack]["undefended"] for attack in ("decoder", "gan", "white_box")] == [None] * 3
        with safe_open(tmp_path / "samples.safetensors", framework="pt") as file:
            assert "defended" in file.keys() and "undefended" not in file.keys()  # noqa: SIM118


def test_no_time_is_said(shuffled, tmp_path):
    block = attacked(shuffled, shuffled, tmp_path, seconds=0.0)
    assert block == {"skipped": [{"attack": "reconstruction", "reason": "no time was left"}]}


class Runs:
    """A clock that has so much left at each question."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    def remaining(self) -> float:
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]

    def elapsed(self) -> float:
        return 0.0


def test_what_time_does_not_allow_is_listed_and_done_in_a_longer_call(shuffled, quick, tmp_path):
    def call(clock):
        return as_dict(shuffled, None, budget=clock, folder=tmp_path, seed=0)

    short = call(Runs(math.inf, math.inf, math.inf, 0.0))  # start, classifier, decoder, then nothing
    assert "decoder" in short and "gan" not in short and "white_box" not in short
    assert [entry["attack"] for entry in short["skipped"]] == [
        "reconstruction defended-gan",
        "reconstruction defended-white-box",
    ]
    long = call(Runs(math.inf))
    assert {"decoder", "gan", "white_box"} <= set(long) and long["skipped"] == []
    assert long["decoder"] == short["decoder"]


def test_what_was_cut_short_counts_says_so_and_is_done_again_where_there_is_more_time(shuffled, quick, tmp_path):
    def call(clock):
        return as_dict(shuffled, None, budget=clock, folder=tmp_path, seed=0)

    short = call(Runs(math.inf, math.inf, 1e-6, 1e-6, math.inf))
    assert short["decoder"]["training"]["share"] == 0
    assert any("defended-decoder" in e["attack"] and "cut short" in e["reason"] for e in short["skipped"])
    again = call(Runs(math.inf, math.inf, 1e-6, 1e-6, math.inf))
    assert again == short
    longer = call(Runs(math.inf))
    assert longer["decoder"]["training"]["share"] == 1
    assert longer["skipped"] == []


def test_where_nothing_is_to_be_hidden_images_of_each_desired_class_are_shown(shuffled, tmp_path):
    made = module._Attacks(shuffled, None, [], Clock(None), module.Store(tmp_path), Quiet(), 0, [])
    desired = shuffled.test_desired
    rows = [torch.nonzero(desired == label).flatten()[:2] for label in (0, 1)]
    assert made.sample.tolist() == torch.cat(rows).tolist()
    hidden = module._Attacks(shuffled, None, ["masculine"], Clock(None), module.Store(tmp_path), Quiet(), 0, [])
    assert len(hidden.sample) == 8 and hidden.subset.tolist()[:8] == hidden.sample.tolist()
    assert hidden.pieces == ["classifier", "decoder", "gan", "white-box"] and not hidden.compared


def test_combinations_are_in_order_and_leave_out_unknown_labels():
    desired = torch.tensor([0, 1, 0, 1, 0, 0, 1, 2, 0])
    sensitive = torch.tensor([0, 0, -1, 0, 0, 0, 1, 0, 1])
    assert combinations(desired, sensitive).tolist() == [0, 4, 8, 1, 3, 6]
