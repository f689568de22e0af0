"""Files of a run. ``docs/results-schema.md`` explains them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from smartedge.artifacts.base import Artifact, Fields, Part
from smartedge.artifacts.task import TaskFacts
from smartedge.images.size import SizeField

__all__ = [
    "BytesPerImage",
    "BytesTotal",
    "DataFacts",
    "Distortion",
    "Figures",
    "Heads",
    "MachineFacts",
    "Privacy",
    "ReferenceBytes",
    "Results",
    "StageSeconds",
    "WeightsFacts",
]

MachineFacts = dict[str, str | int]
_OLD_METHODS = {"edge": "local", "cloud": "upload"}  # of version 1


class Figures(Part):
    """Figures of one head on one split."""

    accuracy: float = Field(
        description="share of right answers; `multi`: mean over the columns, as for all figures below"
    )
    balanced_accuracy: float = Field(description="mean recall over the classes that occur")
    balanced_accuracy_adjusted: float | None = Field(
        default=None,
        description="balanced accuracy of adjusted answers: scores are divided by the shares of the classes first; an "
        "unsure head gives the most frequent class as its plain answer; null in results of early versions",
    )
    auroc: float | None = Field(
        description="two classes: AUROC of class 1; more: mean of each class against the others"
    )
    loss: float = Field(description="mean cross-entropy")
    base_rate: float = Field(description="accuracy of always giving the most frequent answer")


class DataFacts(Part):
    """The images."""

    path: str = Field(description="as in the settings")
    image_size: SizeField = Field(description="pixels: a square (`64`) or height and width (`720x1280`)")
    train: int = Field(description="number of training images")
    val: int = Field(description="number of validation images")
    test: int = Field(description="number of test images")
    skipped: dict[str, int] = Field(description="reason → number of images left out")
    notes: tuple[str, ...] = Field(description="notes about the data")


class WeightsFacts(Part):
    """The pretrained weights that the network began with."""

    source: str = Field(description="a file, or a name of timm or of the Hugging Face hub")
    tensors: int = Field(description="number of tensors that came from there")
    replaced: tuple[str, ...] = Field(
        description="tensors of the head, which began untrained: it has another size here"
    )
    image_size: int | None = Field(description="pixels, of the images they were trained with; null: not known")
    mean: tuple[float, ...] = Field(description="subtracted from each channel in [0, 1]")
    std: tuple[float, ...] = Field(description="by which the differences were divided")
    notes: tuple[str, ...] = Field(description="what else was chosen")


class Heads(Part):
    """Figures of the heads on the test split. At least one of them is there."""

    back: Figures | None = Field(
        description="figures of the back, or of the undivided network (`upload`, `local`); measured with the true "
        "labels, also where the cloud got randomised labels"
    )
    exit: Figures | None = Field(description="figures of the task exit on the edge (`hierarchical`)")

    @model_validator(mode="after")
    def _one_is_there(self) -> Self:
        if self.back is None and self.exit is None:
            raise ValueError("there are figures neither of the back nor of the exit")
        return self

    @property
    def present(self) -> dict[str, Figures]:
        """The existing heads by name, ``exit`` before ``back``."""
        return {name: figures for name, figures in (("exit", self.exit), ("back", self.back)) if figures is not None}


class ReferenceBytes(Part):
    """Bytes of one image in other forms."""

    jpeg_q90: float = Field(
        description="the same image as JPEG, quality 90; of other channels than three, each as a grey picture"
    )
    raw_uint8: float = Field(description="the same image as pixels")
    feature_float32: float | None = Field(description="its feature map as float32; null where no features are sent")


class BytesPerImage(Part):
    """Bytes of the training frames ÷ images in them."""

    up: float = Field(description="bytes of the training frames ÷ images in them, every release counted")
    down: float = Field(description="the same for the way back")
    source: str | None = Field(
        description="where bytes were counted: `kernel tcp_info` (at the socket) or `payload` (frames and stream "
        "headers alone: there is no socket, or the system does not count); null: nothing sent"
    )
    reference: ReferenceBytes


class BytesTotal(Part):
    """Bytes of the whole run."""

    up: float = Field(description="bytes of the whole run, validation and test included")
    down: float = Field(description="the same for the way back")


class Distortion(Part):
    """The error of the codec, on the first training frame of the last stream."""

    rmse: float = Field(description="root-mean-square error, in the features' own units")
    max_abs: float = Field(description="largest error, in the features' own units")
    energy_kept: float = Field(description="share of the squared sum")


class StageSeconds(Part):
    """Busy seconds per epoch; the stages overlap."""

    edge: float = Field(description="seconds of computing on the edge")
    encode: float | None = Field(
        default=None,
        description="seconds of releasing (clip, ledger, noise) and encoding; null in results of early versions",
    )
    link: float = Field(description="seconds of sending")
    cloud: float = Field(description="seconds of computing in the cloud")

    @property
    def known(self) -> dict[str, float]:
        """Stage → seconds, in the order in which an image passes them."""
        stages = (("edge", self.edge), ("encode", self.encode), ("link", self.link), ("cloud", self.cloud))
        return {name: seconds for name, seconds in stages if seconds is not None}


class Privacy(Part):
    """The ledger's figures of the releases. Null means that a value is ∞ or does not apply."""

    mechanism: str = Field(description="`none`, `gaussian`, `laplace`, `randomised-response` or `subset-selection`")
    granularity: str = Field(description="`vector`, or `element`: `epsilon` covers one number of the map alone")
    epsilon: float | None = Field(description="ε of one release of one image")
    delta: float = Field(description="δ of one release of one image; 0: pure ε")
    epsilon_total: float | None = Field(
        description="ε of all releases of the image that spent most in the protected splits"
    )
    delta_total: float = Field(description="δ of the same releases")
    releases_max: int = Field(description="how often that image was released")
    epsilon_budget: float | None = Field(description="the largest ε that an image may spend; null: no limit")
    delta_budget: float = Field(description="δ at which the budget is stated")
    vector_epsilon: float | None = Field(
        description="`epsilon` for the whole feature map; only for `element` another value: the sum over the numbers, "
        "at δ = 0"
    )
    vector_epsilon_total: float | None = Field(
        description="`epsilon_total` for the whole feature map; for `element` the sum over numbers and releases"
    )
    clip: float | None = Field(description="norm to which maps are clipped")
    sigma: float | None = Field(description="standard deviation of the noise on each number")
    codewords: int | None = Field(description="for discrete mechanisms: K")
    subset: int | None = Field(description="for discrete mechanisms: how many codewords one release holds")
    labels: str = Field(description="how the desired label travels: `clear` or `randomised`")
    label_epsilon: float | None = Field(description="ε of the label, spent once per image; null: in clear")
    epsilon_with_label: float | None = Field(description="the sum of `vector_epsilon_total` and `label_epsilon`")
    apply_to: str = Field(description="`always`, or `training`: other splits were not protected")
    attribute_bound: float = Field(
        description="(e^ε + δ)/(1 + e^ε) for one release of a whole map: the highest balanced accuracy of any attacker "
        "on any yes/no attribute"
    )
    tight_attribute_bound: float = Field(
        description="the same from the law of the mechanism: at most `attribute_bound`"
    )
    sampling_delta: float | None = Field(
        description="increase of δ for one release by the finite precision of the noise, for any ε; in early versions "
        "it grew with e^ε, and a value of 1 or more meant that nothing was guaranteed"
    )
    front: Literal["trained", "frozen", "given"] | None = Field(
        default=None,
        description="what the front's weights learned from the run's images, which no ε covers: `frozen`: nothing "
        "(`train.freeze: front`, nothing else before the cut); `given`: nothing in this run (`model.front`), but "
        "maybe in the run that trained it; `trained`: anything; null: nothing is sent through a front",
    )
    randomised_response_baseline: float | None = Field(
        default=None,
        description="balanced accuracy of randomised response on the exit's answers, with the `vector_epsilon` of one "
        "release; the answers use the threshold that is best on the test images",
    )


class Results(Artifact):
    """The figures of a finished run: ``results.json``."""

    missing: ClassVar[str] = "a run writes it when it ends, so finish the run first ('smartedge train --resume')"
    remedy: ClassVar[str] = "remove it and run 'smartedge report RUN', which puts it together again"
    page: ClassVar[str] = "docs/results-schema.md"

    schema_version: Literal[2] = 2
    smartedge_version: str | None = Field(
        description="of the program that made the run; null where it was not installed as a package"
    )
    method: str = Field(description="`hierarchical`, `upload`, `split` or `local`")
    schedule: str = Field(description="`joint`, `two-stage` or `freeze-and-log`")
    model: str = Field(description="name of the network")
    weights: WeightsFacts | None = Field(
        default=None, description="the pretrained weights ([networks.md](networks.md)); null: there were none"
    )
    cut: str | None = Field(description="where the network is divided; null where it is not")
    bottleneck: tuple[int, ...] | None = Field(description="shape of the bottleneck at the cut")
    codec: str | None = Field(description="how features or images were encoded")
    seed: int = Field(description="of the run")
    epochs: int = Field(description="of the run")
    task: TaskFacts
    data: DataFacts
    test: Heads
    cloud_gain: float | None = Field(
        description="accuracy of the back minus that of the exit, on the test split; null where either is missing, or "
        "they answered other images"
    )
    bytes_per_image: BytesPerImage
    codec_error: Distortion | None = Field(
        default=None,
        description="error of the codec, on the first training frame of the last stream; null: nothing sent",
    )
    bytes_total: BytesTotal
    seconds_per_epoch: float = Field(
        description="wall clock of the last session ÷ its epochs (of the back, where the front is trained first)"
    )
    seconds_total: float = Field(description="wall clock of the last session")
    stage_seconds: StageSeconds = Field(description="busy seconds per epoch; the stages overlap")
    edge_processor_seconds: float | None = Field(
        default=None,
        description="`stage_seconds.edge` without the time in which other programs had the processor; null where the "
        "edge has a GPU, where the cloud is in the same process, and in results of early versions",
    )
    edge_data_share: float = Field(description="share of the edge's time in which it waited for images")
    edge_peak_rss_bytes: int | None = Field(
        description="largest resident set of the edge process; null where the system does not tell"
    )
    edge_baseline_rss_bytes: int = Field(description="resident set of the edge process before it trained")
    cloud_peak_rss_bytes: int | None = Field(
        description="largest resident set of the cloud process; null where there is no such process"
    )
    releases_per_image: int = Field(description="how often an image was sent at most; the unit of privacy accounting")
    privacy: Privacy | None = Field(
        default=None,
        description="the ledger's figures ([privacy.md](privacy.md)); null where nothing was sent. Inside, null means "
        "that a value is ∞ or does not apply",
    )
    machine: MachineFacts = Field(description="name → value; names that end in `_bytes` are sizes")
    versions: dict[str, str] = Field(description="package → version")
    started: str = Field(description="ISO 8601")
    command: str = Field(description="runs it again")

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing."""
        return 1 / len(self.task.names) if self.task.kind == "single" else 0.5

    @property
    def edge_work(self) -> float:
        """Seconds of computing on the edge, in all epochs. What other programs took is left out where that is known."""
        each = self.stage_seconds.edge if self.edge_processor_seconds is None else self.edge_processor_seconds
        return self.epochs * each

    @property
    def learned_nothing(self) -> bool:
        """Whether every head is within three standard errors of guessing. Guessing exceeds them once in 700 runs.

        The better of plain and adjusted answers counts. Columns of a multi-label task count as independent. Where there
        are so few answers that even perfect ones lie within that, nothing can be said.
        """
        answers = self.data.test * (1 if self.task.kind == "single" else len(self.task.columns))
        limit = self.chance + 3 * math.sqrt((1 / self.chance - 1) / answers) * self.chance
        return limit < 1 and all(
            max(head.balanced_accuracy, head.balanced_accuracy_adjusted or 0.0) <= limit
            for head in self.test.present.values()
        )

    @classmethod
    def upgraded(cls, fields: Fields) -> Fields:
        """Version 1 called the methods ``upload`` and ``local`` ``cloud`` and ``edge``."""
        method = fields.get("method")
        if fields.get("schema_version") == 1 and isinstance(method, str):
            return {**fields, "schema_version": 2, "method": _OLD_METHODS.get(method, method)}
        return fields
