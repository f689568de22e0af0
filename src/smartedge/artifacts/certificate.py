"""The certificate of a run. ``docs/certificate-schema.md`` explains it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from smartedge.artifacts.base import Artifact, Part

__all__ = ["AttributeBound", "Certificate"]


class AttributeBound(Part):
    """The upper bound for one attribute. Figures are balanced accuracies, between 0 and 1."""

    classes: tuple[str, ...] = Field(description="names of the classes")
    units: tuple[int, ...] = Field(description="persons of each class; images, where persons are not known")
    images: int = Field(description="images that were used")
    plug_in: float = Field(description="of the best attacker on the held-out images themselves")
    draws: int = Field(description="draws that estimate `plug_in`; 0 where it is exact")
    draws_error: float = Field(description="how much larger `plug_in` can be, given these draws")
    bound: float = Field(description="no attacker exceeds this, at the confidence stated")
    method: Literal["binomial", "bounded-differences"] = Field(description="the bound for the choice of images")
    label_floor: float | None = Field(
        description="of an attacker that knows the desired label alone, on the same images; null for the desired label"
    )
    label_known: bool = Field(description="whether the attacker was given the desired label beside the release")
    dp_bound: float = Field(
        description="no attacker exceeds this on any attribute, by the noise alone; 1 where the label is known"
    )


class Certificate(Artifact):
    """Upper bounds on what any attacker can read, and their assumptions."""

    missing: ClassVar[str] = "write it with 'smartedge certify RUN'"
    remedy: ClassVar[str] = "write it again with 'smartedge certify RUN'"
    page: ClassVar[str] = "docs/certificate-schema.md"

    schema_version: Literal[1] = 1
    smartedge_version: str = Field(description="of the program that wrote it")
    confidence: float = Field(
        description="probability with which a bound holds; for each bound alone, not for all together"
    )
    releases: int = Field(description="how many releases of one image the attacker has")
    mechanism: str = Field(description="of the noise")
    numbers: int = Field(description="numbers in one release")
    splits: tuple[str, ...] = Field(description="whose images were used; the front did not learn from them")
    persons: str | None = Field(description="column that names the person of an image; null: each image is a person")
    seed: int = Field(description="of the draws, and of the class chosen for persons with images of several classes")
    attributes: dict[str, AttributeBound] = Field(description="attribute → bound")
    assumptions: str = Field(description="the assumptions of the bounds, in words")
