"""What limits the figures of an audit, beside what its attackers read."""

from __future__ import annotations

from smartedge.artifacts.audit import Audit, AuditedFeatures

__all__ = ["caveats"]


def caveats(audit: Audit) -> list[str]:
    """Sentences for the end of a verdict."""
    audited, effort, said = audit.audited, audit.settings.stages.get("attributes"), []
    if audited.attackers_images_seen:
        said.append(
            "Its attackers learned from images that the front was trained on; set data.audit_share to keep some apart."
        )
    if effort and effort.undefended_differs and any(block.undefended for block in audit.attributes.values()):
        said.append(f"The undefended run differs in more than its protection: {'; '.join(effort.undefended_differs)}.")
    if isinstance(audited, AuditedFeatures) and audited.persons is None:
        said.append(
            "Who is shown is not known. Where a person has several images, attackers may have recognised the person, "
            "and a certificate holds with less confidence than stated."
        )
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
    if audited.ordered:
        said.append(
            f"The order of the protected images tells something about {' and '.join(audited.ordered)}, and no attacker "
            "looked at it. Who sees the images come in this order may read that, whatever the features hide: put them "
            "in random order."
        )
    return said
