"""How much attackers read from what was sent: the figures of ``audit/audit.json``, judged and put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smartedge.artifacts.attacks import AttackFigures, Membership
from smartedge.artifacts.audit import Audit, NoiseTest
from smartedge.lab.judging.text import at_most, known, lower_number, percent, short_number, upper_number
from smartedge.lab.judging.verdict import Verdict

__all__ = [
    "AttackResult",
    "Leak",
    "beside",
    "epsilon_words",
    "judge",
    "kinds_of",
    "membership_words",
    "read_leaks",
    "stronger",
    "to_judge",
]

# An attribute counts as hidden up to a margin of balanced accuracy above the unavoidable one. The margin is the
# smallest of: this figure, this share of the unavoidable accuracy, and this share of what there was to hide.
_AS_GOOD, _OF_UNAVOIDABLE, _OF_HIDDEN = 0.03, 0.5, 1 / 3
_SURE = 2.0  # an interval that goes beyond so many margins: too few test images to say that it is hidden
_FULL_DEPTH = {"deep", "fine-tuned", "posterior"}  # one of these must be tried before an attribute counts as hidden
_TELLS, _HARDLY_TELLS = 0.9, 0.6  # balanced accuracy of the attack on membership
_NO_BOUND = 0.9995  # a limit at or above this is no limit
_NO_LESS = 0.02  # nothing was hidden where the undefended front is less than this above


@dataclass(frozen=True)
class AttackResult:
    """The best result of one kind of attacker, over its seeds and settings."""

    name: str
    value: float  # balanced accuracy on the protected images
    interval: tuple[float, float] | None  # 95 %
    finished: bool = True  # one of this kind had all of its training


@dataclass(frozen=True)
class Leak:
    """How well attackers read one attribute, as balanced accuracy, and the references to compare with."""

    name: str
    best: float  # of the attackers that see the features of one release
    interval: tuple[float, float] | None
    auroc: float | None
    by: str  # the attack that is best
    attacks: list[AttackResult]  # best first
    training_image: AttackResult | None  # the best attacker that holds everything sent about a training image
    undefended: float | None
    floor: float | None  # from the true desired label alone
    prediction_floor: float | None  # from the exit's answer alone
    chance: float
    bound: float | None  # an upper limit for every attacker of one release, from (ε, δ)
    noise_bound: float | None  # the same limit from the distribution of the noise; None where it is not lower
    sensitive: bool  # the run was to hide it
    desired: bool  # the run learns it, so it is not to be hidden
    certified: float | None  # no attacker of one release exceeds this, with the certificate's confidence
    full_depth_needed: bool | None  # False: the certificate leaves attackers of full depth nothing to find

    @property
    def unavoidable(self) -> float:
        """Balanced accuracy of an attacker that knows only the desired label."""
        return max(self.chance, self.floor or 0.0)

    @property
    def worst(self) -> AttackResult:
        """The better attacker: of one release, or of everything sent about a training image."""
        plain = AttackResult(self.by, self.best, self.interval)
        return max(filter(None, (plain, self.training_image)), key=lambda attack: attack.value)

    @property
    def margin(self) -> float:
        """How far above ``unavoidable`` the attribute still counts as hidden."""
        margin = min(_AS_GOOD, _OF_UNAVOIDABLE * self.unavoidable)
        to_hide = (self.undefended or 0.0) - self.unavoidable
        return min(margin, _OF_HIDDEN * to_hide) if to_hide > 0 else margin

    @property
    def surely_read(self) -> bool:
        """Whether an attacker reads more than is unavoidable, and not only by the choice of test images."""
        interval, value = self.worst.interval, self.worst.value
        return value > self.unavoidable + self.margin and (interval is None or interval[0] > self.unavoidable)

    @property
    def doubts(self) -> list[str]:
        """Reasons why the attribute does not count as hidden, although no attacker tried could read it."""
        found = []
        deep = [attack for attack in self.attacks if attack.name in _FULL_DEPTH]
        if self.full_depth_needed is not False and not deep:
            found.append("no deep attacker was tried (deep, fine-tuned or posterior)")
        elif self.full_depth_needed is not False and not any(attack.finished for attack in deep):
            found.append(f"the time budget cut every deep attacker short ({', '.join(attack.name for attack in deep)})")
        interval = self.worst.interval
        if interval and interval[1] > self.unavoidable + _SURE * self.margin:
            found.append(f"with so few test images it may be up to {percent(interval[1])}")
        return found

    @property
    def lines(self) -> list[tuple[str, float]]:
        """The references that are known, as (name, balanced accuracy)."""
        named = [
            ("chance", self.chance),
            ("label floor", self.floor),
            ("prediction floor", self.prediction_floor),
            ("undefended, best", self.undefended),
            ("no attacker exceeds", self.certified),
            ("DP bound", self.bound),
            ("noise bound", self.noise_bound),
        ]
        return [(name, value) for name, value in named if known(value)]


def read_leaks(audit: Audit) -> list[Leak]:
    """The attributes that were attacked: sensitive ones first, and of these the worst hidden first."""
    leaks = []
    certificate = audit.certificate.one_release if audit.certificate else None
    for name, entry in audit.attributes.items():
        best = entry.best
        if best is None:
            continue
        together = entry.training_image
        bound, noise_bound = _bounds(audit.dp.attribute_bound, entry.dp_bound)
        leaks.append(
            Leak(
                name=name,
                best=best.balanced_accuracy,
                interval=best.ci95,
                auroc=best.auroc,
                by=best.attack,
                attacks=sorted(
                    (_attack(kind, figures, figures.finished) for kind, figures in entry.attacks.items()),
                    key=lambda attack: -attack.value,
                ),
                training_image=_attack(together.attack, together) if together else None,
                undefended=_accuracy(entry.undefended),
                floor=_accuracy(entry.floor),
                prediction_floor=_accuracy(entry.prediction_floor),
                chance=entry.chance,
                bound=bound,
                noise_bound=noise_bound,
                sensitive=entry.sensitive,
                desired=entry.desired,
                certified=certificate.attributes[name].bound
                if certificate and name in certificate.attributes
                else None,
                full_depth_needed=entry.full_depth_needed,
            )
        )
    return sorted(leaks, key=lambda leak: (leak.desired, not leak.sensitive, leak.unavoidable - leak.worst.value))


def limiting(bound: float | None) -> float | None:
    """An upper bound for all attackers; None where it limits nothing."""
    return bound if known(bound) and bound < _NO_BOUND else None


def _bounds(by_epsilon: float | None, by_noise: float | None) -> tuple[float | None, float | None]:
    """The two limits, each None where it limits nothing. Attributes of more than two classes have none."""
    if not known(by_noise):
        return None, None
    bound = limiting(by_epsilon)
    return bound, by_noise if by_noise < (bound or _NO_BOUND) - 0.001 else None


def _attack(name: str, figures: AttackFigures, finished: int | None = None) -> AttackResult:
    """``finished``: how many of this kind had all of their training; None where an earlier version did not say it."""
    return AttackResult(name, figures.balanced_accuracy, figures.ci95, finished != 0)


def _accuracy(figures: AttackFigures | None) -> float | None:
    return figures.balanced_accuracy if figures else None


def to_judge(leaks: Sequence[Leak]) -> list[Leak]:
    """The sensitive attributes, the worst hidden first; where there are none, those that the run did not learn."""
    return [leak for leak in leaks if leak.sensitive] or [leak for leak in leaks if not leak.desired] or list(leaks)


def judge(
    leaks: Sequence[Leak], *, sent: bool, protected: bool, guaranteed: bool, unread: Sequence[str] = ()
) -> Verdict:
    """Judge whether the sensitive content is hidden, by the sensitive attribute that is hidden worst.

    Args:
        leaks: from :func:`read_leaks`; empty where there was no audit.
        sent: whether anything was sent.
        protected: whether the run meant to hide anything (bottleneck, adversarial exits, codewords, noise).
        guaranteed: whether the noise gives a guarantee that limits attackers.
        unread: sensitive columns on which no attack was made.
    """
    if not sent:
        return Verdict("good", "nothing sent", "Nothing left the edge.", [])
    if not leaks:
        return Verdict(
            "open",
            "not audited",
            "No attacker of attributes has been tried on what this run sent.",
            ["Without an audit nobody knows what is hidden. 'smartedge audit RUN' trains such attackers."],
        )
    judged = to_judge(leaks)
    worst = judged[0]
    sentences = [sentence for leak in judged[:3] for sentence in (beside(leak), *_certified(leak))]
    if len(leaks) > min(3, len(judged)):
        sentences.append("The table below shows all audited attributes.")
    sentences.append("These are the best of the attackers that were tried. " + stronger(judged, guaranteed))
    most = worst.worst.value
    if all(leak.worst.value <= leak.unavoidable + leak.margin for leak in judged):
        if doubtful := [leak for leak in judged if leak.doubts]:
            return Verdict(
                "open",
                "not shown",
                f"It is not shown that what was sent hides {_names(doubtful)}: {doubtful[0].doubts[0]}.",
                [f"So far, {_most(doubtful[0])}.", *sentences],
            )
        if unread:
            return Verdict(
                "open",
                "not shown",
                f"It is not shown that what was sent hides {' and '.join(unread)}: no attack on it was made.",
                [f"Of what was attacked, {_most(worst)}.", *sentences],
            )
        return Verdict(
            "good",
            "hidden",
            f"What was sent hides {_names(judged)} from the attackers that were tried: {_most(worst)}.",
            sentences,
        )
    if not any(leak.surely_read for leak in judged) and (reach := worst.worst.interval):
        return Verdict(
            "open",
            "not shown",
            f"It is not shown whether what was sent hides {worst.name}: {_most(worst)}. The 95 % interval begins at "
            f"{percent(reach[0])}.",
            sentences,
        )
    undefended = worst.undefended
    if undefended is not None and most < undefended - _NO_LESS:
        share = (undefended - most) / max(undefended - worst.unavoidable, 1e-9)
        return Verdict(
            "open",
            "partly hidden",
            f"What was sent hides {worst.name} in part: {_most(worst)}, {percent(share, 0)} of the way down from the "
            f"undefended front ({percent(undefended)}).",
            sentences,
        )
    word = "not hidden" if protected else "unprotected"
    return Verdict("bad", word, f"What was sent does not hide {worst.name}: {_most(worst)}.", sentences)


def _names(leaks: Sequence[Leak]) -> str:
    names = [leak.name for leak in leaks]
    if len(names) > 3:
        return f"all {len(names)} attributes"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _most(leak: Leak) -> str:
    above = 100 * (leak.worst.value - leak.unavoidable)
    what = "the desired label alone gives away" if (leak.floor or 0) > leak.chance else "guessing gives"
    how = f"{above:.1f}\N{NO-BREAK SPACE}points above what" if above > 0.05 else "no more than"
    read = f"the best attacker reads {leak.name} with {percent(leak.worst.value)} balanced accuracy"
    return f"{read}, {how} {what} ({percent(leak.unavoidable)})"


def beside(leak: Leak) -> str:
    """What the best attacker reads of one attribute, with all references, in two sentences."""
    text = f"{leak.name}: {percent(leak.best)} balanced accuracy"
    if leak.interval:
        text += f" (95 % interval {percent(leak.interval[0])} to {percent(leak.interval[1])})"
    kinds = len(leak.attacks)
    text += f" by '{leak.by}', " + (
        f"the best of {kinds} kinds of attacker" if kinds > 1 else "the only kind of attacker"
    )
    beside = []
    if leak.training_image is not None:
        beside.append(
            f"{percent(leak.training_image.value)} by an attacker with everything sent about a training image"
        )
    if leak.undefended is not None:
        beside.append(f"{percent(leak.undefended)} from the undefended front")
    if leak.prediction_floor is not None:
        beside.append(f"{percent(leak.prediction_floor)} from the edge's answer alone")
    if leak.floor is not None:
        beside.append(f"{percent(leak.floor)} from the true desired label alone")
    beside.append(f"{percent(leak.chance)} by guessing")
    return text + ". For comparison: " + ", ".join(beside) + "."


def _certified(leak: Leak) -> list[str]:
    """What no attacker exceeds, and what follows for the attackers that were tried."""
    if leak.certified is None:
        return []
    text = (
        f"No attacker that has one release exceeds {at_most(leak.certified)} on {leak.name}, whatever it computes "
        "(95\N{NO-BREAK SPACE}% confidence). This is about images that the front did not learn from, and each person "
        "counts once where persons are known."
    )
    if leak.full_depth_needed is False:
        text += (
            " Counted in this way, it is at most 2 points above an attacker that needs little time. So attackers of "
            "full depth were not trained: with the same confidence they read at most these 2 points more."
        )
    return [text]


def stronger(judged: Sequence[Leak], guaranteed: bool) -> str:
    """Whether an attacker that was not tried may read more."""
    if all(leak.certified is not None for leak in judged):
        return (
            "A stronger attacker may read more, but from one release of a new image no more than the certificate says."
        )
    return "A stronger attacker may read more" + (
        ". Only the guarantee holds for all attackers." if guaranteed else ": no guarantee rules it out."
    )


def kinds_of(leaks: Sequence[Leak]) -> list[tuple[str, list[float | None]]]:
    """Every kind of attacker that was made, with its best result on each attribute; None where it was not made."""
    found = [{attack.name: attack.value for attack in leak.attacks} for leak in leaks]
    names = dict.fromkeys(name for each in found for name in each)
    return [(name, [each.get(name) for each in found]) for name in names]


def membership_words(found: Membership) -> list[str]:
    """Sentences on the attack on membership: can an attacker match a feature map with its image?"""
    share = found.any.balanced_accuracy
    text = (
        "An attacker that knows the front gets a feature map and an image. It tells whether they belong together with "
        f"{percent(share)} balanced accuracy (guessing: 50\N{NO-BREAK SPACE}%)"
    )
    if found.same_label:
        text += f"; with {percent(found.same_label.balanced_accuracy)} where the other image has the same desired label"
    text += "."
    if share > _TELLS:
        text += " So somebody who has an image can tell whether it was sent."
    elif share < _HARDLY_TELLS:
        text += " So a feature map hardly shows which image it was made from."
    return [text]


def epsilon_words(test: NoiseTest) -> tuple[str, list[str]]:
    """The test of the noise itself, as (tone, sentences): does the noise keep its guarantee?"""
    claimed, control = test.epsilon_claimed, test.control_without_noise
    found = [bound for bound in (test.epsilon_lower_bound, test.epsilon_lower_bound_gaussian) if known(bound)]
    if not found or control is None or test.confidence is None:
        return "open", []
    lower = max(found)
    shown = (
        "An attack on the noise itself, with two feature maps as far apart as possible, shows "
        f"ε ≥ {lower_number(lower)} (confidence {short_number(100 * test.confidence)}\N{NO-BREAK SPACE}%)"
    )
    if not known(claimed):
        return "open", [f"{shown}. No ε is claimed, so there is nothing to compare it with."]
    if lower > claimed:
        return "bad", [f"The guarantee is refuted: ε = {upper_number(claimed)} is claimed. {shown}."]
    sentences = [f"{shown}, which is consistent with the ε = {upper_number(claimed)} claimed."]
    if control > claimed:
        sentences.append(
            f"Without noise the same attack finds ε ≥ {lower_number(control)}, so it would have noticed missing noise. "
            "The attack can refute a claim, but it cannot prove one."
        )
    else:
        sentences.append(
            f"But even without noise it finds only ε ≥ {lower_number(control)}, so it cannot test a claim this large."
        )
    return "good", sentences
