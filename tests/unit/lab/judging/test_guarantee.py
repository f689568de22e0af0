"""The guarantee of a release in words."""

from __future__ import annotations

from typing import Any

import pytest
from audit_example import noise_test, privacy_block
from plain_text import plain

from smartedge.artifacts.results import Privacy, Results
from smartedge.lab.judging.guarantee import Guarantee, guarantee, guarantee_of_noise
from smartedge.metrics import attribute_bound


def results(privacy: dict[str, Any] | None = None, method: str = "hierarchical") -> Results:
    block = None if privacy is None else Privacy.model_validate(privacy)
    return Results.model_construct(method=method, releases_per_image=6, privacy=block)


def test_without_noise_it_says_plainly_that_there_is_no_guarantee():
    said = guarantee(results())
    assert not said.exists
    assert said.headline == "There is no guarantee: feature maps were sent without noise."
    assert ("Releases", "6 of an image at most") in said.facts


def test_without_noise_the_privacy_block_may_be_that_of_an_unprotected_ledger():
    block = privacy_block(mechanism="none", epsilon=None, vector_epsilon=None, epsilon_total=None, sigma=None)
    assert not guarantee(results(privacy=block)).exists


def test_uploaded_images_have_no_guarantee_either():
    assert "the images themselves were uploaded" in guarantee(results(method="upload")).headline
    assert "Nothing was sent" in guarantee(results(method="local")).headline


def test_a_guarantee_is_told_with_its_limits():
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
def test_what_the_fronts_weights_reveal_follows_what_they_learned(front, covered, left_open):
    said = guarantee(results(privacy=privacy_block(front=front)))
    assert any("learned nothing from these images" in line for line in said.covered) == covered
    of_weights = [line for line in said.not_covered if "front's weights" in line]
    assert len(of_weights) == (not covered) and all(left_open in line for line in of_weights)


@pytest.mark.parametrize(("tight", "protected"), [(0.98, True), (0.995, False)])
def test_protected_is_said_where_the_limit_of_an_attacker_says_something(tight, protected):
    block = privacy_block(vector_epsilon=92.0, attribute_bound=1.0, tight_attribute_bound=tight)
    headline = guarantee(results(privacy=block)).headline
    assert ("is protected" in headline) == protected
    assert ("too little for a useful guarantee" in headline) != protected
    assert guarantee(results(privacy=block)).limits == protected


def test_what_is_sent_too_often_is_not_called_protected():
    """One release of a limit of 90 % is something; twenty together say as good as nothing."""
    once = {"attribute_bound": 0.99, "tight_attribute_bound": 0.9, "vector_epsilon": 5.0}
    said = guarantee(results(privacy=privacy_block(**once, releases_max=1, vector_epsilon_total=5.0)))
    assert "is protected" in said.headline and said.limits
    said = guarantee(results(privacy=privacy_block(**once, releases_max=20, vector_epsilon_total=40.0)))
    assert "too little for a useful guarantee" in said.headline and "too often" in said.headline and not said.limits
    said = guarantee(results(privacy=privacy_block(**once, releases_max=2, vector_epsilon_total=10.0)))
    assert "An attacker that sees all of them is limited to 98.0 %." in plain(" ".join(said.sentences)) and said.limits


@pytest.mark.parametrize(("epsilon", "verb"), [(2.0, "is protected with"), (6.0, "has noise of")])
def test_a_number_of_a_map_is_not_called_protected_by_a_large_epsilon_either(epsilon, verb):
    block = privacy_block(
        mechanism="laplace", granularity="element", epsilon=epsilon, delta=0.0, vector_epsilon=128 * epsilon,
        vector_epsilon_total=128 * epsilon, attribute_bound=1.0, tight_attribute_bound=1.0,
    )  # fmt: skip
    assert verb in guarantee(results(privacy=block)).headline


def test_several_releases_are_told_by_their_sum():
    block = privacy_block(releases_max=10, vector_epsilon_total=14.2, delta_total=1e-5)
    everything = plain(" ".join(guarantee(results(privacy=block)).sentences))
    assert "up to 10 times, and each time reveals more. All times together have ε = 14.2, δ = 10⁻⁵." in everything
    limit = 1 - (2 - 2 * block["tight_attribute_bound"]) ** 10 / 2  # of ten releases; lower than that of ε = 14.2
    assert f"An attacker that sees all of them is limited to {100 * limit:.1f} %" in everything
    assert limit < attribute_bound(14.2, 1e-5)


def test_releases_whose_sum_has_no_limit_are_limited_by_each_alone():
    said = guarantee(results(privacy_block(releases_max=2, vector_epsilon_total=None)))
    limit = 1 - (2 - 2 * 0.677) ** 2 / 2
    everything = plain(" ".join(said.sentences))
    assert "All times together have no limit." in everything and said.limits
    assert f"An attacker that sees all of them is limited to {100 * limit + 0.05:.1f} %" in everything


def test_element_granularity_is_never_told_without_the_whole_vector():
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


def test_noise_on_training_images_alone_and_randomised_labels():
    block = privacy_block(apply_to="training", labels="randomised", label_epsilon=2.0, epsilon_with_label=6.0)
    said = guarantee(results(privacy=block))
    assert said.headline.startswith("Every training image")
    assert any("without noise" in sentence for sentence in said.sentences)
    assert "randomised response with ε = 2" in said.not_covered[0]
    assert ("Label", "ε = 2; with it ε = 6, δ = 10⁻⁵") in [(name, plain(fact)) for name, fact in said.facts]


def facts(said: Guarantee) -> dict[str, str]:
    return {name: plain(value) for name, value in said.facts}


def test_the_facts_of_a_release_and_of_the_budget():
    block = privacy_block(
        delta=1e-6, delta_total=1e-5, delta_budget=1e-7, vector_epsilon_total=6.0, epsilon_budget=8.0, releases_max=3,
        sigma=None, codewords=16, mechanism="subset-selection",
    )  # fmt: skip
    once = {
        "Mechanism": "a random set of codewords per image, which mostly contains the image's own codeword",
        "One release": "ε = 4, δ = 10⁻⁶",
        "Releases": "3 of an image at most",
        "Spent": "ε = 6, δ = 10⁻⁵, by the image that spent most",
        "Budget of an image": "ε = 8, δ = 10⁻⁷",
        "Clipped at": "11.3",
        "Codewords": "16",
    }
    assert facts(guarantee(results(block))) == once
    assert facts(guarantee(results({**block, "label_epsilon": 0.0}))) == once
    assert "Budget of an image" not in facts(guarantee(results({**block, "epsilon_budget": None})))
    labelled = facts(guarantee(results({**block, "label_epsilon": 1.5, "epsilon_with_label": 7.5})))
    assert labelled == {**once, "Label": "ε = 1.5; with it ε = 7.5, δ = 10⁻⁵"}
    each = {**block, "mechanism": "laplace", "granularity": "element", "vector_epsilon": 64.0, "codewords": None}
    assert facts(guarantee(results({**each, "sigma": 0.2}))) == {
        "Mechanism": "Laplace noise on each number, which is clipped",
        "One release": "ε = 4, δ = 10⁻⁶, per number",
        "… whole feature map": "ε = 64, δ = 10⁻⁶",
        "Releases": "3 of an image at most",
        "Spent": "ε = 6, δ = 10⁻⁵, by the image that spent most",
        "Budget of an image": "ε = 8, δ = 10⁻⁷, per number",
        "Clipped at": "11.3",
        "Noise, deviation": "0.2",
    }
    assert facts(guarantee(results())) == {"Noise": "none", "Releases": "6 of an image at most"}


@pytest.mark.parametrize(
    ("vector", "said"),
    [(4.0, "ε = 4: this is the figure that counts."), (10.1, "ε = 10.1: hardly any protection."),
     (None, "no limit: hardly any protection.")],
)  # fmt: skip
def test_the_whole_map_of_numbers_is_judged_by_its_epsilon(vector, said):
    block = privacy_block(mechanism="laplace", granularity="element", delta=0.0, vector_epsilon=vector)
    sentence = guarantee(results(privacy=block)).sentences[0]
    whole = "But the whole feature map of an image is sent, and for the whole map the noise gives "
    assert plain(sentence) == whole + said


@pytest.mark.parametrize(
    ("bound", "tight", "lower", "little"),
    [(0.9, 0.896, False, False), (0.98, 0.96, True, True), (0.96, 0.94, True, False)],
)
def test_a_high_limit_is_called_one(bound, tight, lower, little):
    block = privacy_block(attribute_bound=bound, tight_attribute_bound=tight)
    sentences = [plain(text) for text in guarantee(results(privacy=block)).sentences]
    assert f"Its balanced accuracy is at most {100 * bound:.1f} % (guessing gives 50 %)." in sentences[0]
    assert (f"For this mechanism with its settings the limit is lower: {100 * tight:.1f} %." in sentences) == lower
    assert any("rules out little" in text for text in sentences) == little


def test_what_the_guarantee_covers_is_told_whole():
    every = "the feature map of every training image"
    computed = "everything computed from it alone: the feature log, and what the back learned from the features"
    rest = ", validation and test image, and of every image offloaded later"
    assert guarantee(results(privacy_block())).covered == [every + rest, computed]
    said = guarantee(results(privacy_block(apply_to="training", label_epsilon=2.0)))
    assert said.covered == [every, computed]
    assert said.not_covered[0] == (
        "the desired label, which has randomised response with ε = 2 of its own: this adds to the ε of the feature map"
    )
    assert guarantee(results(privacy_block(label_epsilon=0.0))).not_covered[0] == (
        "the desired label, which is sent in clear with every training image"
    )


@pytest.mark.parametrize(
    ("limits", "bound", "useful"),
    [
        ((0.982, 0.677), "at most 67.7 %", True),  # three releases: at most 1 − (2 − 2 · 0.677)³ / 2, which is 86.6 %
        ((0.9, None), "at most 90.0 %", False),  # three releases: 99.6 %
        ((None, None), "up to 100 %, so there is no useful limit", False),
    ],
)
def test_the_noise_law_of_features_without_a_run(limits, bound, useful):
    law = {"mechanism": "gaussian", "epsilon_claimed": 3.0, "vector_epsilon": 4.0, "delta": 1e-5, "releases_max": 3}
    said = guarantee_of_noise(noise_test(**law, attribute_bound=limits[0], noise_bound=limits[1]))
    assert (said.exists, said.limits, said.covered, said.not_covered) == (True, useful, [], [])
    assert plain(said.headline) == "One release has ε = 4, δ = 10⁻⁵, by the noise law that was given."
    assert [plain(text) for text in said.sentences] == [
        "This holds if the features are released with exactly this clip and noise. An attacker that answers a yes/no "
        f"question about an image from one release has a balanced accuracy of {bound}, whatever the question."
    ]
    vector = "Gaussian noise on the feature map, whose length is clipped"
    assert facts(said) == {"Mechanism": vector, "Releases": "3 of an image"}
    each = noise_test(**{**law, "mechanism": "laplace", "granularity": "element"})
    assert facts(guarantee_of_noise(each))["Mechanism"] == "Laplace noise on each number, which is clipped"


def test_features_without_a_noise_law_have_no_guarantee():
    headline = "No guarantee is known: the features were audited as they are, without a noise law."
    assert guarantee_of_noise(noise_test()) == Guarantee(False, False, headline, [], [], [], [])
