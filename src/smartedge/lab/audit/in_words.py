"""The verdict of an audit in a few sentences: the report's judgement, and what limits it."""

from __future__ import annotations

from smartedge.artifacts.audit import Audit
from smartedge.lab.judging.caveats import caveats
from smartedge.lab.judging.guarantee import guarantee_of_noise
from smartedge.lab.judging.leakage import beside, judge, read_leaks, stronger, to_judge

__all__ = ["verdict"]


def verdict(result: Audit) -> str:
    """The judgement about the sensitive attribute that is hidden worst; of all attributes, where none is sensitive."""
    leaks, protected = read_leaks(result), not result.audited.undefended
    if not leaks:
        return "No attack on an attribute was made, so it is not known what the features reveal."
    guaranteed = guarantee_of_noise(result.dp).limits
    judged = judge(leaks, sent=True, protected=protected, guaranteed=guaranteed, unread=result.unread)
    said = [judged.headline, beside(to_judge(leaks)[0])]
    if judged.tone == "good":
        said.append(stronger(to_judge(leaks), guaranteed))
    if result.dp.holds is False:
        said.append("The claimed epsilon is REFUTED by the mechanism's own releases.")
    said += caveats(result)
    if result.skipped:
        said.append("Some attacks were left out or cut short: see 'skipped'.")
    return " ".join(said).replace("\N{NO-BREAK SPACE}", " ")
