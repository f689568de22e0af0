"""Files of a published front. ``docs/front-schema.md`` explains them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from smartedge.artifacts.base import Artifact, Part
from smartedge.artifacts.task import TaskFacts
from smartedge.errors import FrontError, SmartEdgeError
from smartedge.images.size import SizeField

__all__ = [
    "NAME",
    "AttackedAttribute",
    "AuditReach",
    "Calibration",
    "CertifiedAttribute",
    "FrontManifest",
    "RunCalibration",
    "ThresholdRow",
]

NAME = r"[A-Za-z0-9_.-]{1,64}"  # what the name of a front looks like

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Share = Annotated[float, Field(ge=0, le=1)]


class ThresholdRow(Part):
    """What one threshold of the exit's confidence does to the validation images."""

    threshold: float = Field(description="the back answers where the exit's confidence is below it")
    offloaded: _Share = Field(description="share of the images that the back answers")
    accuracy: _Share | None = Field(description="of all answers together; null where the back was not known")


class Calibration(Part):
    """The exit on validation images, released as at inference. Confidences are those after `temperature`."""

    temperature: float = Field(
        ge=0.01, le=100, description="the exit's logits are divided by it, so that its confidence is its accuracy"
    )
    images: int = Field(description="validation images")
    exit_accuracy: _Share = Field(description="where the exit answers every image")
    back_accuracy: _Share | None = Field(description="where the back does; null where it was not known")
    rows: tuple[ThresholdRow, ...] = Field(min_length=1)


class RunCalibration(Artifact):
    """``edge/calibration.json``: the calibration of a run's exit."""

    missing: ClassVar[str] = "'smartedge infer' writes it when a threshold is asked for as --offload or --lose"
    remedy: ClassVar[str] = "remove it: it is made again"
    page: ClassVar[str] = "docs/front-schema.md"

    schema_version: Literal[1] = 1
    calibration: Calibration


class AttackedAttribute(Part):
    """What the best attacker of the audit read of one attribute. Balanced accuracies between 0 and 1."""

    sensitive: bool = Field(description="the run was to hide it")
    finished: tuple[str, ...] | None = Field(
        default=None,
        description="kinds of attackers of one release, of which one had all of its training; null: published by an "
        "earlier version, which did not say it",
    )
    training_image_finished: tuple[str, ...] = Field(
        default=(), description="the same, of the attackers behind `training_image`"
    )
    full_depth_needed: bool | None = Field(
        default=None,
        description="false: the certificate left attackers of full depth nothing to find",
    )
    best: float | None = Field(ge=0, le=1, description="from one release; null where no attacker was made")
    training_image: float | None = Field(
        ge=0, le=1, description="from all that is sent of a training image; null: the same"
    )
    undefended: float | None = Field(description="the same attackers, on the front without protection")
    floor: float = Field(description="from the desired label alone")


class AuditReach(Part):
    """How much lies behind the figures of an audit."""

    learned_from: int = Field(description="images that the attackers learned from")
    judged_on: int = Field(description="images that were attacked")
    images_seen: bool | None = Field(
        description="the front had learned from the attackers' own images, so an attacker with other ones may read "
        "more; null: not known"
    )
    left_out: int = Field(
        description="columns that the run was to hide, and on which no attack was made. Who is shown (`identity`) does "
        "not count: it has attacks of its own"
    )


class CertifiedAttribute(Part):
    """The upper bound for every attacker, for one attribute."""

    desired: bool = Field(description="the label that is to be kept")
    bound: _Share = Field(description="no attacker exceeds this balanced accuracy, at the confidence stated")
    confidence: _Share
    releases: int = Field(description="how many releases of one image the attacker has")
    label_known: bool = Field(description="whether the attacker was given the desired label beside the release")


class FrontManifest(Artifact):
    """``manifest.json``: everything that an edge must know of a published front."""

    error: ClassVar[type[SmartEdgeError]] = FrontError
    missing: ClassVar[str] = "this is no front bundle; 'smartedge export RUN --to DIR' writes one"
    remedy: ClassVar[str] = "copy the bundle again, all of its files"
    page: ClassVar[str] = "docs/front-schema.md"

    schema_version: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME}$", description="for people")
    version: int = Field(ge=1, description="of this front, as its publisher counts")
    created: datetime = Field(description="ISO 8601, UTC")
    smartedge_version: str = Field(description="of the program that wrote it")
    opset: int = Field(description="of ONNX")
    difference: float = Field(
        description="largest difference between ONNX Runtime and torch at export, relative to the largest feature "
        "where that is above 1"
    )
    files: dict[str, _Digest] = Field(description="file → SHA-256")
    image_size: SizeField = Field(
        description="H and W, pixels: a square (`64`) or height and width (`720x1280`). Images are brought to it as "
        "`data.fit` in `settings` says"
    )
    task: TaskFacts = Field(description="as in `results.json`")
    feature_shape: tuple[int, ...] = Field(description="F, of what crosses the cut")
    settings: dict[str, JsonValue] = Field(description="of the run that trained it: those of `shared/run.json`")
    policy: dict[str, JsonValue] = Field(description="the law of a release: mechanism, clip, noise, ε of one release")
    calibration: Calibration | None = Field(description="null where the validation images were not there")
    threshold: float = Field(ge=0, lt=2, description="of the exit's confidence, where the edge names none")
    audit: dict[str, AttackedAttribute] | None = Field(description="null where the run was not attacked")
    audit_reach: AuditReach | None = Field(
        default=None, description="null where the run was not attacked, or published by an earlier version"
    )
    certificate: dict[str, CertifiedAttribute] | None = Field(description="null where the run has none")
    certificate_left_out: int | None = Field(
        default=None,
        description="columns that the run was to hide, and that the certificate does not bound; null as for "
        "`audit_reach`. Who is shown (`identity`) does not count: no certificate is about it",
    )
