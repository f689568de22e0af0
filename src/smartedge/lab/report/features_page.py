"""The page of an audit of features that did not come from a run."""

from __future__ import annotations

from pathlib import Path

from smartedge.artifacts.audit import Audit, AuditedFeatures
from smartedge.lab.judging.text import count
from smartedge.lab.report.page import write_page
from smartedge.lab.report.privacy import features_page

__all__ = ["write_features_page"]

_SPLITS = {
    "given": "as they were given",
    "made by persons": "made by the audit: nobody is in two of them",
    "made by images": "made by the audit, image by image",
}


def write_features_page(audit: Audit, path: Path) -> Path:
    """Write the page as one HTML file that needs no network, and return its path."""
    audited = audit.audited
    assert isinstance(audited, AuditedFeatures)
    shape = "×".join(map(str, audited.feature_shape))
    images = {"train": "attackers learned from", "val": "chose them", "test": "judged them"}
    certificate = audit.certificate.one_release if audit.certificate else None
    return write_page(
        path,
        "features.html.j2",
        {
            "title": f"Audit of {audited.source or 'features'}",
            "lede": f"{shape} numbers of each of {count(sum(audited.images.values()))} images · seed {audited.seed}",
            "privacy": features_page(audit),
            "assumptions": certificate.assumptions if certificate else None,
            "facts": [
                *((f"{split}: {why}", f"{count(audited.images[split])} images") for split, why in images.items()),
                ("Splits", _SPLITS[audited.splits]),
                ("Persons", "not known" if audited.persons is None else count(audited.persons)),
                ("Digest", audited.digest),
            ],
        },
    )
