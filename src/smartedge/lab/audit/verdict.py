"""The verdict of an audit in a few sentences: the report's judgement, and what limits it."""

from __future__ import annotations

from smartedge.artifacts.audit import Audit, AuditedFeatures
from smartedge.lab.judging.guarantee import guarantee_of_noise
from smartedge.lab.judging.leakage import beside, judge, read_leaks, stronger, to_judge

__all__ = ["verdict"]


def verdict(result: Audit) -> str:
    """The judgement about the sensitive attribute that is hidden worst; of all attributes, where none is sensitive."""
    leaks, audited, effort = read_leaks(result), result.audited, result.settings.stages.get("attributes")
    if not leaks:
        return "No attack on an attribute was made, so it is not known what the features reveal."
    guaranteed = guarantee_of_noise(result.dp).limits
    judged = judge(leaks, sent=True, protected=not audited.undefended, guaranteed=guaranteed, unread=result.unread)
    worst = to_judge(leaks)[0]
    said = [judged.headline, beside(worst)]
    if judged.tone == "good":
        said.append(stronger(to_judge(leaks), guaranteed))
    if result.dp.holds is False:
        said.append("The claimed epsilon is REFUTED by the mechanism's own releases.")
    if audited.attackers_images_seen:
        said.append(
            "Its attackers learned from images that the front was trained on; set data.audit_share to keep some apart."
        )
    if worst.undefended is not None and effort and effort.undefended_differs:
        said.append(f"The undefended run differs in more than its protection: {'; '.join(effort.undefended_differs)}.")
    if isinstance(audited, AuditedFeatures) and audited.copies:
        said.append(
            f"{audited.copies} protected images have exactly the features of an image of another split. If they are "
            "the same images under other names, neither these figures nor a certificate hold: leave them out."
        )
    if isinstance(audited, AuditedFeatures) and audited.rounded and not audited.noise_on_audited_releases:
        said.append(
            "The features have more digits than float32 holds, and attackers saw only these. If more digits are sent, "
            "they may tell more."
        )
    if result.skipped:
        said.append("Some attacks were left out or cut short: see 'skipped'.")
    return " ".join(said).replace("\N{NO-BREAK SPACE}", " ")
