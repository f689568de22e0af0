"""``smartedge ledger``: the balance in words and as JSON."""

from __future__ import annotations

import argparse
import json
import math
import shutil

import numpy as np
import pytest

from smartedge.cli import ledger as verb
from smartedge.errors import PrivacyError
from smartedge.privacy.balance import Budget
from smartedge.privacy.ledger import Ledger
from smartedge.privacy.mechanisms import make_mechanism
from smartedge.types import ReleaseEvent

RESPONSE = ReleaseEvent("randomised-response", 0.5, codewords=8)
NOTHING = ReleaseEvent("none", math.inf)


def show(capsys, folder, *options: str) -> str:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    assert verb.run(parser.parse_args(["ledger", str(folder), *options])) == 0
    return capsys.readouterr().out


@pytest.fixture
def make_run(tmp_path):
    def make(debits, *, epsilon=2.0, label=RESPONSE):
        budget = Budget(epsilon, 1e-5)
        with Ledger(tmp_path / "edge" / "ledger.sqlite", "r", policy={"k": 8}, budget=budget, existing=False) as ledger:
            for seq, (split, ids, event) in enumerate(debits):
                ledger.debit(
                    split, np.array(ids), event, seq=seq, nonce=bytes([seq]), label_event=label, exempt=event == NOTHING
                )
        return tmp_path

    return make


@pytest.mark.parametrize("state", ["edge", "faces.state"], ids=["of a run", "of a front bundle"])
def test_a_copy_is_taken_over_as_its_error_says(make_run, capsys, tmp_path_factory, state):
    run = make_run([("train", range(4), RESPONSE)])
    copy = tmp_path_factory.mktemp("copy") / state
    shutil.copytree(run / "edge", copy)
    reopened = {"policy": {"k": 8}, "budget": Budget(2.0, 1e-5), "existing": True}
    with pytest.raises(PrivacyError) as refusal:
        Ledger(copy / "ledger.sqlite", "r", **reopened)
    _, command = str(refusal.value).split("smartedge ledger ")
    assert "split train: 4 images" in show(capsys, *command.split())
    Ledger(copy / "ledger.sqlite", "r", **reopened).close()
    assert "split train: 4 images" in show(capsys, run), "a run directory is named by itself"


def test_the_balance_in_words(make_run, capsys):
    run = make_run([("train", range(1200), RESPONSE), ("train", [5, 9], RESPONSE), ("val", [0], NOTHING)])
    assert show(capsys, run).splitlines() == [
        "Budget of an image: ε = 2 at δ = 1e-05, over all its releases.",
        "split train: 1 200 images; worst: image 5, 2 releases, ε = 0.9998, 1 left",
        "  1 release, ε = 0.5      1 198  ########################",
        "  2 releases, ε = 0.9998      2  #",
        "split val: 1 image; worst: image 0, 1 release, ε = ∞, without protection, as the settings say",
        "  1 release, ε = ∞  1  ########################",
        "Released: one of 8 codewords, by randomised response, ε = 0.5 each time.",
        "Released: without protection, ε = ∞.",
        "Labels: randomised response, ε = 0.5 once per image, on top of the features'.",
    ]


def test_of_a_map_whose_numbers_are_protected_it_says_what_an_image_costs(tmp_path, capsys):
    """An ε of one number was told as the budget of an image."""
    mechanism = make_mechanism("laplace", feature_shape=(2, 4), clip=1.0, epsilon=0.5, granularity="element")
    path, budget = tmp_path / "edge" / "ledger.sqlite", Budget(0.5, 1e-5)
    with Ledger(path, "r", policy=mechanism.policy(), budget=budget, existing=False) as ledger:
        ledger.debit("train", np.array([0]), mechanism.event, seq=0, nonce=b"n")
    first, second, third, *_ = show(capsys, tmp_path).splitlines()
    assert first == "Budget of each number of a feature map: ε = 0.5 at δ = 1e-05, over all its releases."
    assert second.endswith("An image has 8 numbers, and a release costs the image 8 times the ε of a number.")
    assert third.endswith("1 release, ε = 0.5, 0 left")


def test_the_balance_as_json(make_run, capsys):
    run = make_run([("train", range(10), RESPONSE), ("train", [5], RESPONSE)], label=NOTHING)
    found = json.loads(show(capsys, run, "--json"))
    assert found["budget"] == {"epsilon": 2.0, "delta": 1e-5}
    assert found["policy"] == {"k": 8}
    train = found["splits"]["train"]
    assert (train["images"], train["releases"]) == (10, {"1": 9, "2": 1})
    assert (train["worst"]["image"], train["worst"]["releases"], train["worst"]["label_epsilon"]) == (5, 2, None)
    assert train["epsilon_quantiles"]["0.5"] == 0.5
    assert train["remaining"] == pytest.approx(2.0 - train["worst"]["epsilon"])
    assert found["worst"]["split"] == "train"


def test_the_worst_of_all_is_an_image_that_has_a_budget(tmp_path, capsys):
    """With ``dp.apply_to: training`` a test image without noise was named."""
    policy, budget = {"apply_to": "training"}, Budget(2.0, 1e-5)
    with Ledger(tmp_path / "ledger.sqlite", "r", policy=policy, budget=budget, existing=False) as ledger:
        for seq, (split, event) in enumerate([("test", NOTHING), ("train", RESPONSE)]):
            ledger.debit(split, np.arange(3), event, seq=seq, nonce=bytes([seq]), exempt=event == NOTHING)
            found = json.loads(show(capsys, tmp_path, "--json"))["worst"]
            assert (None if found is None else (found["split"], found["epsilon"])) == [None, ("train", 0.5)][seq]


def test_many_different_histories_are_shown_by_ranges(make_run, capsys):
    run = make_run([("train", range(n, 20), RESPONSE) for n in range(20)], epsilon=math.inf, label=None)
    lines = show(capsys, run).splitlines()
    assert lines[0] == "No budget: releases are recorded, and none is refused."
    rows = [line for line in lines if line.startswith("  ε from")]
    assert 2 < len(rows) <= 12
    assert sum(int(line.split()[5]) for line in rows) == 20


def test_many_histories_without_any_protection_are_one_range(make_run, capsys):
    run = make_run([("train", range(n, 20), NOTHING) for n in range(20)], epsilon=math.inf, label=None)
    assert any(line.split() == ["ε", "=", "∞", "20", "#" * 24] for line in show(capsys, run).splitlines())


def test_nothing_yet_and_no_ledger(make_run, capsys, tmp_path):
    assert "Nothing was released yet." in show(capsys, make_run([]))
    with pytest.raises(PrivacyError, match="no ledger"):
        show(capsys, tmp_path / "elsewhere")


def test_every_kind_of_event_has_words():
    events = {
        ReleaseEvent("gaussian", 1.0, 1e-5, noise_multiplier=3.73): "gaussian noise of 3.73 times",
        ReleaseEvent("laplace", 1.0): "Laplace noise, ε = 1 each time",
        ReleaseEvent("laplace", 1.0, granularity="element"): "each number of a feature map alone",
        ReleaseEvent("subset-selection", 1.0, codewords=8, subset=2): "2 of 8 codewords",
    }
    for event, words in events.items():
        assert words in verb._in_words(event)
