"""What attackers read, judged and in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from audit_example import attribute, attribute_block, example_audit, membership, noise_test
from plain_text import plain

from smartedge.artifacts.attacks import AttributeBlock, Membership
from smartedge.lab.judging.leakage import (
    AttackResult,
    Leak,
    epsilon_words,
    judge,
    kinds_of,
    membership_words,
    read_leaks,
)
from smartedge.lab.judging.verdict import Verdict


def leaks_of(bound: float | None = None, **attributes: Any) -> list[Leak]:
    """``leaks_of(masculine=attribute(0.66))``: what is read of these attributes."""
    blocks = {name: AttributeBlock.model_validate(block) for name, block in attributes.items()}
    return read_leaks(example_audit(attributes=blocks, dp=noise_test(attribute_bound=bound)))


HOW = {"sent": True, "protected": True, "guaranteed": False}


def test_a_deep_attacker_that_was_cut_short_and_a_column_without_an_attack_leave_it_open():
    short = attribute(0.66)
    short["attacks"]["deep"]["finished"] = 0
    verdict = judge(leaks_of(masculine=short), **HOW)
    assert (verdict.tone, verdict.word) == ("open", "not shown") and "cut every deep attacker short" in verdict.headline
    short["attacks"]["deep"]["finished"] = 1
    assert judge(leaks_of(masculine=short), **HOW).word == "hidden"
    verdict = judge(leaks_of(masculine=attribute(0.66)), **HOW, unread=["young"])
    assert (verdict.tone, verdict.word) == ("open", "not shown")
    assert "hides young: no attack on it was made" in verdict.headline


def test_columns_without_an_attack_are_found():
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
def test_the_verdict_follows_the_best_attack(best, floor, undefended, word):
    verdict = judge(leaks_of(masculine=attribute(best, floor=floor, undefended=undefended)), **HOW)
    assert verdict.word == word
    assert f"{100 * best:.1f} %" in plain(verdict.headline)


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.48, 0.76), "not shown"), ((0.645, 0.9), "not shown"), ((0.65, 0.9), "partly hidden"), (None, "partly hidden")],
)
def test_what_the_choice_of_test_images_explains_is_no_verdict(interval, word):
    (leak,) = leaks_of(masculine=attribute(0.70, floor=0.645, undefended=0.93))
    verdict = judge([dataclasses.replace(leak, interval=interval, training_image=None)], **HOW)
    assert verdict.word == word
    if word == "not shown":
        begins = f"The 95 % interval begins at {100 * interval[0]:.1f} %."
        assert verdict.tone == "open" and plain(verdict.headline).endswith(begins)


def test_the_worst_sensitive_attribute_is_judged_and_no_other():
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


def test_without_sensitive_attributes_the_others_are_judged():
    leaks = leaks_of(beard=attribute(0.93, sensitive=False), smile=attribute(0.99, sensitive=False, desired=True))
    assert "does not hide beard" in judge(leaks, **HOW).headline


def test_what_was_not_attacked_is_not_called_hidden():
    assert judge([], **HOW).word == "not audited"
    assert leaks_of(masculine={**attribute(0.6), "best": None}) == []
    assert judge([], **{**HOW, "sent": False}).word == "nothing sent"


def test_every_figure_of_an_attribute_is_in_its_place():
    figures = attribute(0.66, floor=0.61, undefended=0.91, chance=0.52, training_image=attribute(0.71)["best"])
    figures["best"] |= {"auroc": 0.72, "ci95": [0.63, 0.69]}
    figures["attacks"]["mlp"]["ci95"] = [0.62, 0.67]
    (leak,) = leaks_of(a=figures)
    assert (leak.best, leak.auroc, leak.interval, leak.by) == (0.66, 0.72, (0.63, 0.69), "deep")
    assert (leak.undefended, leak.floor, leak.chance) == (0.91, 0.61, 0.52)
    assert leak.prediction_floor == pytest.approx(0.604, abs=1e-9)
    assert [attack.name for attack in leak.attacks] == ["deep", "mlp", "trees", "linear"]
    assert (leak.attacks[1].value, leak.attacks[1].interval) == (pytest.approx(0.64), (0.62, 0.67))
    assert leak.training_image == AttackResult("deep", 0.71, pytest.approx((0.689, 0.731)))
    assert (leak.sensitive, leak.desired, leak.certified, leak.full_depth_needed) == (True, False, None, None)
    assert [name for name, _ in leak.lines] == ["chance", "label floor", "prediction floor", "undefended, best"]
    assert [value for _, value in leak.lines] == [0.52, 0.61, leak.prediction_floor, 0.91]
    (leak,) = leaks_of(a=attribute(0.6, undefended=None, floor=0.5, sensitive=False, desired=True))
    assert (leak.undefended, leak.sensitive, leak.desired, leak.unavoidable) == (None, False, True, 0.5)


def test_the_attribute_that_is_in_doubt_is_the_one_that_is_named():
    """The worst hidden one was attacked by a deep network, the other one was not."""
    weak = attribute(0.65)
    del weak["attacks"]["deep"]
    few = attribute(0.64)
    few["best"]["ci95"] = [0.5, 0.8]
    verdict = judge(leaks_of(masculine=attribute(0.66), glasses=weak, young=few), **HOW)
    assert verdict.headline.startswith("It is not shown that what was sent hides glasses and young: no deep attacker")
    assert plain(verdict.sentences[0]).startswith("So far, the best attacker reads glasses with 65.0 % balanced")


def test_limits_of_all_attackers_are_lines_only_where_they_limit():
    (leak,) = leaks_of(0.982, a=attribute(0.6, dp_bound=0.677))
    assert leak.lines[-2:] == [("DP bound", 0.982), ("noise bound", 0.677)]
    (leak,) = leaks_of(0.982, a=attribute(0.6, dp_bound=0.982))
    assert leak.bound == 0.982 and leak.noise_bound is None
    (leak,) = leaks_of(0.9999, a=attribute(0.6, dp_bound=0.9999))
    assert leak.bound is None and leak.noise_bound is None
    (leak,) = leaks_of(0.982, a=attribute(0.6, dp_bound=None))  # more than two classes
    assert leak.bound is None and leak.noise_bound is None


def test_who_holds_all_of_a_training_image_counts_where_that_reads_more():
    together = {**attribute(0.81)["best"], "attack": "mlp", "ci95": [0.79, 0.83]}
    leaks = leaks_of(a=attribute(0.66, training_image=together))
    assert (leaks[0].best, leaks[0].by) == (0.66, "deep"), "which the bounds limit"
    assert (leaks[0].worst.value, leaks[0].worst.name, leaks[0].worst.interval) == (0.81, "mlp", (0.79, 0.83))
    verdict = judge(leaks, **HOW)
    assert verdict.word == "partly hidden" and "81.0 %" in plain(verdict.headline)
    (leak,) = leaks_of(a=attribute(0.66, training_image={**together, "balanced_accuracy": 0.64}))
    assert (leak.worst.value, leak.worst.name) == (0.66, "deep")


def test_nothing_counts_as_hidden_by_weak_attackers_or_on_few_images():
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
def test_the_margin_is_a_share_of_what_there_is_to_hide(best, floor, undefended, word):
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


DEEP = (
    "masculine: 66.0 % balanced accuracy (95 % interval 63.9 % to 68.1 %) by 'deep', the best of 4 kinds of attacker."
)
BESIDE = (
    "For comparison: {}92.8 % from the undefended front, 63.9 % from the edge's answer alone, "
    "64.5 % from the true desired label alone, 50.0 % by guessing."
)
PARTLY = "hides masculine in part: {}, 45 % of the way down from the undefended front (92.8 %)."
TRIED = "These are the best of the attackers that were tried. A stronger attacker may read more"
READS = (
    "the best attacker reads masculine with 66.0 % balanced accuracy, "
    "1.5 points above what the desired label alone gives away (64.5 %)."
)


def words(verdict: Verdict) -> list[str]:
    return [plain(text) for text in (verdict.tone, verdict.word, verdict.headline, *verdict.sentences)]


def test_a_verdict_is_told_whole():
    hidden = leaks_of(masculine=attribute(0.66))
    table = [f"{DEEP} {BESIDE.format('')}", f"{TRIED}: no guarantee rules it out."]
    said = f"What was sent hides masculine from the attackers that were tried: {READS}"
    assert words(judge(hidden, **HOW)) == ["good", "hidden", said, *table]
    *_, last = words(judge(hidden, **{**HOW, "guaranteed": True}))
    assert last == f"{TRIED}. Only the guarantee holds for all attackers."

    said = "It is not shown that what was sent hides young and hat: no attack on it was made."
    assert words(judge(hidden, **HOW, unread=["young", "hat"])) == [
        "open", "not shown", said, f"Of what was attacked, {READS}", *table,
    ]  # fmt: skip

    doubtful = [dataclasses.replace(leak, attacks=leak.attacks[1:]) for leak in hidden]
    said = "no deep attacker was tried (deep, fine-tuned or posterior)"
    assert words(judge(doubtful, **HOW)) == [
        "open", "not shown", f"It is not shown that what was sent hides masculine: {said}.", f"So far, {READS}",
        *(text.replace("of 4", "of 3") for text in table),
    ]  # fmt: skip

    together = {**attribute(0.5)["best"], "attack": "mlp"}
    more = leaks_of(masculine=attribute(0.66, training_image=together))
    other = BESIDE.format("50.0 % by an attacker with everything sent about a training image, ")
    assert words(judge(more, **HOW))[3] == f"{DEEP} {other}"


@pytest.mark.parametrize(
    ("best", "how", "tone", "word", "said"),
    [
        (
            0.80,
            {},
            "open",
            "partly hidden",
            PARTLY,
        ),
        (0.92, {}, "bad", "not hidden", "does not hide masculine: {}."),
        (0.92, {"protected": False}, "bad", "unprotected", "does not hide masculine: {}."),
    ],
)
def test_a_verdict_on_what_is_read_is_told_whole(best, how, tone, word, said):
    reads = f"the best attacker reads masculine with {100 * best:.1f} % balanced accuracy"
    reads += f", {100 * (best - 0.645):.1f} points above what the desired label alone gives away (64.5 %)"
    found = words(judge(leaks_of(masculine=attribute(best)), **{**HOW, **how}))
    assert found[:3] == [tone, word, f"What was sent {said.format(reads)}"]


def test_a_verdict_without_attackers_is_told_whole():
    assert words(judge([], **{**HOW, "sent": False})) == ["good", "nothing sent", "Nothing left the edge."]
    assert words(judge([], **HOW)) == [
        "open",
        "not audited",
        "No attacker of attributes has been tried on what this run sent.",
        "Without an audit nobody knows what is hidden. 'smartedge audit RUN' trains such attackers.",
    ]


def test_several_attributes_are_named_and_three_of_them_told():
    """All of them are within 3 points of guessing, so all are hidden."""
    found = {name: attribute(0.5 + 0.005 * place, floor=0.5) for place, name in enumerate("abcd", start=1)}

    def said(*names: str) -> list[str]:
        return words(judge(leaks_of(**{name: found[name] for name in names}), **HOW))[2:]

    last = "the best attacker reads d with 52.0 % balanced accuracy, 2.0 points above what guessing gives (50.0 %)."
    for names, told in (("d", "d"), ("cd", "d and c"), ("bcd", "d, c and b"), ("abcd", "all 4 attributes")):
        headline, *sentences = said(*names)
        assert headline == f"What was sent hides {told} from the attackers that were tried: {last}"
        more = ["The table below shows all audited attributes."] if len(names) == 4 else []
        assert [text.partition(":")[0] for text in sentences[: -1 - len(more)]] == list("dcb"[: len(names)])
        assert sentences[-1 - len(more) : -1] == more and sentences[-1].startswith(TRIED)
    best, *_ = said("a")
    assert best.endswith("50.5 % balanced accuracy, 0.5 points above what guessing gives (50.0 %).")
    headline = plain(judge(leaks_of(a=attribute(0.5004, floor=0.5)), **HOW).headline)
    assert headline.endswith("with 50.0 % balanced accuracy, no more than guessing gives (50.0 %).")
    desired = leaks_of(d=found["d"], smile=attribute(0.99, sensitive=False, desired=True))
    assert "The table below shows all audited attributes." in judge(desired, **HOW).sentences


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


def test_a_certificate_of_one_attribute_is_none_of_the_other():
    (other,) = leaks_of(glasses=attribute(0.65))
    said = judge([certified(0.687), other], **HOW).sentences
    assert said[-1].endswith("A stronger attacker may read more: no guarantee rules it out.")


@pytest.mark.parametrize(("needed", "doubted"), [(None, True), (True, True), (False, False)])
def test_without_a_deep_attacker_hidden_is_doubted_unless_none_was_needed(needed, doubted):
    leak = dataclasses.replace(
        certified(0.66, needed=needed), best=0.646, attacks=[AttackResult("linear", 0.646, None)]
    )
    assert any("no deep attacker" in doubt for doubt in leak.doubts) == doubted


def test_all_kinds_of_attackers_are_in_one_table():
    one, other = certified(0.7), dataclasses.replace(certified(0.7), attacks=[AttackResult("linear", 0.6, None)])
    assert kinds_of([one, other]) == [("deep", [0.66, None]), ("linear", [None, 0.6])]
