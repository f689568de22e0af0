"""What an edge asks of a published front, such as ``certificate<=70%``.

A figure counts only for what this edge will release: with noise, at a confidence of 95 % or more, and for attackers
that see the desired labels where these are sent. It counts only if all columns that the run hides are covered. The
best attack counts only if attackers were tried in earnest (docs/decisions/0078-when-an-attack-counts.md).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from smartedge.artifacts.front import AttackedAttribute, FrontManifest
from smartedge.errors import ConfigError, FrontError
from smartedge.metrics import rounded_up

__all__ = ["Requirement"]

_DELTA = 1e-5  # ε at a larger δ promises less
_CONFIDENCE = 0.95
_AGAIN = "publish it again after 'smartedge certify RUN"
_CHEAP = ("linear", "trees", "mlp")  # attackers that must have had all of their training
_FULL_DEPTH = ("deep", "fine-tuned", "posterior")  # one of these as well, unless a certificate leaves them nothing
_LEARNED_FROM, _JUDGED_ON = 500, 200  # images, at least
_ATTACK_AGAIN = "publish it again after 'smartedge audit RUN' with"
_FORM = re.compile(
    r"(?P<what>certificate|attack|epsilon|version)(?:\.(?P<attribute>[^<>=]+))?\s*"
    r"(?P<sign><=|>=)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<percent>%?)"
)


@dataclass(frozen=True)
class Requirement:
    """One condition on a front's manifest.

    Attributes:
        text: as the user wrote it.
        what: ``certificate``: upper bound for every attacker; ``attack``: the best attacker of the audit; ``epsilon``:
            ε of one release of a whole map; ``version``.
        attribute: of certificate and attack; None: the worst of all attributes except the desired label.
        at_most: True for ``<=``, False for ``>=``.
        number: balanced accuracies are shares of 1.
    """

    text: str
    what: str
    attribute: str | None
    at_most: bool
    number: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a condition.

        Raises:
            ConfigError: it is none.
        """
        found = _FORM.fullmatch(text.strip())
        if found is not None:
            accuracy = found["what"] in ("certificate", "attack")
            number = float(found["number"]) / (100 if found["percent"] else 1)
            if (number <= 1) if accuracy else not (found["percent"] or found["attribute"]):
                return cls(text.strip(), found["what"], found["attribute"], found["sign"] == "<=", number)
        raise ConfigError(
            f"--require {text!r}: write certificate<=70%, certificate.Male<=0.7, attack<=75%, epsilon<=8, or version>=3"
        )

    def check(self, manifest: FrontManifest, *, labels_sent: bool) -> None:
        """Compare with a front.

        Args:
            manifest: of the front.
            labels_sent: the edge sends the desired label of each image beside its release.

        Raises:
            FrontError: the front does not meet the condition, or says nothing about it.
        """
        if problem := self._void(manifest, labels_sent=labels_sent):
            raise FrontError(f"front '{manifest.name}': --require {self.text}: {problem}")
        value = self._value(manifest)
        if value is None:
            raise FrontError(
                f"front '{manifest.name}': --require {self.text}: its bundle says nothing about that; publish it again "
                "after 'smartedge audit RUN' and 'smartedge certify RUN'"
            )
        if not ((value <= self.number) if self.at_most else (value >= self.number)):
            counted = f"{rounded_up(value, 4):.4g}" if math.isfinite(value) else "∞"
            shown = counted if self.what in ("epsilon", "version") else f"{100 * rounded_up(value):.1f} %"
            raise FrontError(
                f"front '{manifest.name}': --require {self.text}: it is {shown}; nothing is released with it"
            )

    def _void(self, manifest: FrontManifest, *, labels_sent: bool) -> str | None:
        """Why the front's figure says nothing about the releases of this edge; None where it does."""
        dp = manifest.settings.get("dp")
        if self.what in ("certificate", "epsilon") and isinstance(dp, dict) and dp.get("apply_to") == "training":
            return (
                "its run has dp.apply_to=training, so only training images would get noise; publish a front of a run "
                "without it"
            )
        if self.what == "epsilon" and isinstance(dp, dict) and not float(str(dp.get("delta", _DELTA))) <= _DELTA:
            return f"its ε holds at δ = {dp['delta']} alone; publish a front of a run with dp.delta={_DELTA:g} or less"
        if self.what == "certificate" and manifest.certificate:
            bounds = manifest.certificate.values()
            if any(each.confidence < _CONFIDENCE for each in bounds):
                return f"its certificate holds with less than {_CONFIDENCE:.0%} confidence; {_AGAIN} --confidence 0.95'"
            if labels_sent and not all(each.label_known for each in bounds):
                return (
                    "its certificate is about attackers that do not know the desired label, and this edge sends it; "
                    f"{_AGAIN} --known-label'"
                )
            return self._not_covered(manifest.certificate_left_out, "certificate", f"{_AGAIN}'")
        if self.what == "attack" and manifest.audit:
            return self._untried(manifest, labels_sent=labels_sent)
        return None

    def _not_covered(self, left_out: int | None, what: str, again: str) -> str | None:
        """Why figures of some columns do not stand for all; None where this condition names one, or all are there."""
        if self.attribute is not None or left_out == 0:
            return None
        if left_out is None:
            return f"it was published by an earlier version, which did not say what its {what} leaves out; {again}"
        return f"its {what} leaves out {left_out} of the columns that its run was to hide; {again}, with all of them"

    def _untried(self, manifest: FrontManifest, *, labels_sent: bool) -> str | None:
        """Why the best attack of the audit does not count; None where it does."""
        reach, attacked = manifest.audit_reach, manifest.audit or {}
        if reach is None:
            return "it was published by an earlier version, which did not tell which attackers ended; publish it again"
        if problem := self._not_covered(reach.left_out, "audit", f"{_ATTACK_AGAIN} --attributes"):
            return problem
        if min(reach.learned_from - _LEARNED_FROM, reach.judged_on - _JUDGED_ON) < 0:
            return (
                f"its attackers learned from {reach.learned_from} images and were judged on {reach.judged_on}; "
                f"{_LEARNED_FROM} and {_JUDGED_ON} are needed. Set more apart (data.audit_share), or give the audit a "
                "larger --budget"
            )
        if reach.images_seen is not False:
            return (
                "its attackers learned from images that the front, or a file that it began with, may have learned "
                "from; train with data.audit_share, from new or public weights"
            )
        names = [self.attribute] if self.attribute else [name for name in attacked if name not in manifest.task.columns]
        for name in names:
            if name in attacked and (lacking := _lacking(attacked[name], labels_sent=labels_sent)):
                return (
                    f"on {name} these attackers did not have all of their training: {', '.join(lacking)}; "
                    f"{_ATTACK_AGAIN} a larger --budget"
                )
        return None

    def _value(self, manifest: FrontManifest) -> float | None:
        if self.what == "version":
            return manifest.version
        if self.what == "epsilon":
            each = manifest.policy.get("epsilon_each")
            numbers = math.prod(manifest.feature_shape) if manifest.policy.get("granularity") == "element" else 1
            return numbers * float(each) if isinstance(each, (int, float)) else math.inf
        if self.what == "certificate":
            known = manifest.certificate or {}
            desired = {name for name, each in known.items() if each.desired}
            return self._worst({name: each.bound for name, each in known.items()}, desired)
        attacked = {
            name: max(each.best, each.training_image or 0.0)
            for name, each in (manifest.audit or {}).items()
            if each.best is not None
        }
        return self._worst(attacked, set(manifest.task.columns))

    def _worst(self, values: dict[str, float], desired: set[str]) -> float | None:
        if self.attribute is not None:
            return values.get(self.attribute)
        return max((value for name, value in values.items() if name not in desired), default=None)


def _lacking(found: AttackedAttribute, *, labels_sent: bool) -> list[str]:
    """The attackers without whose whole training the best attack says little."""
    lacking = [kind for kind in _CHEAP if kind not in (found.finished or ())]
    if found.full_depth_needed is not False and not set(_FULL_DEPTH) & set(found.finished or ()):
        lacking.append("deep")
    if labels_sent:
        lacking += [f"{kind} with the label" for kind in _CHEAP if kind not in found.training_image_finished]
    return lacking
