"""The audit of features of any origin, from Python and from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smartedge
from smartedge.artifacts.audit import Audit, AuditedFeatures
from smartedge.cli import app
from smartedge.errors import ConfigError
from smartedge.lab.audit import call as stages
from smartedge.lab.audit.certificate import certify
from smartedge.lab.audit.evidence import Crossing
from smartedge.lab.audit.features.deep import deep_network
from smartedge.lab.audit.features.evidence import evidence_of
from smartedge.lab.audit.features.noise import mechanism_from
from smartedge.lab.audit.features.table import table_of
from smartedge.models.layout import layout_of_shape

COUNT = 900
QUICK = ("linear", "certificate")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """How near a bound comes with many draws is the certificate's own test; here it need only hold."""
    monkeypatch.setattr(certify, "_DRAWS", (1_000, 2_000))


def faces(hidden_at: float, *, seed: int = 0) -> dict[str, Any]:
    """Four numbers: the first tells the label, the second the sensitive column, by ``hidden_at`` on each side of 0."""
    rng = np.random.default_rng(seed)
    smile, glasses = rng.integers(0, 2, (2, COUNT))
    features = 0.1 * rng.standard_normal((COUNT, 4))
    features[:, 0] += smile - 0.5
    features[:, 1] += hidden_at * (2 * glasses - 1)
    return {"features": features, "labels": smile, "sensitive": {"glasses": glasses}}


def audited(given: dict[str, Any], **how: Any) -> Audit:
    given = dict(given)
    return smartedge.audit(given.pop("features"), **given, **{"attacks": QUICK, "seeds": 1, **how})


def best(found: Audit) -> float:
    block = found.attributes["glasses"]
    assert block.best is not None
    return block.best.balanced_accuracy


def test_what_is_there_is_read_and_what_is_not_is_not() -> None:
    assert best(audited(faces(1.0), attacks=("trees",))) > 0.99
    # 270 test images: a guess is at 50 %, and within four deviations, 12 points.
    assert best(audited(faces(0.0), attacks=("trees",))) < 0.62


def test_wide_features_come_to_one_scale_part_by_part() -> None:
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal((60, 20_000)) * rng.uniform(1e-6, 1e6, 20_000) + 3).astype(np.float32)
    wide[:, 7] = 4.0
    wide[:30, 8], wide[30:, 8] = 4.0, 5.0  # the same in all of the attackers' own images
    table = table_of(wide, sensitive={"hat": np.arange(60) % 2}, splits=np.repeat([0, 1, 2], [30, 15, 15]))
    evidence = evidence_of(table, mechanism_from(None, (20_000,)), sent=Crossing(1, label_in_clear=False), seed=0)
    own = wide[:30].astype(np.float64)
    expected = (wide - own.mean(axis=0)) / np.where(np.ptp(own, axis=0) > 0, own.std(axis=0), np.inf)
    np.testing.assert_allclose(evidence.train.views_VNF[0], expected[:30], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evidence.test_features_NF, expected[45:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30])
def test_features_of_any_scale_are_read(scale: float) -> None:
    """The column with the secret may also be far smaller than others, and a number may be constant."""
    given = faces(1.0)
    numbers = given["features"][:, :3]
    given["features"] = np.concatenate([scale * numbers, np.full((COUNT, 1), 3.0)], axis=1)
    assert best(audited(given, attacks=("linear",))) > 0.99
    if scale < 1:
        given["features"] = np.concatenate([numbers * [1.0, scale, 1.0], 1e30 * numbers[:, :1]], axis=1)
        assert best(audited(given, attacks=("linear",))) > 0.99


def test_noise_of_any_scale_hides_no_more_than_it_covers() -> None:
    given = faces(1.0)
    given["features"] = 1e-9 * given["features"]
    assert best(audited(given, attacks=("linear",), noise="gaussian:sigma=1e-10,clip=1e-8")) > 0.99


@pytest.mark.parametrize("noise", ["gaussian:sigma=0.4,clip=1", "laplace:sigma=0.4,clip=1"])
def test_large_numbers_are_clipped_and_not_to_nothing(noise: str) -> None:
    """Their norm is beyond float32. Clipped to 0 they told nothing, and the certificate lay below the truth."""
    given = faces(1.0)
    given["features"] = 1e38 * given["features"]
    table = table_of(given["features"], sensitive=given["sensitive"])
    evidence = evidence_of(table, mechanism_from(noise, (4,)), sent=Crossing(1, label_in_clear=False), seed=0)
    norms = evidence.train.views_VNF[0].norm(p=evidence.mechanism.noise_norm, dim=1)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


def test_noise_hides_and_the_certificate_holds() -> None:
    """±0.2 under noise of 0.4, with ±0.1 of its own: the best test reads Φ(0.2 / 0.412) = 68.6 %."""
    found = audited(faces(0.2), noise="gaussian:sigma=0.4,clip=1")
    assert found.certificate is not None and found.certificate.training_image is None
    certificate = found.certificate.one_release
    assert certificate is not None and certificate.splits == ("test", "train")
    bound = certificate.attributes["glasses"]
    assert sum(bound.units) == 270 + 450
    assert 0.686 < bound.bound < 0.80
    # The best of three attackers on 270 images: 68.6 % and four deviations, 11 points. Without noise it is 97.7 %.
    assert 0.575 < best(found) < 0.80
    assert found.dp.epsilon_claimed is not None and found.attributes["glasses"].dp_bound is not None
    assert found.attributes["glasses"].floor.balanced_accuracy < 0.6


def test_copies_of_an_image_in_another_split_are_told() -> None:
    given = faces(0.0)
    assert "exactly the features" not in audited(given, attacks=("trees",)).verdict
    splits = np.array(["train", "val", "test"] * (COUNT // 3))
    given["features"][2] = given["features"][0]
    found = audited({**given, "splits": splits}, attacks=("trees",))
    assert isinstance(found.audited, AuditedFeatures) and found.audited.copies == 1
    assert "1 protected images have exactly the features of an image of another split" in found.verdict


def test_that_persons_are_not_known_is_told() -> None:
    """The page alone said it: attackers that recognise persons seem to read the attribute."""
    given = faces(0.0)
    assert "attackers may have recognised the person" in audited(given, attacks=("trees",)).verdict
    persons = np.arange(COUNT) // 2
    assert "recognised" not in audited({**given, "persons": persons}, attacks=("trees",)).verdict


def test_what_is_not_looked_at_is_told() -> None:
    """Digits beyond float32 hold the secret: it was called hidden, without a word on them."""
    rng = np.random.default_rng(0)
    glasses = np.arange(COUNT) % 2
    fine = np.round(rng.standard_normal((COUNT, 3)), 3) + 1e-12 * glasses[:, None]
    found = audited({"features": fine, "sensitive": {"glasses": glasses}}, attacks=("trees",))
    assert isinstance(found.audited, AuditedFeatures) and found.audited.rounded and best(found) < 0.62
    assert "attackers saw only these. If more digits are sent, they may tell more." in found.verdict
    coarse = {"features": fine.astype(np.float16), "sensitive": {"glasses": glasses}}
    assert "more digits" not in audited(coarse, attacks=("trees",)).verdict
    assert "more digits" not in audited(faces(0.2), attacks=("trees",), noise="gaussian:sigma=0.4,clip=1").verdict


def test_an_order_of_the_rows_that_tells_something_is_told() -> None:
    """By class, by person, by turns: no attacker looks at it."""
    given = faces(0.0)
    found = audited(given, attacks=("trees",))
    assert found.audited.ordered == () and "The order of" not in found.verdict
    glasses = np.sort(given["sensitive"]["glasses"])
    found = audited({**given, "sensitive": {"glasses": glasses}}, attacks=("trees",))
    assert found.audited.ordered == ("glasses",)
    assert "The order of the protected images tells something about glasses, and no attacker looked" in found.verdict
    found = audited({**given, "persons": np.arange(COUNT) // 9}, attacks=("trees",))
    assert found.audited.ordered == ("persons",)


def test_a_known_label_and_several_releases_are_a_stronger_attacker() -> None:
    found = audited(faces(0.2), noise="gaussian:sigma=0.4,clip=1,releases=9", known_label=True)
    assert found.certificate is not None and found.certificate.training_image is not None
    stronger = found.attributes["glasses"].training_image
    assert stronger is not None and stronger.balanced_accuracy > best(found) + 0.05
    assert found.certificate.training_image.releases == 9
    assert found.certificate.training_image.attributes["glasses"].label_known
    assert found.certificate.one_release is not None
    bounds = (found.certificate.one_release, found.certificate.training_image)
    assert bounds[0].attributes["glasses"].bound < bounds[1].attributes["glasses"].bound


@pytest.mark.slow
def test_deep_attackers_are_left_out_where_nothing_is_left_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """How near the certificate comes depends on the few images here; so the limit is moved instead."""
    attacks = ("linear", "deep", "certificate")
    monkeypatch.setattr(stages, "_NEAR", -1.0)
    made = audited(faces(0.2), noise="gaussian:sigma=0.4,clip=1", attacks=attacks).attributes["glasses"]
    assert made.full_depth_needed is True and "deep" in made.attacks
    monkeypatch.setattr(stages, "_NEAR", 0.5)
    left_out = audited(faces(0.2), noise="gaussian:sigma=0.4,clip=1", attacks=attacks)
    block = left_out.attributes["glasses"]
    assert block.full_depth_needed is False and set(block.attacks) == {"linear", "ensemble"}
    assert left_out.skipped == (), "nothing is missing"
    without = audited(faces(0.2), attacks=("linear", "certificate")).attributes["glasses"]
    assert without.full_depth_needed is None, "without noise there is no certificate"


def test_the_certificate_and_the_attack_beside_it_are_of_one_population() -> None:
    """Of 40 persons with many images each, the attribute is in the features; of 500 with one image it is not.

    Of images an attack reads much, of persons little. The certificate counts persons, so only the latter is compared.
    """
    rng = np.random.default_rng(0)
    persons = np.concatenate([np.repeat(np.arange(40), 20), 40 + np.arange(500)])
    glasses = np.concatenate([np.repeat(np.arange(40) % 2, 20), rng.integers(0, 2, 500)])
    told = np.where(persons < 40, 2.0 * glasses - 1, 0.0)
    given = {"features": 0.5 * told[:, None] * np.ones((1, 2)), "sensitive": {"glasses": glasses}}
    given["persons"] = persons
    found = audited(given, noise="gaussian:sigma=0.3,clip=1", attacks=("linear", "certificate"))
    figures, bound = found.attributes["glasses"].attacks["linear"], found.certificate
    assert bound is not None and bound.one_release is not None
    assert figures.balanced_accuracy_by_person is not None
    assert figures.balanced_accuracy > figures.balanced_accuracy_by_person + 0.1
    assert bound.one_release.attributes["glasses"].bound < figures.balanced_accuracy


def test_facts_and_a_second_call_that_reuses_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**faces(0.2), "persons": np.arange(COUNT) // 3}
    found = audited(given, out=tmp_path / "out")
    assert isinstance(found.audited, AuditedFeatures)
    assert found.audited.splits == "made by persons" and found.audited.persons == 300
    assert found.audited.images == {"train": 450, "val": 180, "test": 270}
    assert found.audited.desired == ("labels",) and found.audited.sensitive == ("glasses",)
    assert found == Audit.read(tmp_path / "out" / "audit.json")
    assert found.certificate is None, "without noise nothing is certified"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "attacks").iterdir()}
    assert audited(given, out=tmp_path / "out").attributes == found.attributes
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "attacks").iterdir()} == before
    assert audited({**given, "labels": 1 - given["labels"]}, out=tmp_path / "out", attacks=("linear",)).attributes
    assert {path: path.stat().st_mtime_ns for path in before} != before, "other labels, so other attackers"


def test_without_labels_the_floor_is_a_guess() -> None:
    given = faces(1.0)
    del given["labels"]
    found = audited(given, attacks=("linear",))
    assert found.attributes["glasses"].floor.balanced_accuracy == pytest.approx(0.5)
    assert found.audited.desired == () and found.attributes["glasses"].prediction_floor is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"attacks": ("linear", "reconstruction")}, "reconstruction: needs a run of smartedge"),
        ({"attacks": ("guess",)}, "guess is not known"),
        ({"labels": None, "known_label": True}, "there is no array 'labels'"),
        ({"budget": 0.0}, "must be a positive time"),
    ],
)
def test_impossible_options(how: dict[str, Any], message: str) -> None:
    given = {**faces(1.0), **({"labels": None} if "labels" in how else {})}
    with pytest.raises(ConfigError, match=message):
        audited(given, **{name: value for name, value in how.items() if name != "labels"})


def test_arrays_go_with_an_array_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with a file they are arrays of the file"):
        smartedge.audit(tmp_path / "faces.npz", labels=[0, 1])
    with pytest.raises(ConfigError, match="attributes: goes with a file"):
        audited(faces(1.0), attributes=("glasses",))


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        *[((4,), 1.0), ((2, 3, 2, 2), 1e-12)],  # numbers
        *[((5, 12), 1.0), ((5, 12), 1e-12)],  # tokens
        *[((3, 8, 8), 1.0), ((8, 8, 3), 1e-12)],  # maps, whose channels come first or last
    ],
)
def test_a_deep_network_for_any_shape_and_scale_learns(shape: tuple[int, ...], scale: float) -> None:
    torch.manual_seed(0)
    features = scale * torch.randn(32, *shape)
    labels = (features.flatten(1)[:, 0] > 0).long()
    network = deep_network(shape, layout_of_shape(shape), 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(features), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3, "32 images are learned by heart"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["smartedge", "audit", *map(str, arguments)])
    return app.main()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    given = faces(0.2)
    path = tmp_path / "faces.npz"
    hat = np.arange(COUNT) % 2
    np.savez(path, features=given["features"], labels=given["labels"], hat=hat, **given["sensitive"])
    return path


def test_from_the_command_line(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--features", file, "--attacks", "linear,certificate", "--seeds", "1", "--threads", "1")
    noise = ("--noise", "gaussian:sigma=0.4,clip=1")
    assert command(monkeypatch, *arguments, *noise, "--attributes", "glasses") == 0
    printed = capsys.readouterr().out
    assert "exceeds" in printed and str(file) + ".audit/audit.json" in printed
    found = Audit.read(Path(f"{file}.audit") / "audit.json")
    assert isinstance(found.audited, AuditedFeatures) and found.audited.source == "faces.npz"
    assert set(found.attributes) == {"glasses"} and found.certificate is not None
    again = smartedge.audit(file, noise=noise[1], attributes=("glasses",), attacks=("linear", "certificate"), seeds=1)
    assert again.attributes["glasses"] == found.attributes["glasses"], "the same from Python"
    assert command(monkeypatch, *arguments, "--attributes", "all", "--out", file.parent / "other", "--seed", "3") == 0
    other = Audit.read(file.parent / "other" / "audit.json")
    assert set(other.attributes) == {"hat", "glasses"} and other.audited.seed == 3 and other.certificate is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either a run directory, or --features FILE"),
        (("runs/x", "--features", "FILE"), "give either a run directory, or --features FILE"),
        (("runs/x", "--noise", "gaussian:sigma=1,clip=1"), "go with --features"),
        (("--features", "FILE", "--undefended", "runs/y"), "--undefended: goes with a run"),
        (("--features", "FILE", "--noise", "gaussian:sigma=1"), "give the clip"),
        (("--features", "FILE", "--attributes", "moustache"), "has no column 'moustache'"),
    ],
)
def test_wrong_use_is_explained(
    arguments: tuple[str, ...],
    message: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, *(str(file) if word == "FILE" else word for word in arguments)) == 2
    assert message in capsys.readouterr().err


def test_the_persons_count_once_in_the_certificate() -> None:
    given = faces(0.2)
    noise = "gaussian:sigma=0.4,clip=1"
    persons = np.arange(COUNT) // 3
    glasses = np.repeat(np.arange(COUNT // 3) % 2, 3)
    found = audited({**given, "sensitive": {"glasses": glasses}, "persons": persons}, noise=noise)
    assert found.certificate is not None and found.certificate.one_release is not None
    certificate = found.certificate.one_release
    assert sum(certificate.attributes["glasses"].units) == (270 + 450) / 3 and certificate.persons == "persons"


def test_the_page_says_what_was_audited_and_what_is_certified(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "_NEAR", 1.0)
    how = ("--attacks", "linear,deep,certificate", "--noise", "gaussian:sigma=0.4,clip=1", "--seeds", "1")
    assert command(monkeypatch, "--features", file, *how, "--threads", "1") == 0
    page = Path(f"{file}.audit") / "audit.html"
    assert str(page) in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    for said in ("Audit of faces.npz", "made by the audit, image by image", "Who is shown is not known"):
        assert said in text
    bound = Audit.read(page.with_name("audit.json")).certificate
    assert bound is not None and bound.one_release is not None
    assert f"exceeds {100 * bound.one_release.attributes['glasses'].bound:.1f}\N{NO-BREAK SPACE}% on glasses" in text
    assert "So attackers of full depth were not trained" in text and "no deep attacker was tried" not in text
    assert bound.one_release.assumptions[:60] in text


def test_of_given_splits_the_certificate_takes_the_test_images_alone() -> None:
    """The train split may be the network's own."""
    splits = np.repeat(["train", "val", "test"], COUNT // 3)
    found = audited({**faces(0.2), "splits": splits}, noise="gaussian:sigma=0.4,clip=1")
    assert found.certificate is not None and found.certificate.one_release is not None
    certificate = found.certificate.one_release
    assert certificate.splits == ("test",) and sum(certificate.attributes["glasses"].units) == COUNT // 3
    assert isinstance(found.audited, AuditedFeatures) and found.audited.splits == "given"


def test_codewords() -> None:
    """Word 0 or 1 tells the column; it survives with e/(e + 3) = 47.5 %, each other word comes with 17.5 %."""
    glasses = np.random.default_rng(0).integers(0, 2, COUNT)
    given = {"features": np.eye(4)[glasses], "sensitive": {"glasses": glasses}}
    found = audited(given, noise="randomised-response:epsilon=1", attacks=("posterior", "certificate", "membership"))
    assert found.certificate is not None and found.certificate.one_release is not None
    bound = found.certificate.one_release.attributes["glasses"]
    assert bound.draws == 0 and bound.plug_in == pytest.approx(0.65, abs=0.005)  # (1 + 0.475 - 0.175)/2, exactly
    assert 0.53 < best(found) < 0.77  # four deviations, 12 points
    assert found.membership is not None and found.dp.epsilon_claimed == pytest.approx(1)


def test_a_class_that_no_person_stands_for_is_not_certified_and_that_is_said() -> None:
    """All test images are of one person, which counts in one class."""
    splits = np.repeat(["train", "val", "test"], COUNT // 3)
    given = {**faces(0.2), "splits": splits, "persons": np.repeat([0, 1, 2], COUNT // 3)}
    found = audited(given, noise="gaussian:sigma=0.4,clip=1", attacks=("linear", "certificate"))
    assert found.certificate is None and found.attributes["glasses"].full_depth_needed is None
    assert [(entry.attack, "no held-out person of a class" in entry.reason) for entry in found.skipped] == [
        ("certificate", True)
    ]


def test_a_certificate_of_other_noise_or_of_another_attacker_is_not_kept(tmp_path: Path) -> None:
    """A bound for strong noise stood beside attacks on weak noise: 53 % beside 100 %."""
    rng = np.random.default_rng(0)
    hidden = rng.integers(0, 2, 200)
    given: dict[str, Any] = {
        "features": rng.standard_normal((200, 2)) * 0.3 + 1.5 * (hidden[:, None] - 0.5),
        "sensitive": {"hidden": hidden},
        "labels": rng.integers(0, 2, 200),
        "seeds": 1,
        "out": tmp_path,
    }
    strong, weak = "gaussian:sigma=20,clip=2", "gaussian:sigma=0.1,clip=2"
    first = smartedge.audit(**given, noise=strong, attacks=["certificate", "epsilon"])
    assert first.certificate is not None
    kept = (tmp_path / "audit.json").read_text()
    for how, stays in (
        ({"noise": strong}, True),
        ({"noise": weak}, False),
        ({"noise": strong, "known_label": True}, False),
    ):
        (tmp_path / "audit.json").write_text(kept)
        found = smartedge.audit(**given, **how, attacks=["linear"])
        assert found.certificate == (first.certificate if stays else None)
