"""The verdict on a run in plain words, made from its figures."""

from __future__ import annotations

import math

from smartedge.artifacts.results import Figures, Results
from smartedge.lab.judging.text import count, percent, points, relation, seconds, size, times
from smartedge.lab.judging.verdict import Verdict
from smartedge.lab.report.read import Run
from smartedge.metrics import OffloadingCurve

__all__ = ["margin", "verdict"]

_ADVICE = (
    "Train longer, or with another train.lr. Noise and adversarial exits can keep a front from learning. Both rise "
    "over a share of all steps (dp.warmup, adversary.warmup), so more epochs give the front more time (epochs, or "
    "train.front_epochs where the front is trained first). If that does not help, lower dp.sigma or adversary.weight, "
    "or train a teacher first (train.distill.epochs)."
)
_ENOUGH = 300  # test images: where the back alone is right about none of them, it gains less than a point (3 ÷ images)
_LOPSIDED = 0.02  # a larger loss of balanced accuracy, from favouring the commoner class, gets a sentence


def verdict(run: Run, interval: tuple[float, float] | None, curve: OffloadingCurve | None) -> Verdict:
    """Judge whether sending paid, what it cost, and whether the stages overlapped.

    Args:
        run: the run.
        interval: 95 % interval of the cloud gain in balanced accuracy, where the answers of both heads are known.
        curve: accuracy versus offloading, where the answers of both heads are known.
    """
    results = run.results
    nothing = _nothing_learned(run)
    tone, word, headline, sentences = nothing or _did_sending_pay(run, interval)
    if nothing is None and run.gain is not None and results.privacy is not None and results.privacy.mechanism != "none":
        sentences.append(
            "The exit answers on the edge, from features without noise. The back gets what was released. So a part of "
            "the difference between them is the noise."
        )
    last = results.test.present[run.final]
    adjusted = last.balanced_accuracy_adjusted or 0.0  # not in the results of early versions
    if adjusted > last.balanced_accuracy + _LOPSIDED:
        sentences.append(
            f"The plain answers of the {run.method.heads[run.final]} favour the commoner class. Corrected for "
            f"how common each class is, they reach {percent(adjusted)} balanced accuracy."
        )
    if curve is not None and nothing is None:
        balanced = curve.balanced_accuracy
        best = int(balanced.argmax())
        alone = max(balanced[0], balanced[-1])
        # the best of many thresholds is partly high by chance: it counts only beyond three standard errors
        if balanced[best] > alone + 3 * math.sqrt(alone * (1 - alone) / results.data.test):
            width = margin(results, last.model_copy(update={"balanced_accuracy": balanced[best]}))
            sentences.append(
                f"Exit and back together do better than either. The cloud is asked only about the "
                f"{percent(curve.offloaded_share[best], 0)} of the images that the exit is least sure of; this gives "
                f"{percent(balanced[best])} (± {100 * width:.1f}; threshold chosen on the test images)."
            )
    sent = results.bytes_per_image
    if sent.up > 0:
        jpeg, raw = sent.reference.jpeg_q90, sent.reference.raw_uint8
        text = (
            f"Sending an image once took {size(sent.up)} up and {size(sent.down)} back down. "
            f"The upload is {relation(sent.up, jpeg)} the image as JPEG (quality 90) and "
            f"{relation(sent.up, raw)} its raw pixels."
        )
        if sent.up > jpeg and run.method.sends != "images":
            text += " Uploading the JPEG itself would have been cheaper, but then the images would have left the edge."
        if results.releases_per_image > 1:
            text += f" Every training image was sent {results.releases_per_image} times."
        sentences.append(text)
    busy, wall = run.stage_seconds, results.seconds_per_epoch
    if run.method.has_cloud and max(busy.values()) > 0 and wall > 0:
        slowest = max(busy, key=lambda name: busy[name])
        sentences.append(
            f"An epoch took {seconds(wall)}, {times(wall / busy[slowest])} times its slowest stage "
            f"({slowest}, busy {seconds(busy[slowest])}). One after another, {', '.join(busy)} would have taken "
            f"{seconds(sum(busy.values()))}."
        )
    return Verdict(tone, word, headline, sentences)


def margin(results: Results, figures: Figures) -> float:
    """Half the width of the 95 % interval of a balanced accuracy: what the choice of test images alone can change.

    The normal approximation for recalls of equal variance. Of two classes the rarer one makes it wider.
    """
    right, common = figures.balanced_accuracy, figures.base_rate
    rarer = 4 * common * (1 - common) if len(results.task.names) == 2 and 0 < common < 1 else 1.0
    return 1.96 * math.sqrt(right * (1 - right) / (results.data.test * rarer))


def _nothing_learned(run: Run) -> tuple[str, str, str, list[str]] | None:
    """The verdict where no head is better than guessing; None otherwise. The other figures mean nothing then."""
    results = run.results
    if not results.learned_nothing:
        return None
    best = max(figures.balanced_accuracy for figures in results.test.present.values())
    return (
        "bad",
        "nothing learned",
        f"Nothing was learned: {percent(best)} balanced accuracy on {count(results.data.test)} test images is no "
        f"better than guessing, which gives {percent(results.chance)}.",
        [_ADVICE],
    )


def _did_sending_pay(run: Run, interval: tuple[float, float] | None) -> tuple[str, str, str, list[str]]:
    results = run.results
    reached = percent(results.test.present[run.final].balanced_accuracy)
    if not run.method.has_cloud:
        return "open", "baseline", f"Everything on the edge: {reached} balanced accuracy, and nothing was sent.", []
    if run.gain is None:
        who = run.method.heads[run.final]
        what = "image" if run.method.sends == "images" else "feature map"
        return (
            "open",
            "baseline",
            f"The {who} reached {reached} balanced accuracy.",
            [
                "The exit or the back was not measured on the test images, so there is no cloud gain."
                if run.method.has_exit
                else f"This method has no answer on the edge, so there is no cloud gain: every {what} has to be sent."
            ],
        )
    gain = run.gain["balanced_accuracy"]
    amount = f"{100 * abs(gain):.1f}\N{NO-BREAK SPACE}points"
    if interval is None:
        evidence = "No interval can be given, because the run directory does not hold the answers of both heads."
    else:
        images = count(results.data.test)
        evidence = (
            f"95 % interval {points(interval[0])} to {points(interval[1])} points, from a paired bootstrap over "
            f"{images} test images. It covers the choice of test images only. Repeat the run with other seeds "
            "to see how much training itself varies."
        )
    how = "no better than" if round(100 * gain, 1) == 0 else f"{amount} worse than"
    if interval is None and round(100 * gain, 1) <= 0:
        headline = f"Sending may not have helped on this task: the cloud's back is {how} the edge's own exit."
        return "open", "not shown", headline, [evidence]
    # As the reader sees it. Where the exit is right about a few images, no resampling of them gives more than zero.
    most = None if interval is None else round(100 * interval[1], 1)
    if most is not None and (most < 0 or (most == 0 and results.data.test >= _ENOUGH)):
        headline = f"Sending features did not help on this task: the cloud's back is {how} the edge's own exit."
        return "bad", "did not pay", headline, [evidence]
    if interval is not None and round(100 * interval[0], 1) <= 0:  # as the reader sees it
        if round(100 * gain, 1) <= 0:
            headline = f"It is not shown that sending paid. The cloud's back is {how} the edge's exit."
        else:
            headline = (
                f"It is not shown that sending paid. The cloud's lead of {amount} over the edge's exit may be chance."
            )
        return "open", "not shown", headline, [evidence]
    lead = f"the cloud's back answers {amount} better than the edge's own exit."
    if interval is None:
        return "open", "may have paid", f"Sending may have paid: {lead}", [evidence]
    return "good", "paid", f"Sending paid: {lead}", [evidence]
