"""The sections of a settings file about what is learned and protected. ``smartedge init`` writes them, commented."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from smartedge.codec.learned import FEWEST_BYTES
from smartedge.codec.sequence import PREVIOUS
from smartedge.config.section import Section
from smartedge.images.size import MOST_CHANNELS, ImageSize, SizeField
from smartedge.models.weight_files import INDEX

__all__ = [
    "ADDITIVE",
    "DISCRETE",
    "AdversaryConfig",
    "CodecConfig",
    "DataConfig",
    "DistillConfig",
    "DpConfig",
    "Epochs",
    "ExitConfig",
    "ModelConfig",
    "PositiveInt",
    "TrainConfig",
]


def _shape(value: object) -> object:
    """``"8x4x4"`` → ``(8, 4, 4)``; anything else is left to the type check."""
    if isinstance(value, str) and re.fullmatch(r"\d+(x\d+)+", value):
        return tuple(int(part) for part in value.split("x"))
    return value


def _columns(value: object) -> object:
    """A single name becomes a list of one name, and no value an empty list."""
    return () if value is None else (value,) if isinstance(value, str) else value


def _place(value: object) -> object:
    """A place in a network that YAML took for a number: whole numbers are names; others may have lost a digit.

    Raises:
        ValueError: it is a number with a point.
    """
    if isinstance(value, float):
        raise ValueError(f"{value} is a number in YAML, where 1.1 and 1.10 are the same; write it in quotes: '\"1.1\"'")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _modules(value: object) -> object:
    """As :func:`_columns`; ``none`` is an empty list."""
    return () if value == "none" else _columns(value)


def _weights(value: object) -> object:
    """``none``, ``timm`` or a file of weights by its ending. A ``~`` at its begin is the user's home.

    Raises:
        ValueError: it is something else.
    """
    endings = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", INDEX)
    if not isinstance(value, str) or value in ("none", "timm"):
        return value
    if not value.lower().endswith(endings):
        raise ValueError(f"{value!r} is neither 'none' nor 'timm' nor a file that ends in {', '.join(endings)}")
    return os.path.expanduser(value)


def _usable_size(size: ImageSize) -> ImageSize:
    """Refuse images that are smaller or larger than networks take.

    Raises:
        ValueError: a side is shorter than 8 pixels, or longer than 4096; or there are more than 16 channels.
    """
    if not (_SIDES[0] <= min(size.sides) and max(size.sides) <= _SIDES[1]):
        raise ValueError(f"an image of {size} pixels: height and width must be {_SIDES[0]} to {_SIDES[1]} pixels")
    if size.channels > MOST_CHANNELS:
        raise ValueError(f"an image of {size}: it may have 1 to {MOST_CHANNELS} channels")
    return size


_SIDES = (8, 4096)  # of an image, in pixels: the least and the most
PositiveInt = Annotated[int, Field(gt=0)]
Epochs = Annotated[int, Field(gt=0, le=100_000)]  # each is planned before the first begins
Shape = Annotated[tuple[PositiveInt, ...], BeforeValidator(_shape), Field(min_length=2, max_length=3)]


class DataConfig(Section):
    """The images and labels. Only the edge reads them."""

    path: str = Field("drawn", description="'drawn' (embedded faces), a folder, a file, 'cifar10', or 'hf:user/name'")
    desired: str | tuple[str, ...] = Field("smile", description="the column to learn; a list makes a multi-label task")
    sensitive: Annotated[tuple[str, ...], BeforeValidator(_columns)] = Field(
        (), description="columns to hide; they never leave the edge"
    )
    image_size: Annotated[SizeField, AfterValidator(_usable_size)] = Field(
        ImageSize(64, 64),
        description="images are resized to it: 64 is a square, 720x1280 a height and width in pixels, of 8 to 4096; "
        "64x64x1 is grey, and 64x64x5 has five channels, of up to 16; default of a pretrained network: its own size",
    )
    fit: Literal["crop", "squash", "letterbox"] = Field(
        "crop",
        description="what becomes of an image of another shape: crop (its middle), squash (all of it, squeezed), "
        "letterbox (all of it, with black bars)",
    )
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None,
        description="subtracted from the pixels' values in [0, 1], one number for each channel; default: 0.5, or that "
        "of pretrained weights",
    )
    std: tuple[Annotated[float, Field(ge=0.001, le=1)], ...] | None = Field(
        None,
        description="what remains is divided by it, one number for each channel; default: 0.25, or that of pretrained "
        "weights",
    )
    limit: dict[Literal["train", "val", "test"], PositiveInt] = Field(
        default_factory=dict,
        description="use a fixed subset of this many images per split: class-balanced, but at "
        "random with dp.label_epsilon",
    )
    shard: str | None = Field(
        None,
        pattern=r"^[1-9]\d{0,5}/[1-9]\d{0,5}$",
        description="for trials of a fleet: 'i/n' uses the i-th of n parts of every split, from '1/n' to 'n/n'; nobody "
        "is in two parts where the data set says who is shown",
    )
    augment: Literal["none", "flip", "flip-crop"] = Field("flip", description="random changes of the training images")
    audit_share: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="share of the training images that the run does not use: attackers of 'smartedge audit' learn "
        "from them; default: a tenth where there are sensitive columns, else 0",
    )
    cache_dir: Path | None = Field(None, description="where decoded images are kept; default: the user's cache folder")
    cache_bytes: Annotated[int, Field(ge=0)] | None = Field(
        20 * 10**9,
        description="how much that folder may hold: what was not used for the longest time gives way to new images; "
        "null: no limit; 0: nothing is kept, and images are decoded each time they are read",
    )

    @model_validator(mode="after")
    def _scale_of_each_channel(self) -> DataConfig:
        channels = self.image_size.channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise ValueError(
                    f"data.{name}: {len(values)} numbers for images of {channels} channels; give one for each"
                )
        return self

    @property
    def part(self) -> tuple[int, int]:
        """``shard`` as two numbers; (1, 1) is the whole."""
        if self.shard is None:
            return 1, 1
        part, _, parts = self.shard.partition("/")
        return int(part), int(parts)


class ExitConfig(Section):
    """The task exit: a small head on the front's output."""

    width: int = Field(128, ge=1, le=4096, description="channels of its hidden layers")
    depth: int = Field(2, ge=0, le=8, description="hidden layers; 0 is pooling and one linear layer")


class ModelConfig(Section):
    """The network, and the cut that divides it."""

    name: str = Field(
        "resnet18", description="a torchvision or timm name, 'hf_hub:USER/NAME', or 'package.module:factory'"
    )
    args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="further arguments of the function that builds the network, e.g. {drop_path_rate: 0.1}",
    )
    weights: Annotated[str, BeforeValidator(_weights)] | None = Field(
        None,
        description="pretrained weights: none, timm (those of timm's name), or a file (.safetensors, .pth); default: "
        "timm where the name has a tag, such as resnet18.a1_in1k, else none. docs/networks.md explains it",
    )
    cut: Annotated[str, BeforeValidator(_place)] = Field(
        "layer1", description="where to divide it; 'smartedge cuts NAME' lists the places"
    )
    bottleneck: Shape | Literal["auto"] | None = Field(
        "auto",
        description="a narrow, bounded tensor that crosses the cut, e.g. 8x4x4; auto: a quarter as many numbers as the "
        "image has pixels (64x64: 16x8x8), fewer bytes than its JPEG; null: the whole tensor at the cut",
    )
    codebook: int | None = Field(
        None, ge=2, le=256, description="instead of a tensor, one of this many codewords crosses the cut"
    )
    small_input: bool = Field(
        True,
        description="CIFAR stem for ResNets, pooled head for VGGs, where images are small; not for pretrained networks",
    )
    adapter: int | None = Field(
        None,
        ge=1,
        le=256,
        description="rank of low-rank adapters (LoRA) in the frozen layers of the front, which learn in their place",
    )
    front: Path | None = Field(
        None,
        description="a front that was trained before and is not trained again: the file edge/front.safetensors of a "
        "run; edge and cloud need the same file. '{cut}' in it stands for model.cut, where edges have different ones",
    )
    start: Path | None = Field(
        None,
        description="a front that was trained before, with which training begins: a file as for front; fronts that "
        "edges train for themselves then stay closer together; edge and cloud need the same file",
    )
    exit: ExitConfig = Field(default_factory=lambda: ExitConfig())


class DistillConfig(Section):
    """Distillation: an undivided network is trained on the edge first and teaches the front. It stays on the edge."""

    epochs: int = Field(0, ge=0, le=100_000, description="epochs of the undivided network; 0: no distillation")
    weight: float = Field(0.5, ge=0, le=1, description="share of its answers in the task exit's loss")
    temperature: float = Field(2.0, gt=0, description="the logits of both networks are divided by it")


class TrainConfig(Section):
    """How each side's parameters are updated."""

    batch_size: int = Field(64, ge=2, le=4096, description="images per step and per frame")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimizer of both sides")
    lr: float = Field(1e-3, gt=0, description="peak learning rate; warm-up of one tenth, then a cosine to zero")
    lr_pretrained: float | None = Field(
        None, gt=0, description="peak learning rate of pretrained parameters, usually smaller; default: lr"
    )
    freeze: Annotated[tuple[str, ...], BeforeValidator(_modules)] = Field(
        (), description="what keeps its weights: none, front, or names of modules, such as [conv1, bn1]"
    )
    weight_decay: float = Field(0.05, ge=0, description="for matrices and kernels; 0.0005 is usual for sgd")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd (Nesterov)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over the classes")
    clip_grad_norm: float = Field(5.0, gt=0, description="gradients are scaled down to this norm")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="bfloat16: autocast; faster on recent processors and GPUs. auto: 'smartedge train' measures for "
        "two seconds, and writes what it chose into the run's config.yaml; two such runs may differ",
    )
    channels_last: bool | Literal["auto"] = Field(
        False,
        description="memory format of images and convolutions; true is often faster, above all with bfloat16; auto: as "
        "for precision",
    )
    front_epochs: Epochs | None = Field(
        None, description="two-stage, freeze-and-log: epochs of the front before it is frozen; default: epochs"
    )
    distill: DistillConfig = Field(default_factory=lambda: DistillConfig())


class AdversaryConfig(Section):
    """Exits that learn the columns of ``data.sensitive`` on the edge, so that the front can unlearn them."""

    exits: Annotated[tuple[Literal["linear", "mlp", "conv", "deep"], ...], BeforeValidator(_columns)] = Field(
        (),
        description="their shapes: one exit of each shape for each sensitive column; mlp suits a bottleneck of a few "
        "numbers, conv and deep suit maps; none: no suppression",
    )
    weight: float = Field(3.0, ge=0, description="lambda: weight of the confusion term in the front's loss")
    warmup: float = Field(0.2, ge=0, le=1, description="share of the front's steps over which lambda rises from 0")
    confusion: Literal["conditional", "prior", "uniform", "minimax"] = Field(
        "conditional",
        description="what the exits' answers are driven to; conditional: the shares of the sensitive label given the "
        "desired label; prior: its shares; uniform: equal shares; minimax: the exits' loss is made large",
    )
    dependence: float = Field(
        0.0,
        ge=0,
        description="weight of a penalty on the kernel dependence (HSIC) between features and sensitive label",
    )
    mixture: float = Field(
        0.0,
        ge=0,
        description="weight of a penalty on what the best possible attacker reads of earlier features through the "
        "noise, among images of the same desired label; it needs noise (dp.mechanism), and does without exits",
    )
    steps: PositiveInt = Field(3, description="steps of the adversarial exits per step of the front")
    lr: float = Field(1e-3, gt=0, description="learning rate of the adversarial exits (constant)")
    reset_every: int = Field(2, ge=0, description="epochs after which one exit, in turn, gets new weights; 0: never")


class DpConfig(Section):
    """Differential privacy of what is released: local, per image, replace-one (docs/privacy.md)."""

    mechanism: Literal["none", "gaussian", "laplace", "randomised-response", "subset-selection"] = Field(
        "none", description="noise on the feature map; the last two release one of model.codebook codewords"
    )
    granularity: Literal["vector", "element"] = Field(
        "vector", description="what epsilon protects: the whole feature map, or (laplace) each of its numbers alone"
    )
    clip: float | None = Field(
        None,
        gt=0,
        description="bound of an image's L2 norm (gaussian) or L1 norm (laplace), or of each number (element); "
        "default: what the bottleneck's range allows",
    )
    epsilon: float | None = Field(
        None, gt=0, description="budget of one image over all its releases; the noise is calibrated to it"
    )
    delta: float = Field(
        1e-5, gt=0, le=1e-3, description="delta of the budget; it should be below 1 divided by the number of images"
    )
    sigma: float | None = Field(
        None, gt=0, description="instead of epsilon: the noise's standard deviation; epsilon is then reported"
    )
    warmup: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of the front's steps over which the noise in its training rises from 0; a release always "
        "has all of the noise",
    )
    label_epsilon: float | None = Field(
        None, gt=0, description="randomised response on the desired labels that travel; default: they travel in clear"
    )
    apply_to: Literal["training", "always"] = Field(
        "always", description="training: validation, test and inference images are released without noise"
    )


ADDITIVE = ("gaussian", "laplace")
DISCRETE = ("randomised-response", "subset-selection")


class CodecConfig(Section):
    """How what is sent becomes bytes."""

    name: str | None = Field(
        None,
        description="float32, float16, uint8, uint4, uint2, uint1, topk-5%, tile-webp-80, tile-avif-50, learned (with "
        "codec.bytes); for codewords: code; for images: image, jpeg-90, webp-80, avif-50. Default: uint8 (codewords: "
        "code; upload: image; split: float32)",
    )
    bytes: int | None = Field(
        None,
        ge=FEWEST_BYTES,
        le=999_999,
        description="for codec.name learned: bytes that an image takes at most, as a mean over its frame. Ids, labels "
        "and headers take about 6 more. The front is trained to need no more; where it needs more, levels are coarser",
    )

    reference: Literal["previous"] | None = Field(
        None,
        description="previous: an image that resembles the one before it in its frame is sent by the differences. For "
        "images of a camera, with codec uint8, uint4, uint2, uint1 or learned and schedule 'freeze-and-log'",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: object) -> object:
        """``learned-200-previous``, as stream headers say it: ``learned``, 200 bytes, reference ``previous``."""
        if not isinstance(given, Mapping) or not isinstance(name := given.get("name"), str):
            return given
        said: dict[str, str | int] = {}
        if name.endswith(PREVIOUS):
            name, said["reference"] = name.removesuffix(PREVIOUS), "previous"
        if found := re.fullmatch(r"learned-([0-9]+)", name):
            name, said["bytes"] = "learned", int(found[1])
        if any(given.get(key) not in (None, value) for key, value in said.items()):
            return given
        return {**given, **said, "name": name}

    def full_name(self, usual: str) -> str:
        """The name that :func:`smartedge.codec.get_codec` knows.

        Args:
            usual: where the settings name no codec.
        """
        name = self.name or usual
        if self.bytes is not None:
            name = f"{name}-{self.bytes}"
        return name if self.reference is None else f"{name}-{self.reference}"
