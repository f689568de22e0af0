"""The privacy section: the guarantee in words, what attackers read, and the pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_example import attribute_block, example_audit, membership, noise_test
from PIL import Image
from safetensors.numpy import load_file, save_file

from smartedge.artifacts.attacks import AttributeBlock, Membership
from smartedge.artifacts.results import Privacy, Results
from smartedge.cli import report as verb
from smartedge.errors import RunError
from smartedge.lab.judging.guarantee import guarantee
from smartedge.lab.judging.leakage import (
    AttackResult,
    Leak,
    epsilon_words,
    judge,
    kinds_of,
    membership_words,
    read_leaks,
)
from smartedge.lab.report import write_comparison, write_figure, write_report
from smartedge.lab.report.gallery import gallery
from smartedge.lab.report.read import read_run
from smartedge.metrics import attribute_bound


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def text_of(page: Path) -> str:
    return plain(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))))


def labels_of(page: Path) -> list[str]:
    return [plain(label) for label in re.findall(r'<svg role="img" aria-label="([^"]*)"', page.read_text("utf-8"))]


# -- the guarantee


def results(privacy: dict[str, Any] | None = None, method: str = "hierarchical") -> Results:
    block = None if privacy is None else Privacy.model_validate(privacy)
    return Results.model_construct(method=method, releases_per_image=6, privacy=block)


def test_without_noise_it_says_plainly_that_there_is_no_guarantee():
    said = guarantee(results())
    assert not said.exists
    assert said.headline == "There is no guarantee: feature maps were sent without noise."
    assert ("Releases", "6 of an image at most") in said.facts


def test_without_noise_the_privacy_block_may_be_that_of_an_unprotected_ledger(privacy_block):
    block = privacy_block(mechanism="none", epsilon=None, vector_epsilon=None, epsilon_total=None, sigma=None)
    assert not guarantee(results(privacy=block)).exists


def test_uploaded_images_have_no_guarantee_either():
    assert "the images themselves were uploaded" in guarantee(results(method="upload")).headline
    assert "Nothing was sent" in guarantee(results(method="local")).headline


def test_a_guarantee_is_told_with_its_limits(privacy_block):
    said = guarantee(results(privacy=privacy_block()))
    everything = plain(" ".join([said.headline, *said.sentences]))
    assert said.exists
    assert "ε = 4, δ = 10⁻⁵ each time" in everything
    assert "at most 98.3 %" in everything and "the limit is lower: 67.7 %" in everything
    uncovered = " ".join(said.not_covered)
    for left_open in ("label, which is sent in clear", "front's weights", "An id is", "floating-point", "one person"):
        assert left_open in uncovered
    assert "times, and each time reveals more" not in everything


@pytest.mark.parametrize(
    ("front", "covered", "left_open"),
    [
        ("trained", False, "they learned from the images"),
        ("frozen", True, ""),
        ("given", False, "the run that trained"),
    ],
)
def test_what_the_fronts_weights_reveal_follows_what_they_learned(privacy_block, front, covered, left_open):
    said = guarantee(results(privacy=privacy_block(front=front)))
    assert any("learned nothing from these images" in line for line in said.covered) == covered
    of_weights = [line for line in said.not_covered if "front's weights" in line]
    assert len(of_weights) == (not covered) and all(left_open in line for line in of_weights)


@pytest.mark.parametrize(("tight", "protected"), [(0.98, True), (0.995, False)])
def test_protected_is_said_where_the_limit_of_an_attacker_says_something(privacy_block, tight, protected):
    block = privacy_block(vector_epsilon=92.0, attribute_bound=1.0, tight_attribute_bound=tight)
    headline = guarantee(results(privacy=block)).headline
    assert ("is protected" in headline) == protected
    assert ("too little for a useful guarantee" in headline) != protected
    assert guarantee(results(privacy=block)).limits == protected


def test_what_is_sent_too_often_is_not_called_protected(privacy_block):
    """One release of a limit of 90 % is something; twenty together say as good as nothing."""
    once = {"attribute_bound": 0.99, "tight_attribute_bound": 0.9, "vector_epsilon": 5.0}
    said = guarantee(results(privacy=privacy_block(**once, releases_max=1, vector_epsilon_total=5.0)))
    assert "is protected" in said.headline and said.limits
    said = guarantee(results(privacy=privacy_block(**once, releases_max=20, vector_epsilon_total=40.0)))
    assert "too little for a useful guarantee" in said.headline and "too often" in said.headline and not said.limits
    said = guarantee(results(privacy=privacy_block(**once, releases_max=2, vector_epsilon_total=10.0)))
    assert "An attacker that sees all of them is limited to 98.0 %." in plain(" ".join(said.sentences)) and said.limits


@pytest.mark.parametrize(("epsilon", "verb"), [(2.0, "is protected with"), (6.0, "has noise of")])
def test_a_number_of_a_map_is_not_called_protected_by_a_large_epsilon_either(privacy_block, epsilon, verb):
    block = privacy_block(
        mechanism="laplace", granularity="element", epsilon=epsilon, delta=0.0, vector_epsilon=128 * epsilon,
        vector_epsilon_total=128 * epsilon, attribute_bound=1.0, tight_attribute_bound=1.0,
    )  # fmt: skip
    assert verb in guarantee(results(privacy=block)).headline


def test_several_releases_are_told_by_their_sum(privacy_block):
    block = privacy_block(releases_max=10, vector_epsilon_total=14.2, delta_total=1e-5)
    everything = plain(" ".join(guarantee(results(privacy=block)).sentences))
    assert "up to 10 times, and each time reveals more. All times together have ε = 14.2, δ = 10⁻⁵." in everything
    limit = 1 - (2 - 2 * block["tight_attribute_bound"]) ** 10 / 2  # of ten releases; lower than that of ε = 14.2
    assert f"An attacker that sees all of them is limited to {100 * limit:.1f} %" in everything
    assert limit < attribute_bound(14.2, 1e-5)


def test_element_granularity_is_never_told_without_the_whole_vector(privacy_block):
    block = privacy_block(
        mechanism="laplace", granularity="element", epsilon=1.0, delta=0.0, vector_epsilon=128.0,
        vector_epsilon_total=128.0, attribute_bound=1.0, tight_attribute_bound=1.0,
    )  # fmt: skip
    said = guarantee(results(privacy=block))
    everything = plain(" ".join([said.headline, *said.sentences]))
    assert "an image is not" in said.headline
    assert "ε = 128: hardly any protection" in everything
    assert "there is no useful limit" in everything
    assert ("… whole feature map", "ε = 128") in [(name, plain(fact)) for name, fact in said.facts]


def test_noise_on_training_images_alone_and_randomised_labels(privacy_block):
    block = privacy_block(apply_to="training", labels="randomised", label_epsilon=2.0, epsilon_with_label=6.0)
    said = guarantee(results(privacy=block))
    assert said.headline.startswith("Every training image")
    assert any("without noise" in sentence for sentence in said.sentences)
    assert "randomised response with ε = 2" in said.not_covered[0]
    assert ("Label", "ε = 2; with it ε = 6, δ = 10⁻⁵") in [(name, plain(fact)) for name, fact in said.facts]


# -- what attackers read


@pytest.fixture
def leaks_of(attribute: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """``leaks_of(masculine=attribute(0.66))`` → what is read of these attributes."""

    def read(bound: float | None = None, **attributes: Any) -> list[Leak]:
        blocks = {name: AttributeBlock.model_validate(block) for name, block in attributes.items()}
        return read_leaks(example_audit(attributes=blocks, dp=noise_test(attribute_bound=bound)))

    return read


HOW = {"sent": True, "protected": True, "guaranteed": False}


def test_a_deep_attacker_that_was_cut_short_and_a_column_without_an_attack_leave_it_open(leaks_of, attribute):
    short = attribute(0.66)
    short["attacks"]["deep"]["finished"] = 0
    verdict = judge(leaks_of(masculine=short), **HOW)
    assert (verdict.tone, verdict.word) == ("open", "not shown") and "cut every deep attacker short" in verdict.headline
    short["attacks"]["deep"]["finished"] = 1
    assert judge(leaks_of(masculine=short), **HOW).word == "hidden"
    verdict = judge(leaks_of(masculine=attribute(0.66)), **HOW, unread=["young"])
    assert (verdict.tone, verdict.word) == ("open", "not shown")
    assert "hides young: no attack on it was made" in verdict.headline


def test_columns_without_an_attack_are_found(attribute):
    audit = example_audit(
        attributes={"masculine": AttributeBlock.model_validate(attribute(0.66)), "hat": attribute_block(None)},
        audited=example_audit().audited.model_copy(update={"sensitive": ("masculine", "young", "hat", "identity")}),
    )
    assert audit.unread == ("young", "hat")


@pytest.mark.parametrize(
    ("best", "floor", "undefended", "word"),
    [
        (0.674, 0.645, 0.93, "hidden"),  # within 3 points of the label floor
        (0.676, 0.645, 0.93, "partly hidden"),
        (0.528, 0.41, 0.93, "hidden"),  # a floor below chance: chance counts
        (0.92, 0.645, 0.93, "not hidden"),
        (0.92, 0.645, None, "not hidden"),
        (0.80, 0.645, None, "not hidden"),  # nothing known of the undefended front: no credit
    ],
)
def test_the_verdict_follows_the_best_attack(best, floor, undefended, word, leaks_of, attribute):
    verdict = judge(leaks_of(masculine=attribute(best, floor=floor, undefended=undefended)), **HOW)
    assert verdict.word == word
    assert f"{100 * best:.1f} %" in plain(verdict.headline)


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.48, 0.76), "not shown"), ((0.645, 0.9), "not shown"), ((0.65, 0.9), "partly hidden"), (None, "partly hidden")],
)
def test_what_the_choice_of_test_images_explains_is_no_verdict(interval, word, leaks_of, attribute):
    (leak,) = leaks_of(masculine=attribute(0.70, floor=0.645, undefended=0.93))
    verdict = judge([dataclasses.replace(leak, interval=interval, training_image=None)], **HOW)
    assert verdict.word == word
    assert word != "not shown" or (verdict.tone == "open" and "interval begins at" in verdict.headline)


def test_the_worst_sensitive_attribute_is_judged_and_no_other(leaks_of, attribute):
    leaks = leaks_of(
        glasses=attribute(0.53, floor=0.52),
        masculine=attribute(0.80),
        beard=attribute(0.99, floor=0.5, sensitive=False),
        smile=attribute(0.97, floor=0.5, sensitive=False, desired=True),
    )
    assert [leak.name for leak in leaks] == ["masculine", "glasses", "beard", "smile"]
    verdict = judge(leaks, **HOW)
    assert "hides masculine in part" in verdict.headline
    assert "beard" not in " ".join([verdict.headline, *verdict.sentences])


def test_without_sensitive_attributes_the_others_are_judged(leaks_of, attribute):
    leaks = leaks_of(beard=attribute(0.93, sensitive=False), smile=attribute(0.99, sensitive=False, desired=True))
    assert "does not hide beard" in judge(leaks, **HOW).headline


def test_what_was_not_attacked_is_not_called_hidden(leaks_of, attribute):
    assert judge([], **HOW).word == "not audited"
    assert leaks_of(masculine={**attribute(0.6), "best": None}) == []
    assert judge([], **{**HOW, "sent": False}).word == "nothing sent"


def test_limits_of_all_attackers_are_lines_only_where_they_limit(leaks_of, attribute):
    (leak,) = leaks_of(0.982, a=attribute(0.6, dp_bound=0.677))
    assert leak.lines[-2:] == [("DP bound", 0.982), ("noise bound", 0.677)]
    (leak,) = leaks_of(0.982, a=attribute(0.6, dp_bound=0.982))
    assert leak.bound == 0.982 and leak.noise_bound is None
    (leak,) = leaks_of(0.9999, a=attribute(0.6, dp_bound=0.9999))
    assert leak.bound is None and leak.noise_bound is None
    (leak,) = leaks_of(0.982, a=attribute(0.6, dp_bound=None))  # more than two classes
    assert leak.bound is None and leak.noise_bound is None


def test_who_holds_all_of_a_training_image_counts_where_that_reads_more(leaks_of, attribute):
    together = {**attribute(0.81)["best"], "attack": "mlp", "ci95": [0.79, 0.83]}
    leaks = leaks_of(a=attribute(0.66, training_image=together))
    assert (leaks[0].best, leaks[0].by) == (0.66, "deep"), "which the bounds limit"
    assert (leaks[0].worst.value, leaks[0].worst.name, leaks[0].worst.interval) == (0.81, "mlp", (0.79, 0.83))
    verdict = judge(leaks, **HOW)
    assert verdict.word == "partly hidden" and "81.0 %" in plain(verdict.headline)
    (leak,) = leaks_of(a=attribute(0.66, training_image={**together, "balanced_accuracy": 0.64}))
    assert (leak.worst.value, leak.worst.name) == (0.66, "deep")


def test_nothing_counts_as_hidden_by_weak_attackers_or_on_few_images(leaks_of, attribute):
    weak = attribute(0.66)
    del weak["attacks"]["deep"]
    verdict = judge(leaks_of(masculine=weak), **HOW)
    assert (verdict.tone, verdict.word) == ("open", "not shown") and "no deep attacker" in verdict.headline
    few = attribute(0.66)
    few["best"]["ci95"] = [0.58, 0.74]
    verdict = judge(leaks_of(masculine=few), **HOW)
    assert (verdict.tone, verdict.word) == ("open", "not shown") and "74.0 %" in plain(verdict.headline)


@pytest.mark.parametrize(
    ("best", "floor", "undefended", "word"),
    [
        (0.02, 0.002, 0.9, "partly hidden"),  # one of 500 people, read ten times as often as by guessing
        (0.0025, 0.002, 0.9, "hidden"),
        (0.525, 0.50, 0.53, "not hidden"),  # nearly all that there was to hide
        (0.505, 0.50, 0.53, "hidden"),
    ],
)
def test_the_margin_is_a_share_of_what_there_is_to_hide(best, floor, undefended, word, leaks_of, attribute):
    block = attribute(best, floor=floor, undefended=undefended, chance=min(0.5, floor))
    block["best"]["ci95"] = [best, best]
    assert judge(leaks_of(a=block), **HOW).word == word


@pytest.mark.parametrize(
    ("lower", "sharper", "claimed", "tone", "says"),
    [
        (2.31, None, 4.0, "good", "ε ≥ 2.31 (confidence 99.9 %), which is consistent with the ε = 4 claimed"),
        (2.31, 3.4, 4.0, "good", "ε ≥ 3.4 (confidence 99.9 %), which is consistent"),
        (4.2, None, 4.0, "bad", "The guarantee is refuted: ε = 4 is claimed. An attack"),
        (2.31, 4.2, 4.0, "bad", "The guarantee is refuted: ε = 4 is claimed. An attack"),
        (7.1, None, None, "open", "No ε is claimed"),
    ],
)
@pytest.mark.parametrize("control", [8.2, 3.9])
def test_the_attack_on_epsilon_is_held_against_the_claim(lower, sharper, claimed, tone, says, control):
    block = noise_test(
        epsilon_lower_bound=lower, epsilon_lower_bound_gaussian=sharper, epsilon_claimed=claimed,
        confidence=0.999, control_without_noise=control,
    )  # fmt: skip
    found, sentences = epsilon_words(block)
    said = plain(" ".join(sentences))
    assert found == tone and says in said
    if tone == "good":
        assert ("would have noticed missing noise" in said) == (control > 4)
        assert ("cannot test a claim this large" in said) == (control < 4)
    assert epsilon_words(noise_test(epsilon_claimed=claimed)) == ("open", [])


def test_membership_is_told_in_words():
    def told(**shares: float) -> list[str]:
        one = membership().any
        found = {name: one.model_copy(update={"balanced_accuracy": share}) for name, share in shares.items()}
        return membership_words(Membership(**{"same_label": None, **found}))

    (sure,) = told(any=0.98)
    assert "98.0 %" in plain(sure) and "can tell whether it was sent" in sure
    (unsure,) = told(any=0.52, same_label=0.51)
    assert "hardly shows which image" in unsure and "51.0 %" in plain(unsure)


# -- the pages


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


# -- the certificate


def certified(bound: float, *, needed: bool | None = None) -> Leak:
    block = attribute_block(0.66).model_copy(update={"full_depth_needed": needed})
    (leak,) = read_leaks(example_audit(attributes={"masculine": block}))
    return dataclasses.replace(leak, certified=bound)


def test_a_certificate_is_said_beside_the_attacks_and_ends_the_doubt_of_a_stronger_attacker():
    def words(leak: Leak) -> str:
        return plain(" ".join(judge([leak], sent=True, protected=True, guaranteed=False).sentences))

    said = words(certified(0.687))
    assert "No attacker that has one release exceeds 68.7 % on masculine" in said
    assert "from one release of a new image no more than the certificate says" in said
    assert "no guarantee rules it out" not in said
    assert "were not trained" not in said
    assert "So attackers of full depth were not trained" in words(certified(0.67, needed=False))


@pytest.mark.parametrize(("needed", "doubted"), [(None, True), (True, True), (False, False)])
def test_without_a_deep_attacker_hidden_is_doubted_unless_none_was_needed(needed, doubted):
    leak = dataclasses.replace(
        certified(0.66, needed=needed), best=0.646, attacks=[AttackResult("linear", 0.646, None)]
    )
    assert any("no deep attacker" in doubt for doubt in leak.doubts) == doubted


def test_all_kinds_of_attackers_are_in_one_table():
    one, other = certified(0.7), dataclasses.replace(certified(0.7), attacks=[AttackResult("linear", 0.6, None)])
    assert kinds_of([one, other]) == [("deep", [0.66, None]), ("linear", [None, 0.6])]
