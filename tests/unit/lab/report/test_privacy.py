"""The privacy section of the pages, and the pictures."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
from audit_example import RUN, example_audit, noise_test
from PIL import Image
from plain_text import plain
from safetensors.numpy import load_file, save_file

from smartedge.cli import report as verb
from smartedge.errors import RunError
from smartedge.lab.report import write_comparison, write_figure, write_report
from smartedge.lab.report.gallery import gallery
from smartedge.lab.report.privacy import features_page
from smartedge.lab.report.read import read_run


def text_of(page: Path) -> str:
    return plain(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))))


def labels_of(page: Path) -> list[str]:
    return [plain(label) for label in re.findall(r'<svg role="img" aria-label="([^"]*)"', page.read_text("utf-8"))]


def test_what_limits_an_audit_stands_on_the_page_of_features_too():
    """Its verdict said so on the command line, and the page showed the bare judgement."""
    limited = RUN.model_copy(update={"attackers_images_seen": True, "ordered": ("masculine",)})
    refuted = noise_test(
        mechanism="gaussian", epsilon_lower_bound=4.2, epsilon_claimed=4.0, confidence=0.999, control_without_noise=8.2
    )
    sound, wrong = (features_page(example_audit(audited=limited, dp=dp))["verdict"] for dp in (noise_test(), refuted))
    for verdict in (sound, wrong):
        said = " ".join(verdict.sentences)
        assert "attackers learned from images that the front was trained on" in said
        assert "order of the protected images tells something about masculine" in said
    assert sound.tone != "bad" and (wrong.tone, wrong.word) == ("bad", "claim refuted")


def test_the_report_draws_every_attacker_and_every_reference(write_run, write_audit, attribute, privacy_block):
    def protected(found):
        found["privacy"] = privacy_block()

    def claimed(audit):
        audit["dp"]["attribute_bound"] = 0.982

    attributes = {"masculine": attribute(0.661, dp_bound=0.677)}
    run = write_audit(write_run(change=protected), attributes, change=claimed)
    page = write_report(run)
    drawn = next(label for label in labels_of(page) if label.startswith("Attackers on masculine"))
    for attacker in ("linear 60.0 %", "trees 62.4 %", "mlp 64.1 %", "deep 66.1 %"):
        assert attacker in drawn
    for line in ("chance 50.0 %", "label floor 64.5 %", "prediction floor 63.9 %", "undefended, best 92.8 %",
                 "DP bound 98.2 %", "noise bound 67.7 %"):  # fmt: skip
        assert line in drawn
    text = text_of(page)
    assert '<span class="word">hidden</span>' in page.read_text("utf-8")
    assert "What was sent hides masculine from the attackers that were tried" in text.split("Privacy verdict")[0]
    for said in ("What is not covered", "Budget spent", "It has 91.3 % balanced accuracy", "no time was left"):
        assert said in text
    assert "distance in the features of resnet18" in text
    assert "19.2 24.8" in text and "65.5 % 90.2 %" in text  # a decoder's PSNR and what is read, defended, undefended


def test_a_run_without_audit_says_so(write_run):
    text = text_of(write_report(write_run()))
    assert "No attacker of attributes has been tried on what this run sent." in text
    assert "There is no guarantee: feature maps were sent without noise." in text


def test_a_refuted_claim_is_the_verdict(write_run, write_audit):
    def broken(audit):
        audit["dp"].update(epsilon_claimed=1.0, epsilon_lower_bound=3.0, confidence=0.999, control_without_noise=8.0)

    page = write_report(write_audit(write_run(), change=broken))
    assert '<span class="word">claim refuted</span>' in page.read_text("utf-8")


def test_where_test_images_crossed_without_noise_it_says_so(write_run, write_audit, privacy_block):
    def protected(found):
        found["privacy"] = privacy_block(apply_to="training")

    def bare(audit):
        audit["run"]["noise_on_audited_releases"] = False

    run = write_audit(write_run(change=protected), change=bare)
    assert "these attacks met no noise either" in text_of(write_report(run))


def test_what_is_read_of_persons_has_tables_and_a_figure(write_run, write_audit):
    def linked(auroc):
        interval = [auroc - 0.02, auroc + 0.02]
        rates = {"equal_error_rate": 1 - auroc, "equal_error_rate_ci95": [0.1, 0.3]}
        return {"auroc": auroc, "auroc_ci95": interval, **rates}

    def read(value):
        return {"balanced_accuracy": value, "ci95": [value - 0.05, value + 0.05], "auroc": value}

    def people(audit):
        audit["identity"] = {
            "persons": 90,
            "persons_with_pairs": 37,
            "labelled": True,
            "best": "plda+label",
            "best_of_release": "plda",
            "linkers": {"plda": linked(0.61), "plda+label": linked(0.66)},
            "label_floor": linked(0.57),
            "attribute_floor": linked(0.83),
            "undefended": linked(0.94),
        }
        bands = {
            images: {
                "persons": [30, 41],
                "best": "network-sets",
                "attacks": {"network-sets": read(value), "mixture-images": read(value + 0.03)},
                "label_floor": read(value - 0.07),
                "undefended": read(0.97),
            }
            for images, value in (("1", 0.63), ("4-9", 0.78))
        }
        audit["persons"] = {"masculine": bands}

    page = write_report(write_audit(write_run(), change=people))
    text = text_of(page)
    assert "whether they show one person, with AUROC 0.66 (95 % interval 0.64 to 0.68; guessing: 0.50)" in text
    assert "on the undefended front 0.94. The true desired labels alone give 0.57." in text
    assert "37 persons with two or more images" in text
    assert "30 + 41" in text
    assert "78.0 % network-sets" in text
    drawn = [label for label in labels_of(page) if "several images of one person" in label]
    assert drawn == [
        "How well attackers read masculine from several images of one person. 1 images: 63.0 %, label floor 56.0 %; "
        "4-9 images: 78.0 %, label floor 71.0 %."
    ]
    without = text_of(write_report(write_audit(write_run())))
    assert "What is read of a person" not in without


def test_attacks_that_were_left_out_leave_a_report(write_run, write_audit, attribute):
    def short(audit):
        audit.update(reconstruction=None, membership=None)
        audit["attributes"]["glasses"] = {**attribute(0.6), "best": None, "attacks": {}}

    page = write_report(write_audit(write_run(), pictures=False, change=short))
    text = text_of(page)
    assert "What attackers read" in text and "What reconstructions show" not in text and "glasses" not in text


def test_pictures_are_shown_with_what_they_are(write_run, write_audit):
    run = write_audit(write_run())
    page = write_report(run).read_text("utf-8")
    alts = re.findall(r'<img src="data:image/png[^"]*" alt="([^"]*)"', page)
    made = [plain(alt) for alt in alts if "reconstructed" in alt]
    assert len(made) == 16
    assert (
        "Test image 0 (smile: no, masculine: no) as reconstructed by &#39;gan&#39; from what ResNet-18 sent without "
        "protection" in made
    )
    assert "This file contains 8 images of the test split and their reconstructions by attackers." in page


def networks(write_run, write_audit, *names: str, seeds: tuple[int, ...] = (0, 0, 0)) -> list[Path]:
    runs = []
    for name, seed in zip(names, seeds, strict=False):

        def called(found, name=name):
            found["model"] = name

        runs.append(write_audit(write_run(name, change=called), network=name, seed=seed))
    return runs


def test_the_figure_has_one_column_of_inputs_and_two_for_each_network(write_run, write_audit):
    runs = [read_run(run) for run in networks(write_run, write_audit, "vgg11", "resnet18", "mobilevit_xxs")]
    shown = gallery(runs)
    assert shown.networks == [("", 1), ("VGG-11", 2), ("ResNet-18", 2), ("MobileViT-xxs", 2)]
    assert shown.columns == ["input", *["without", "with"] * 3]
    assert len(shown.rows) == 8 and all(len(row.cells) == 7 for row in shown.rows)
    assert [row.label for row in shown.rows[::2]] == [
        "smile: no, masculine: no", "smile: no, masculine: yes", "smile: yes, masculine: no",
        "smile: yes, masculine: yes",
    ]  # fmt: skip
    pictures = runs[1].pictures.tensors
    assert np.array_equal(shown.rows[3].cells[3].pixels, pictures["undefended"][3])
    assert np.array_equal(shown.rows[3].cells[4].pixels, pictures["defended"][3])


def test_runs_of_other_images_each_show_their_own_inputs(write_run, write_audit):
    runs = [read_run(run) for run in networks(write_run, write_audit, "vgg11", "resnet18", seeds=(0, 1))]
    shown = gallery(runs)
    assert shown.columns == ["input", "without", "with"] * 2
    assert np.array_equal(shown.rows[0].cells[3].pixels, runs[1].pictures.tensors["originals"][0])
    assert shown.images == 16


def test_the_figure_is_a_picture_of_all_the_columns(write_run, write_audit, tmp_path):
    runs = networks(write_run, write_audit, "vgg11", "resnet18")
    with Image.open(write_figure(runs, tmp_path / "new" / "figure.png")) as picture:
        wide = picture.size
        pixels = np.asarray(picture.convert("RGB"))
    with Image.open(write_figure(runs[:1], tmp_path / "one.png")) as picture:
        assert picture.size[0] < wide[0] and picture.size[1] == wide[1]
    # the first input's ground fills its corner, at the place where the drawing puts it
    ground = load_file(runs[0] / "audit" / "reconstruction" / "samples.safetensors")["originals"][0][:, 0, 0]
    assert (np.abs(pixels.astype(int) - ground.astype(int)).max(axis=2) <= 1).sum() > 500


def test_without_reconstructions_there_is_no_figure(write_run, write_audit, tmp_path):
    with pytest.raises(ValueError, match=r"no reconstructions to show; run 'smartedge audit RUN'"):
        write_figure([write_audit(write_run(), pictures=False)], tmp_path / "figure.png")


def test_a_reconstruction_that_is_missing_is_a_gap(write_run, write_audit, tmp_path):
    run = write_audit(write_run())
    path = run / "audit" / "reconstruction" / "samples.safetensors"
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        notes = file.metadata()
    tensors = load_file(path)
    del tensors["undefended"]
    save_file(tensors, path, metadata=notes)
    assert write_figure([run], tmp_path / "figure.png").exists()
    assert '<span class="none">–</span>' in write_report(run).read_text("utf-8")


def test_a_comparison_sets_the_leaks_side_by_side(write_run, write_audit, privacy_block):
    runs = networks(write_run, write_audit, "vgg11", "resnet18")

    found = json.loads((runs[0] / "results.json").read_text())
    found["privacy"] = privacy_block(vector_epsilon_total=7.5)
    (runs[0] / "results.json").write_text(json.dumps(found))
    page = write_comparison(runs, runs[0].parent / "comparison.html")
    text = text_of(page)
    assert '<th scope="col">VGG-11</th>' in page.read_text("utf-8")
    assert "ε = 7.5" in text and "undefended 92.8 %, floor 64.5 %" in text
    assert "What reconstructions show" in text


HOSTILE = "</td><script>alert(1)</script>$\\frac{1$ {{ 7 * 7 }} http://evil.example"


def test_names_from_an_audit_stay_text(write_run, write_audit, attribute):
    def hostile(audit):
        audit["attributes"][HOSTILE]["best"]["attack"] = HOSTILE
        audit["skipped"] = [{"attack": HOSTILE, "reason": HOSTILE}]
        audit["reconstruction"]["decoder"]["perceptual"]["name"] = HOSTILE
        audit["reconstruction"]["decoder"]["sensitive_balanced_accuracy"][HOSTILE] = 0.5

    run = write_audit(write_run(), {HOSTILE: attribute(0.7)}, change=hostile)
    page = write_report(run).read_text("utf-8")
    assert "<script" not in page and "{{" in page


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda audit: audit.update(schema_version=9),
            r"audit\.json: is of version 9, and this program knows 3",
        ),
        (lambda audit: audit.pop("dp"), r"audit\.json: lacks dp; docs/audit-schema\.md"),
        (lambda audit: audit["attributes"]["masculine"].pop("floor"), r"lacks attributes\.masculine\.floor"),
    ],
)
def test_a_broken_audit_is_named(damage, message, write_run, write_audit):
    with pytest.raises(RunError, match=message):
        write_report(write_audit(write_run(), change=damage))


def test_pictures_that_do_not_say_what_they_are_are_named(write_run, write_audit):
    run = write_audit(write_run())
    path = run / "audit" / "reconstruction" / "samples.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(RunError, match=r"samples\.safetensors: its metadata cannot be read"):
        write_report(run)


def test_the_verb_draws_the_figure_instead_of_a_page(write_run, write_audit, tmp_path, capsys):
    runs = networks(write_run, write_audit, "vgg11", "resnet18")
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    args = parser.parse_args(["report", *map(str, runs), "--figure", str(tmp_path / "figure.png")])
    assert verb.run(args) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'figure.png'}\n"
    assert (tmp_path / "figure.png").exists() and not (runs[0] / "report.html").exists()
    (runs[0] / "audit" / "reconstruction" / "samples.safetensors").unlink()
    (runs[1] / "audit" / "reconstruction" / "samples.safetensors").unlink()
    with pytest.raises(RunError, match="no reconstructions to show"):
        verb.run(args)
