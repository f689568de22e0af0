"""The privacy section of a run's page: the guarantee, the attackers' figures and the reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from smartedge.artifacts.audit import Audit
from smartedge.artifacts.reconstruction import ReconstructionAttack
from smartedge.lab.judging.caveats import caveats
from smartedge.lab.judging.guarantee import guarantee, guarantee_of_noise
from smartedge.lab.judging.leakage import epsilon_words, judge, kinds_of, membership_words, read_leaks
from smartedge.lab.judging.verdict import Verdict
from smartedge.lab.report import attack_plots
from smartedge.lab.report.canvas import Figure
from smartedge.lab.report.gallery import gallery
from smartedge.lab.report.people import identity_rows, identity_words, person_rows, persons_figure
from smartedge.lab.report.read import Run

__all__ = ["features_page", "privacy_page", "privacy_verdict"]

_DRAWN = 3  # attributes with a figure of their own; more are compared in one figure
_COMPARED = 45
_BESIDE = 8  # attributes in the table of all kinds of attackers


def privacy_verdict(run: Run) -> Verdict:
    """Judge whether the sensitive content is hidden from the attackers that were tried."""
    leaks = read_leaks(run.audit) if run.audit else []
    judged = judge(
        leaks,
        sent=run.method.has_cloud,
        protected=_protected(run),
        guaranteed=guarantee(run.results).limits,
        unread=run.audit.unread if run.audit else (),
    )
    return _limited(judged, run.audit) if run.audit else judged


def privacy_page(run: Run) -> dict[str, object]:
    """The values that the template ``privacy.html.j2`` shows."""
    privacy = run.results.privacy
    return {
        **_attacks(run.audit),
        "verdict": privacy_verdict(run),
        "guarantee": guarantee(run.results),
        "baseline": privacy.randomised_response_baseline if privacy else None,
        "gallery": gallery([run]),
    }


def features_page(audit: Audit) -> dict[str, object]:
    """The same values for features that did not come from a run."""
    promise = guarantee_of_noise(audit.dp)
    judged = judge(read_leaks(audit), sent=True, protected=True, guaranteed=promise.limits, unread=audit.unread)
    return {
        **_attacks(audit),
        "verdict": _limited(judged, audit),
        "guarantee": promise,
        "baseline": None,
        "gallery": None,
    }


def _limited(judged: Verdict, audit: Audit) -> Verdict:
    """The judgement with what limits it."""
    sentences = [*judged.sentences, *caveats(audit)]
    tone, told = epsilon_words(audit.dp)
    if tone == "bad":
        return Verdict("bad", "claim refuted", told[0], [judged.headline, *sentences])
    return replace(judged, sentences=sentences)


def _attacks(audit: Audit | None) -> dict[str, object]:
    """What attackers read."""
    leaks = read_leaks(audit) if audit else []
    figures: list[Figure] = [attack_plots.attackers(leak) for leak in leaks[:_DRAWN]]
    if len(leaks) > 1:
        figures.append(attack_plots.attributes(leaks[:_COMPARED]))
    persons = person_rows(audit)
    together = [
        persons_figure(name, [row for row in persons if row.attribute == name])
        for name in list(dict.fromkeys(row.attribute for row in persons))[:_DRAWN]
    ]
    reconstruction = audit.reconstruction if audit else None
    nearest_first = _nearest_first(reconstruction.attacks) if reconstruction else []
    return {
        "leaks": leaks,
        "certified": any(leak.certified for leak in leaks),
        "kinds": kinds_of(leaks[:_BESIDE]),
        "kinds_of": [leak.name for leak in leaks[:_BESIDE]],
        "bounded": any(leak.bound or leak.noise_bound for leak in leaks),
        "figures": figures,
        "membership": membership_words(audit.membership) if audit and audit.membership else [],
        "identity": identity_words(audit.identity) if audit else [],
        "linkers": identity_rows(audit),
        "persons": persons,
        "person_figures": together,
        "epsilon": epsilon_words(audit.dp)[1] if audit else [],
        "reconstructions": nearest_first,
        "originals": reconstruction.originals if reconstruction else None,
        "mean_image": reconstruction.mean_image if reconstruction else None,
        "read_from_images": _read_from_images([attack for _, attack in nearest_first]),
        "perceptual": nearest_first[0][1].perceptual.name if nearest_first else None,
        "skipped": _skipped(audit) if audit else [],
        "bare_releases": audit is not None and not audit.audited.noise_on_audited_releases,
    }


def _protected(run: Run) -> bool:
    """Whether the run was to hide anything."""
    return run.audit is not None and not run.audit.audited.undefended


def _nearest_first(attacks: Mapping[str, ReconstructionAttack]) -> list[tuple[str, ReconstructionAttack]]:
    """The attacks with their names. The attack with the images nearest to the originals comes first."""
    return sorted(attacks.items(), key=lambda item: -(item[1].psnr or 0.0))


def _read_from_images(attacks: Sequence[ReconstructionAttack]) -> list[str]:
    """The attributes that a classifier reads off the reconstructed images."""
    return list(dict.fromkeys(name for attack in attacks for name in attack.sensitive_balanced_accuracy))


def _skipped(audit: Audit) -> list[tuple[str, str]]:
    """The attacks that the audit left out or cut short, each with its reason."""
    return [(" ".join(filter(None, (entry.evidence, entry.attack))), entry.reason) for entry in audit.skipped]
