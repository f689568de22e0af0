"""The privacy section of a run's page: what is guaranteed, what attackers read, and what it looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smartedge.lab.report import attack_plots
from smartedge.lab.report.canvas import Figure
from smartedge.lab.report.gallery import gallery
from smartedge.lab.report.guarantee import guarantee
from smartedge.lab.report.leakage import epsilon_words, judge, membership_words, read_leaks
from smartedge.lab.report.read import Run
from smartedge.lab.report.verdict import Verdict

__all__ = ["privacy_page", "privacy_verdict"]

_DRAWN = 3  # attributes with a figure of their own; more are compared in one figure
_COMPARED = 45
_NOT_ATTACKS = ("originals", "mean_image", "skipped")


def privacy_verdict(run: Run) -> Verdict:
    """Is the sensitive content hidden, as far as attackers were tried?"""
    leaks = read_leaks(run.audit) if run.audit else []
    judged = judge(
        leaks,
        sent=run.results["method"] != "local",
        protected=_protected(run),
        guaranteed=guarantee(run.results).exists,
    )
    tone, sentences = epsilon_words(run.audit["dp"]) if run.audit else ("open", [])
    if tone == "bad":
        return Verdict("bad", "claim refuted", sentences[0], [judged.headline, *judged.sentences])
    return judged


def privacy_page(run: Run) -> dict[str, Any]:
    """What the template ``privacy.html.j2`` shows."""
    audit: Mapping[str, Any] = run.audit or {}
    leaks = read_leaks(audit) if audit else []
    figures: list[Figure] = [attack_plots.attackers(leak) for leak in leaks[:_DRAWN]]
    if len(leaks) > 1:
        figures.append(attack_plots.attributes(leaks[:_COMPARED]))
    reconstruction = audit.get("reconstruction") or {}
    return {
        "verdict": privacy_verdict(run),
        "guarantee": guarantee(run.results),
        "leaks": leaks,
        "bounded": any(leak.bound or leak.noise_bound for leak in leaks),
        "figures": figures,
        "baseline": ((run.results.get("privacy") or {}).get("randomised_response_baseline")),
        "membership": membership_words(audit.get("membership") or {}),
        "epsilon": epsilon_words(audit["dp"])[1] if audit else [],
        "reconstructions": _reconstructions(reconstruction),
        "originals": reconstruction.get("originals"),
        "mean_image": reconstruction.get("mean_image"),
        "read_from_images": _read_from_images(reconstruction),
        "perceptual": _perceptual_name(reconstruction),
        "gallery": gallery([run]),
        "skipped": _skipped(audit),
        "bare_releases": bool(audit) and not audit["run"]["noise_on_audited_releases"],
    }


def _protected(run: Run) -> bool:
    """Whether the run meant to hide anything."""
    return run.audit is not None and not run.audit["run"]["undefended"]


def _reconstructions(block: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(attack, figures), the one whose images are nearest to the originals first."""
    found = [(name, figures) for name, figures in block.items() if name not in _NOT_ATTACKS]
    return sorted(found, key=lambda item: -(item[1]["psnr"] or 0.0))


def _read_from_images(block: Mapping[str, Any]) -> list[str]:
    """The attributes that a classifier reads off the reconstructed images."""
    named = [name for _, figures in _reconstructions(block) for name in figures["sensitive_balanced_accuracy"]]
    return list(dict.fromkeys(named))


def _perceptual_name(block: Mapping[str, Any]) -> str | None:
    for _, figures in _reconstructions(block):
        perceptual = figures.get("perceptual")
        return str(perceptual["name"]) if perceptual else None
    return None


def _skipped(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the audit left out, and why."""
    entries: Sequence[Mapping[str, Any]] = audit.get("skipped") or []
    return [
        (" ".join(str(entry[key]) for key in ("evidence", "attack") if key in entry), str(entry["reason"]))
        for entry in entries
    ]
