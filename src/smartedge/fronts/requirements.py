"""What an edge asks of a published front, such as ``certificate<=70%``.

A figure counts only for what this edge will release: with noise, at a confidence of 95 % or more, and for attackers
that see the desired labels where these are sent.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from smartedge.artifacts.front import FrontManifest
from smartedge.errors import ConfigError, FrontError

__all__ = ["Requirement"]

_CONFIDENCE = 0.95
_AGAIN = "publish it again after 'smartedge certify RUN"
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
        if (value > self.number) if self.at_most else (value < self.number):
            shown = f"{value:.4g}" if self.what in ("epsilon", "version") else f"{100 * value:.1f} %"
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
        if self.what == "certificate" and manifest.certificate:
            bounds = manifest.certificate.values()
            if any(each.confidence < _CONFIDENCE for each in bounds):
                return f"its certificate holds with less than {_CONFIDENCE:.0%} confidence; {_AGAIN} --confidence 0.95'"
            if labels_sent and not all(each.label_known for each in bounds):
                return (
                    "its certificate is about attackers that do not know the desired label, and this edge sends it; "
                    f"{_AGAIN} --known-label'"
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
