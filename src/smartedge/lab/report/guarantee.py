"""What a release promises, in words for people who do not work on privacy, and what it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from smartedge.artifacts.results import Privacy, Results
from smartedge.lab.report.text import known, percent, short_number
from smartedge.methods.base import get_method
from smartedge.metrics import attribute_bound

__all__ = ["Guarantee", "guarantee"]

# (mechanism, noise is per number) → what it does to a feature map
MECHANISMS = {
    ("gaussian", False): "Gaussian noise on the feature map, clipped in length",
    ("laplace", False): "Laplace noise on the feature map, clipped in its sum of sizes",
    ("laplace", True): "Laplace noise on each number, clipped in size",
    ("randomised-response", False): "one codeword per image, replaced by a random one now and then",
    ("subset-selection", False): "a random set of codewords per image, which mostly holds its own",
}


@dataclass(frozen=True)
class Guarantee:
    """What holds against every attacker, whatever it knows or computes."""

    exists: bool
    headline: str
    sentences: list[str]
    covered: list[str]
    not_covered: list[str]
    facts: list[tuple[str, str]]


def guarantee(results: Results) -> Guarantee:
    """Put the block ``privacy`` of ``results.json`` into words.

    Args:
        results: of the run; without the block, as early versions wrote them, nothing was protected.
    """
    block = results.privacy
    if not get_method(results.method).has_cloud:
        return Guarantee(False, "Nothing was sent, so nothing had to be protected on the link.", [], [], [], [])
    if block is None or not known(block.epsilon):
        return _none(results)
    return _some(block, _labels(block))


def _none(results: Results) -> Guarantee:
    """Features, or images, that travel as they are."""
    if get_method(results.method).sends == "images":
        headline = "There is no guarantee: the images themselves were uploaded."
    else:
        headline = "There is no guarantee: feature maps were sent without noise."
    sentences = [
        "Whoever reads the link or the cloud's log may train any network on what was sent. How much it gets out is a "
        "matter of measurement, not of proof: an attacker who does better than those tried cannot be ruled out."
    ]
    facts = [("Noise", "none"), ("Releases", f"{results.releases_per_image} of an image at most")]
    return Guarantee(False, headline, sentences, [], [], facts)


def _some(block: Privacy, labels: str) -> Guarantee:
    """Noise of a stated law."""
    delta, epsilon, vector = block.delta, block.epsilon, block.vector_epsilon
    weak = vector is None or vector > _WEAK
    total, delta_total, releases = block.vector_epsilon_total, block.delta_total, block.releases_max
    element = block.granularity == "element"
    training_only = block.apply_to == "training"
    sentences = []
    if element:
        headline = f"Each number of a feature map is protected with ε = {short_number(epsilon)}; an image is not."
        sentences.append(
            "What is sent of an image is the whole feature map, and for that the noise gives "
            f"{_pair(vector, delta)}: {'no protection to speak of' if weak else 'the figure that counts'}."
        )
    else:
        whom = "Every training image" if training_only else "Every image"
        headline = (
            f"{whom} that was sent is protected: {_pair(vector, delta)} each time it is sent."
            if min(block.attribute_bound, block.tight_attribute_bound) < _NOTHING
            else f"{whom} that was sent carries noise, but so little that its guarantee says nothing: "
            f"{_pair(vector, delta)} each time it is sent."
        )
    bound, tight = block.attribute_bound, block.tight_attribute_bound
    sentences.append(
        "What that means: take any yes/no question about an image, and any attacker, with any network, computer and "
        f"time. From the features of one release alone it answers with balanced accuracy {_at_most(bound)} (guessing "
        "gives 50\N{NO-BREAK SPACE}%)."
    )
    if tight < bound - 0.005:
        sentences.append(f"For this mechanism and its setting the limit is in fact lower: {percent(tight)}.")
    if min(bound, tight) > _LITTLE:
        sentences.append(
            "A limit so high rules out little. What attackers do read is measured below; that holds for the attackers "
            "tried, the limit for all."
        )
    if releases > 1:
        limit = attribute_bound(math.inf if total is None else total, delta_total)
        sentences.append(
            f"An image was sent up to {releases} times, and each time tells more: {_pair(total, delta_total)} in all, "
            f"which limits who sees all of it to {percent(limit)}."
        )
    sentences.append(
        "Nothing that is done with it afterwards weakens this: compressing, storing, training, publishing the back."
    )
    if training_only:
        sentences.append("Validation and test images, and images offloaded later, were and will be sent without noise.")
    covered = [
        "the feature map of every training image"
        + ("" if training_only else ", validation and test image, and of every image offloaded later"),
        "what is computed from it alone: the feature log, and the part of the back that comes from the features",
    ]
    return Guarantee(True, headline, sentences, covered, [labels, *_NOT_COVERED], _facts(block))


def _facts(block: Privacy) -> list[tuple[str, str]]:
    """The budget, what was spent of it, and the noise."""
    element = block.granularity == "element"
    budget = block.epsilon_budget
    facts = [
        ("Mechanism", MECHANISMS[block.mechanism, element]),
        ("One release", _pair(block.epsilon, block.delta) + (", per number" if element else "")),
    ]
    if element:
        facts.append(("… whole feature map", _pair(block.vector_epsilon, block.delta)))
    facts.append(("Releases", f"{block.releases_max} of an image at most"))
    facts.append(("Spent", _pair(block.vector_epsilon_total, block.delta_total) + ", by the image that spent most"))
    if known(budget):
        each = ", per number" if element else ""
        facts.append(("Budget of an image", _pair(budget, block.delta_budget) + each))
    if known(block.label_epsilon) and block.label_epsilon > 0:
        facts.append(("Label", f"{_pair(block.label_epsilon, 0)}; with it {_pair(block.epsilon_with_label, 0)}"))
    for name, value in (("Clipped at", block.clip), ("Noise, deviation", block.sigma), ("Codewords", block.codewords)):
        if known(value):
            facts.append((name, short_number(value)))
    return facts


_LITTLE = 0.95  # a limit of balanced accuracy above this rules out little
_NOTHING = 0.99  # from here on a limit is not called protection
_WEAK = 10.0  # e^10: an attacker may be 22 000 times surer than before
_NOT_COVERED = [
    "the front's weights, which learned from the images without noise: not to be published where the training "
    "images are secret; and the little that a front which learned from an image carries into releases of others",
    "which image a frame belongs to, how many images there are, when and how often they are sent; ids are places in "
    "the data set, so where that is sorted by a label (a folder for each class) they tell it",
    "several images of one person: the guarantee is per image, and theirs add up",
    "what is true of people in general: the back learns it, whether or not a given image took part",
    "the last digits of floating-point noise, as far as docs/privacy.md says",
]


def _labels(block: Privacy) -> str:
    """How the desired labels travelled."""
    epsilon = block.label_epsilon
    if known(epsilon) and epsilon > 0:
        return (
            f"the desired label beyond randomised response with ε = {short_number(epsilon)}, "
            "which counts on top of the feature map's"
        )
    return "the desired label, which travels in clear with every training image"


def _pair(epsilon: float | None, delta: float | None) -> str:
    if not known(epsilon):
        return "no limit"
    text = f"ε = {short_number(epsilon)}" + (f", δ = {short_number(delta)}" if delta else "")
    return text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def _at_most(bound: float) -> str:
    return (
        f"at most {percent(bound)}" if round(bound, 3) < 1 else "up to 100\N{NO-BREAK SPACE}%: there is no useful limit"
    )
