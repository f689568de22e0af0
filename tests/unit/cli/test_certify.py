"""``smartedge certify`` on a run whose front is untrained: everything is real but the learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.untrained_run import untrained_run

from smartedge.artifacts.certificate import Certificate
from smartedge.cli import app
from smartedge.config import load_config
from smartedge.lab.audit.certificate import certify

RunIn = Callable[..., Path]

SETTINGS = {
    "schedule": "freeze-and-log",
    "data": {
        "path": "drawn",
        "desired": "smile",
        "sensitive": ["masculine"],
        "image_size": 16,
        "limit": {"train": 8, "val": 60, "test": 80},
    },
    "model": {"name": "narrow:build", "cut": "layer1", "bottleneck": "2x1x1"},
    "dp": {"mechanism": "gaussian", "sigma": 0.4},
}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "_DRAWS", (1_000, 2_000))


@pytest.fixture
def run_in(drawn_faces: Path) -> RunIn:
    """``run_in(folder, section=values)`` writes a run."""

    def write(folder: Path, **changes: object) -> Path:
        settings = {**SETTINGS, **changes}
        settings["data"] = {**settings["data"], "cache_dir": str(drawn_faces)}  # type: ignore[dict-item]
        return untrained_run(folder, load_config(settings))

    return write


def test_a_table_the_assumptions_and_the_file(
    tmp_path: Path, run_in: RunIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(tmp_path / "run")
    assert app.main(["certify", str(run)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for said in ("masculine", "no attacker exceeds", "DP bound", "With 95 % confidence", "names no persons"):
        assert said in out
    found = Certificate.read(run / "audit" / "certificate.json")
    bound = found.attributes["masculine"]
    assert (found.releases, found.numbers, found.splits, found.persons) == (1, 2, ("test", "audit"), None)
    assert sum(bound.units) == bound.images == 80 + 1
    assert 0.5 <= bound.plug_in < bound.bound <= bound.dp_bound and bound.label_floor is not None
    assert not bound.label_known


def test_json_more_images_more_releases_and_a_known_label(
    tmp_path: Path, run_in: RunIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(tmp_path / "run")
    printed = []
    for arguments in (
        [],
        ["--splits", "test,val"],
        ["--releases", "9"],
        ["--known-label"],
        ["--confidence", "0.6"],
        ["--persons", "masculine"],
    ):
        code = app.main(["certify", str(run), "--json", *arguments])
        out, err = capsys.readouterr()
        if "--persons" in arguments:  # two "persons", and the front has learned from both
            assert code == 3 and "are also among the training images" in err and "--splits audit" in err
            continue
        assert code == 0, err
        printed.append(json.loads(out)["attributes"]["masculine"])
    plain, more, releases, label, unsure = printed
    assert sum(more["units"]) == 140 and more["bound"] - more["plug_in"] < plain["bound"] - plain["plug_in"]
    assert releases["plug_in"] > plain["plug_in"]
    assert label["label_known"] and label["plug_in"] >= label["label_floor"] - label["draws_error"]
    assert unsure["bound"] < plain["bound"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--confidence", "0.99999"], "--confidence: must be from 0.5 to 0.9999"),
        (["--releases", "0"], "--releases: 0: give a whole number from 1"),
        (["--splits", "train"], "--splits: some of test, val, audit"),
        (["--attributes", ","], "--attributes: the list is empty"),
        (["--attributes", "smile", "--known-label"], "'smile' is the desired label itself"),
        (["--attributes", "identity"], "'identity' names the persons, who are the units"),
        (["--persons", "nobody"], "no column 'nobody'"),
    ],
)
def test_what_cannot_be_certified_says_what_to_do(
    arguments: list[str], says: str, tmp_path: Path, run_in: RunIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["certify", str(run_in(tmp_path / "run")), *arguments]) in (2, 3)
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run" / "audit").exists()


def test_images_set_apart_are_used_where_there_are_some(
    tmp_path: Path, run_in: RunIn, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {**SETTINGS["data"], "limit": {"train": 200, "val": 20, "test": 40}, "audit_share": 0.5}  # type: ignore[dict-item]
    for share, arguments, units in ((0.5, [], 140), (0.5, ["--splits", "audit"], 100), (0.0, [], 40)):
        run = run_in(tmp_path / f"{share}{len(arguments)}", data={**data, "audit_share": share})
        assert app.main(["certify", str(run), *arguments]) == 0
        found = Certificate.read(run / "audit" / "certificate.json").attributes["masculine"]
        assert sum(found.units) == units
    assert app.main(["certify", str(run), "--splits", "audit"]) == 2
    assert "data.audit_share" in capsys.readouterr().err


def test_a_class_that_nobody_has(tmp_path: Path, run_in: RunIn, capsys: pytest.CaptureFixture[str]) -> None:
    data = {**SETTINGS["data"], "limit": {"train": 8, "val": 60, "test": 1}, "audit_share": 0}  # type: ignore[dict-item]
    assert app.main(["certify", str(run_in(tmp_path / "run", data=data))]) == 3
    err = capsys.readouterr().err
    assert "no held-out person of a class" in err and "another split (--splits)" in err


def test_no_noise_certifies_nothing(tmp_path: Path, run_in: RunIn, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_in(tmp_path / "run", dp={"mechanism": "none"})
    assert app.main(["certify", str(run)]) == 2
    assert "the run adds no noise" in (err := capsys.readouterr().err) and "dp.sigma" in err


def test_several_desired_labels_are_one_label_of_all_combinations() -> None:
    from types import SimpleNamespace

    import torch

    from smartedge.lab.audit.certificate.run import _desired

    labels = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])

    class Images(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.labels)

    found = _desired([Images(labels=labels)])  # type: ignore[list-item]
    assert found[0] == found[2] and len(np.unique(found)) == 3
