"""The verdict of an audit: one sentence about the sensitive attribute that is hidden worst."""

from __future__ import annotations

from collections.abc import Sequence

from smartedge.artifacts.attacks import AttributeBlock, NamedFigures
from smartedge.artifacts.audit import Audit

__all__ = ["verdict"]

_CLOSE = 0.03  # up to this far above the label floor, the verdict gives no exact distance


def verdict(result: Audit, sensitive: Sequence[str]) -> str:
    """One sentence about the sensitive attribute that is hidden worst; of all attributes, where none is sensitive."""
    found = {name: block for name, block in result.attributes.items() if block.best}
    if not found:
        return "No attack on an attribute was made, so it is not known what the features reveal."
    names = [name for name in found if name in sensitive] or list(found)
    strongest = {name: _strongest(found[name]) for name in names}
    worst = max(names, key=lambda name: strongest[name][1].balanced_accuracy - found[name].floor.balanced_accuracy)
    block = found[worst]
    (attack, figures), floor = strongest[worst], block.floor.balanced_accuracy
    best, (low, high) = figures.balanced_accuracy, figures.ci95
    above = (
        f"{worst}: the best attacker ({attack}) reads it at {_points(best)} balanced accuracy (95 % interval "
        f"{100 * low:.1f} to {_points(high)})"
    )
    plain = f", {_points(block.undefended.balanced_accuracy)} from the undefended front" if block.undefended else ""
    if best <= floor + _CLOSE:
        judgement = (
            f"no more than {100 * _CLOSE:.0f} points above what the desired label alone tells ({_points(floor)})"
        )
    else:
        judgement = f"{100 * (best - floor):.1f} points above what the desired label alone tells ({_points(floor)})"
        judgement += ", which so few test images do not show" if low <= floor else ""
    broken = (
        "" if result.dp.holds in (True, None) else " The claimed epsilon is REFUTED by the mechanism's own releases."
    )
    seen = (
        " Its attackers learned from images that the front was trained on; set data.audit_share to keep some apart."
        if result.audited.attackers_images_seen
        else ""
    )
    effort = result.settings.stages.get("attributes")
    other = (
        f" The undefended run differs in more than its protection: {'; '.join(effort.undefended_differs)}."
        if plain and effort and effort.undefended_differs
        else ""
    )
    found_twice = getattr(result.audited, "copies", None)
    copies = (
        f" {found_twice} protected images have exactly the features of an image of another split. If they are the same "
        "images under other names, neither these figures nor a certificate hold: leave them out."
        if found_twice
        else ""
    )
    short = " Some attacks were left out or cut short: see 'skipped'." if result.skipped else ""
    return f"{above}{plain}: {judgement}.{broken}{seen}{other}{copies}{short}"


def _strongest(block: AttributeBlock) -> tuple[str, NamedFigures]:
    """Name and figures of the best attacker: of one release, or of everything sent about an image."""
    best, more = block.best, block.training_image
    assert best is not None
    if more and more.balanced_accuracy > best.balanced_accuracy:
        return f"{more.attack}, with everything sent about a training image", more
    return best.attack, best


def _points(share: float) -> str:
    return f"{100 * share:.1f} %"
