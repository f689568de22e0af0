"""The guarantee of a release and its limits, in words for people who do not work on privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smartedge.artifacts.audit import NoiseTest
from smartedge.artifacts.results import Privacy, Results
from smartedge.lab.judging.text import at_most, known, short_number, upper_number
from smartedge.methods.base import get_method
from smartedge.metrics import attribute_bound, rounded_up

__all__ = ["Guarantee", "guarantee", "guarantee_of_noise", "pair"]

# (mechanism, whether noise is per number) → its effect on a feature map, in words
MECHANISMS = {
    ("gaussian", False): "Gaussian noise on the feature map, whose length is clipped",
    ("laplace", False): "Laplace noise on the feature map, whose sum of absolute values is clipped",
    ("laplace", True): "Laplace noise on each number, which is clipped",
    ("randomised-response", False): "one codeword per image, sometimes replaced by a random one",
    ("subset-selection", False): "a random set of codewords per image, which mostly contains the image's own codeword",
}
_LITTLE = 0.95  # a limit of balanced accuracy above this rules out little
_NOTHING = 0.99  # a limit at or above this is not called protection
_WEAK = 10.0  # e^10: the odds of a guess may rise 22 000-fold
_NOT_COVERED = [
    "which image a frame belongs to, how many images there are, when and how often they are sent. An id is the image's "
    "position in the data set: where the data set is sorted by a label (a folder for each class), the id reveals it",
    "several images of one person: the guarantee is for one image, and the ε of several images add up",
    "what is true of people in general: the back learns this whether or not a certain image took part",
    "the last digits of floating-point noise (docs/privacy.md says to what extent)",
]


@dataclass(frozen=True)
class Guarantee:
    """The guarantee against every attacker, however much it knows or computes."""

    exists: bool
    limits: bool  # it keeps attackers of all releases of an image well below certainty
    headline: str
    sentences: list[str]
    covered: list[str]
    not_covered: list[str]
    facts: list[tuple[str, str]]


def guarantee(results: Results) -> Guarantee:
    """Put the block ``privacy`` of ``results.json`` into words.

    Args:
        results: the results of the run. Without the block, as in files of early versions, nothing was protected.
    """
    block = results.privacy
    if not get_method(results.method).has_cloud:
        return Guarantee(False, False, "Nothing was sent, so nothing had to be protected on the link.", [], [], [], [])
    if block is None or not known(block.epsilon):
        return _none(results)
    return _some(block, _labels(block))


def guarantee_of_noise(test: NoiseTest) -> Guarantee:
    """The words for the noise law of features that did not come from a run."""
    if test.epsilon_claimed is None:
        headline = "No guarantee is known: the features were audited as they are, without a noise law."
        return Guarantee(False, False, headline, [], [], [], [])
    vector = pair(test.vector_epsilon, test.delta)
    limited = [bound for bound in (test.attribute_bound, test.noise_bound) if bound is not None]
    bound = _at_most(min(limited, default=1.0))
    sentences = [
        "This holds if the features are released with exactly this clip and noise. An attacker that answers a yes/no "
        f"question about an image from one release has a balanced accuracy of {bound}, whatever the question."
    ]
    facts = [
        ("Mechanism", MECHANISMS[test.mechanism, test.granularity == "element"]),
        ("Releases", f"{test.releases_max} of an image"),
    ]
    headline = f"One release has {vector}, by the noise law that was given."
    limits = bool(limited) and min(_of_all(limit, test.releases_max) for limit in limited) < _NOTHING
    return Guarantee(True, limits, headline, sentences, [], [], facts)


def _none(results: Results) -> Guarantee:
    """The words for features or images that were sent without noise."""
    if get_method(results.method).sends == "images":
        headline = "There is no guarantee: the images themselves were uploaded."
    else:
        headline = "There is no guarantee: feature maps were sent without noise."
    sentences = [
        "Anybody who reads the link or the cloud's log can train any network on what was sent. The audit can measure "
        "how much the attackers that were tried read. It cannot prove that a better attacker reads no more."
    ]
    facts = [("Noise", "none"), ("Releases", f"{results.releases_per_image} of an image at most")]
    return Guarantee(False, False, headline, sentences, [], [], facts)


def _some(block: Privacy, labels: str) -> Guarantee:
    """The words for features that were sent with noise."""
    delta, epsilon, vector = block.delta, block.epsilon, block.vector_epsilon
    weak = vector is None or vector > _WEAK
    total, delta_total, releases = block.vector_epsilon_total, block.delta_total, block.releases_max
    element = block.granularity == "element"
    training_only = block.apply_to == "training"
    bound, tight = block.attribute_bound, block.tight_attribute_bound
    by_epsilon = attribute_bound(math.inf if total is None else total, delta_total)
    together = max(min(bound, tight), min(by_epsilon, _of_all(min(bound, tight), releases)))
    sentences = []
    if element:
        each = math.inf if epsilon is None else epsilon
        verb = "is protected with" if _of_all(attribute_bound(each, delta), releases) < _NOTHING else "has noise of"
        headline = f"Each number of a feature map {verb} ε = {upper_number(epsilon)}; an image is not protected by it."
        sentences.append(
            "But the whole feature map of an image is sent, and for the whole map the noise gives "
            f"{pair(vector, delta)}: {'hardly any protection' if weak else 'this is the figure that counts'}."
        )
    else:
        whom = "Every training image" if training_only else "Every image"
        headline = (
            f"{whom} that was sent is protected: {pair(vector, delta)} each time it is sent."
            if together < _NOTHING
            else f"{whom} that was sent carries noise, but too little for a useful guarantee: "
            f"{pair(vector, delta)} each time it is sent{', too often' if min(bound, tight) < _NOTHING else ''}."
        )
    sentences.append(
        "This means: an attacker tries to answer a yes/no question about an image from the features of one release "
        f"alone. Its balanced accuracy is {_at_most(bound)} (guessing gives 50\N{NO-BREAK SPACE}%). This holds for "
        "every question and every attacker, whatever its network, computer and time."
    )
    if tight < bound - 0.005:
        sentences.append(f"For this mechanism with its settings the limit is lower: {at_most(tight)}.")
    if min(bound, tight) > _LITTLE:
        sentences.append(
            "So high a limit rules out little. The section below shows what attackers did read. Those figures hold for "
            "the attackers that were tried; the limit holds for all attackers."
        )
    if releases > 1:
        sentences.append(
            f"An image was sent up to {releases} times, and each time reveals more. All times together have "
            f"{pair(total, delta_total)}. An attacker that sees all of them is limited to {at_most(together)}."
        )
    sentences.append(
        "Nothing that is done with the features later weakens this: compressing, storing or training on them."
    )
    if training_only:
        sentences.append("Validation images, test images and images offloaded later are sent without noise.")
    covered = [
        "the feature map of every training image"
        + ("" if training_only else ", validation and test image, and of every image offloaded later"),
        "everything computed from it alone: the feature log, and what the back learned from the features",
    ]
    if block.front == "frozen":
        covered.append("the front's weights: they were frozen from the start, and learned nothing from these images")
    left_open = [labels, *_front(block), *_NOT_COVERED]
    return Guarantee(True, together < _NOTHING, headline, sentences, covered, left_open, _facts(block))


def _of_all(limit: float, releases: int) -> float:
    """The limit of an attacker of several releases, from that of one release.

    Releases that are d apart in total variation each are at most 1 − (1 − d)ᵏ apart together; the limit is (1 + d)/2.
    """
    return 1 - (2 - 2 * limit) ** max(1, releases) / 2


def _front(block: Privacy) -> list[str]:
    """What the front's weights reveal."""
    if block.front == "frozen":
        return []
    if block.front == "given":
        return [
            "the front's weights, which this run did not change: whatever they learned from the images of the run that "
            "trained them",
        ]
    return [
        "the front's weights: they learned from the images without noise, so do not publish them where the training "
        "images are secret. The features of one image also carry a little of the other images that the front learned "
        "from",
    ]


def _facts(block: Privacy) -> list[tuple[str, str]]:
    """The budget, how much of it was spent, and the noise, as (name, value)."""
    element = block.granularity == "element"
    budget = block.epsilon_budget
    facts = [
        ("Mechanism", MECHANISMS[block.mechanism, element]),
        ("One release", pair(block.epsilon, block.delta) + (", per number" if element else "")),
    ]
    if element:
        facts.append(("… whole feature map", pair(block.vector_epsilon, block.delta)))
    facts.append(("Releases", f"{block.releases_max} of an image at most"))
    facts.append(("Spent", pair(block.vector_epsilon_total, block.delta_total) + ", by the image that spent most"))
    if known(budget):
        each = ", per number" if element else ""
        facts.append(("Budget of an image", pair(budget, block.delta_budget) + each))
    if known(block.label_epsilon) and block.label_epsilon > 0:
        facts.append(
            ("Label", f"{pair(block.label_epsilon, 0)}; with it {pair(block.epsilon_with_label, block.delta_total)}")
        )
    for name, value in (("Clipped at", block.clip), ("Noise, deviation", block.sigma), ("Codewords", block.codewords)):
        if known(value):
            facts.append((name, short_number(value)))
    return facts


def _labels(block: Privacy) -> str:
    """How the desired labels were sent."""
    epsilon = block.label_epsilon
    if known(epsilon) and epsilon > 0:
        return (
            f"the desired label, which has randomised response with ε = {upper_number(epsilon)} of its own: "
            "this adds to the ε of the feature map"
        )
    return "the desired label, which is sent in clear with every training image"


def pair(epsilon: float | None, delta: float | None) -> str:
    """``ε = 4, δ = 10⁻⁵``."""
    if not known(epsilon):
        return "no limit"
    text = f"ε = {upper_number(epsilon)}" + (f", δ = {upper_number(delta)}" if delta else "")
    return text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def _at_most(bound: float) -> str:
    return (
        f"at most {at_most(bound)}"
        if rounded_up(bound) < 1
        else "up to 100\N{NO-BREAK SPACE}%, so there is no useful limit"
    )
