"""The settings of a run: read from YAML, checked as a whole, every problem reported at once.

Keys, defaults and meanings are the fields below; ``smartedge init`` writes a commented file to start from.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from smartedge.errors import ConfigError, RunError
from smartedge.methods.base import METHODS, get_method
from smartedge.methods.schedules import SCHEDULES, get_schedule

__all__ = ["Config", "load_config", "load_run_config", "parse_overrides"]


def _shape(value: object) -> object:
    """``"8x4x4"`` → ``(8, 4, 4)``; anything else is left to the type check."""
    if isinstance(value, str) and re.fullmatch(r"\d+(x\d+)+", value):
        return tuple(int(part) for part in value.split("x"))
    return value


def _columns(value: object) -> object:
    """A single name is a list of one, and no value a list of none."""
    return () if value is None else (value,) if isinstance(value, str) else value


_RENAMED_METHODS = {"cloud": "upload", "edge": "local"}


def _method(value: str) -> str:
    """One of the methods; refuses the names that two of them had before they were told apart from the two sides."""
    if value in _RENAMED_METHODS:
        raise ValueError(f"'{value}' names a side; the method is now called '{_RENAMED_METHODS[value]}'")
    return _known(value, METHODS)


def _schedule(value: str) -> str:
    return _known(value, SCHEDULES)


def _known(value: str, table: Mapping[str, object]) -> str:
    if value not in table:
        *names, last = (f"'{name}'" for name in table)
        expected = f"{', '.join(names)} or {last}"
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
    return value


PositiveInt = Annotated[int, Field(gt=0)]
Shape = Annotated[tuple[PositiveInt, ...], BeforeValidator(_shape), Field(min_length=2, max_length=3)]


class Section(BaseModel):
    """One mapping of the file: unknown keys are errors, and what was read cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class DataConfig(Section):
    """What to learn from. Read by the edge only."""

    path: str = Field("drawn", description="'drawn' (embedded faces), a folder, a file, 'cifar10', or 'hf:user/name'")
    desired: str | tuple[str, ...] = Field("smile", description="the column to learn; a list makes a multi-label task")
    sensitive: Annotated[tuple[str, ...], BeforeValidator(_columns)] = Field(
        (), description="columns to hide; they never leave the edge"
    )
    image_size: int = Field(64, ge=8, le=1024, description="images are cropped square and resized to this many pixels")
    limit: dict[Literal["train", "val", "test"], PositiveInt] = Field(
        default_factory=dict, description="use a fixed, class-balanced subset of this many images per split"
    )
    augment: Literal["none", "flip", "flip-crop"] = Field("flip", description="random changes of the training images")
    cache_dir: Path | None = Field(None, description="where decoded images are kept; default: the user's cache folder")


class ExitConfig(Section):
    """The task exit: a small head on the front's output."""

    width: int = Field(128, ge=1, le=4096, description="channels of its hidden layers")
    depth: int = Field(2, ge=0, le=8, description="hidden layers; 0 is pooling and one linear layer")


class ModelConfig(Section):
    """Which network, and where it is divided."""

    name: str = Field("resnet18", description="a torchvision or timm name, or 'package.module:factory'")
    cut: str = Field("layer1", description="where to divide it; 'smartedge cuts NAME' lists the places")
    bottleneck: Shape | None = Field(None, description="a narrow, bounded tensor at the cut, e.g. 8x4x4")
    codebook: int | None = Field(
        None, ge=2, le=256, description="instead of a tensor, one of this many codewords crosses the cut"
    )
    small_input: bool = Field(True, description="CIFAR stem for ResNets, pooled head for VGGs, where images are small")
    exit: ExitConfig = Field(default_factory=lambda: ExitConfig())


class DistillConfig(Section):
    """The front learns from an undivided network too, trained on the edge first; it never leaves it."""

    epochs: int = Field(0, ge=0, description="epochs of the undivided network; 0: no distillation")
    weight: float = Field(0.5, ge=0, le=1, description="share of its answers in the task exit's loss")
    temperature: float = Field(2.0, gt=0, description="by which both sides' logits are divided")


class TrainConfig(Section):
    """How each side's parameters are updated."""

    batch_size: int = Field(64, ge=2, le=4096, description="images per step and per frame")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="of both sides")
    lr: float = Field(1e-3, gt=0, description="peak learning rate; warm-up of one tenth, then a cosine to zero")
    weight_decay: float = Field(0.05, ge=0, description="of matrices and kernels; 0.0005 is usual for sgd")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd (Nesterov)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over the classes")
    clip_grad_norm: float = Field(5.0, gt=0, description="gradients are scaled down to this norm")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast; faster on recent processors and GPUs"
    )
    channels_last: bool = Field(
        False, description="memory format of images and convolutions; faster for most networks, most with bfloat16"
    )
    front_epochs: PositiveInt | None = Field(
        None, description="two-stage, freeze-and-log: epochs of the front before it is frozen; default: epochs"
    )
    distill: DistillConfig = Field(default_factory=lambda: DistillConfig())


class AdversaryConfig(Section):
    """Exits that learn the columns of ``data.sensitive`` on the edge, so that the front can unlearn them."""

    exits: Annotated[tuple[Literal["linear", "mlp", "conv", "deep"], ...], BeforeValidator(_columns)] = Field(
        (),
        description="their shapes, one exit each and per sensitive column; mlp suits a bottleneck of a few numbers, "
        "conv and deep suit maps; none: no suppression",
    )
    weight: float = Field(3.0, ge=0, description="lambda: of the confusion term in the front's loss")
    warmup: float = Field(0.2, ge=0, le=1, description="share of the front's steps over which lambda rises from 0")
    confusion: Literal["conditional", "prior", "uniform", "minimax"] = Field(
        "conditional",
        description="what the exits' answers are driven to: the sensitive label's shares given the desired label, "
        "its shares, equal shares, or merely wrong",
    )
    dependence: float = Field(
        0.0, ge=0, description="of a kernel-dependence penalty (HSIC) between features and sensitive label"
    )
    steps: PositiveInt = Field(3, description="steps of the adversarial exits per step of the front")
    lr: float = Field(1e-3, gt=0, description="learning rate of the adversarial exits (constant)")
    reset_every: int = Field(2, ge=0, description="epochs after which one exit in turn starts anew; 0: never")


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
    delta: float = Field(1e-5, gt=0, lt=1, description="of the budget")
    sigma: float | None = Field(
        None, gt=0, description="instead of epsilon: the noise's standard deviation; epsilon is then reported"
    )
    warmup: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of the front's steps over which the noise that it learns through rises from 0; what is "
        "released always has all of it",
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
        description="float32, float16, uint8, uint4, uint2, uint1, topk-5%, tile-webp-80, tile-avif-50; for codewords: "
        "code; for images: image, jpeg-90, webp-80, avif-50. Default: uint8 (codewords: code; upload: image; split: "
        "float32)",
    )


class LinkConfig(Section):
    """The connection between the two processes."""

    queue_frames: int = Field(8, ge=1, le=1024, description="frames that may wait for the link before the edge waits")
    max_lead_frames: int = Field(4096, ge=1, description="frames the log may be ahead of the cloud's training")
    connect_timeout: float = Field(30.0, gt=0, description="seconds to wait for the cloud")
    token_file: Path | None = Field(None, description="a file whose first line both sides must share")
    tls_cert: Path | None = Field(None, description="this side's certificate (PEM)")
    tls_key: Path | None = Field(None, description="its private key (PEM)")
    tls_ca: Path | None = Field(None, description="certificates by which the other side is trusted (PEM)")
    insecure: bool = Field(False, description="allow listening beyond this machine without TLS and token")


class HardwareConfig(Section):
    """Where each side computes."""

    edge_device: str = Field("auto", description="cpu, cuda, mps or auto")
    cloud_device: str = Field("auto", description="cpu, cuda, mps or auto")
    threads: PositiveInt | None = Field(
        None, description="CPU threads of each process; default: half of this machine's cores"
    )


class Config(Section):
    """All settings of one run."""

    method: Annotated[str, AfterValidator(_method)] = Field(
        "hierarchical",
        description="hierarchical: the edge learns from its own exit; upload: images are uploaded; "
        "split: gradients come back; local: everything on the edge",
    )
    schedule: Annotated[str, AfterValidator(_schedule)] = Field(
        "joint",
        description="joint: the front learns while its features are sent, every epoch; two-stage: the front first, "
        "then features every epoch; freeze-and-log: the front first, then each image once",
    )
    epochs: PositiveInt = Field(6, description="passes over the training images")
    seed: int = Field(0, ge=0, lt=2**31, description="of initial parameters, order, augmentation and dropout")
    run_dir: Path = Field(Path("runs/default"), description="everything the run writes goes here")
    data: DataConfig = Field(default_factory=lambda: DataConfig())
    model: ModelConfig = Field(default_factory=lambda: ModelConfig())
    train: TrainConfig = Field(default_factory=lambda: TrainConfig())
    adversary: AdversaryConfig = Field(default_factory=lambda: AdversaryConfig())
    dp: DpConfig = Field(default_factory=lambda: DpConfig())
    codec: CodecConfig = Field(default_factory=lambda: CodecConfig())
    link: LinkConfig = Field(default_factory=lambda: LinkConfig())
    hardware: HardwareConfig = Field(default_factory=lambda: HardwareConfig())

    @model_validator(mode="after")
    def _combinations(self) -> Config:
        problems = get_method(self.method).problems(self) + get_schedule(self.schedule).problems(self)
        problems += self._privacy_problems()
        both = {self.data.desired} if isinstance(self.data.desired, str) else set(self.data.desired)
        if not both:
            problems.append("data.desired: the list is empty; name at least one column")
        if shared := both & set(self.data.sensitive):
            problems.append(f"data.sensitive: {', '.join(sorted(shared))} cannot be desired and sensitive at once")
        if (self.link.tls_cert is None) != (self.link.tls_key is None):
            problems.append("link.tls_cert, link.tls_key: give both or neither")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _privacy_problems(self) -> list[str]:
        problems = []
        dp, model = self.dp, self.model
        if self.suppresses and not self.data.sensitive:
            problems.append("data.sensitive: adversarial exits need at least one column to hide; name it here")
        if model.bottleneck is not None and model.codebook is not None:
            problems.append("model.bottleneck, model.codebook: give one of them")
        if dp.mechanism == "none":
            if dp.epsilon is not None or dp.sigma is not None:
                problems.append("dp.mechanism: 'none' has neither epsilon nor sigma; choose a mechanism")
        elif dp.mechanism in ADDITIVE and (dp.epsilon is None) == (dp.sigma is None):
            problems.append(f"dp.epsilon, dp.sigma: mechanism '{dp.mechanism}' needs exactly one of them")
        elif dp.mechanism in DISCRETE and (dp.epsilon is None or dp.sigma is not None):
            problems.append(f"dp.epsilon: mechanism '{dp.mechanism}' needs it (and no sigma)")
        if dp.mechanism in DISCRETE and model.codebook is None:
            problems.append(f"model.codebook: mechanism '{dp.mechanism}' releases codewords; say how many, such as 8")
        if dp.mechanism in ADDITIVE and model.codebook is not None:
            problems.append("dp.mechanism: codewords are released by 'randomised-response' or 'subset-selection'")
        if dp.mechanism in ADDITIVE and model.bottleneck is None and dp.clip is None:
            problems.append("dp.clip: without model.bottleneck the features have no bound; give one")
        if dp.granularity == "element" and dp.mechanism != "laplace":
            problems.append("dp.granularity: 'element' is for mechanism 'laplace'; use 'vector'")
        return problems

    @property
    def suppresses(self) -> bool:
        """Whether the front is trained to hide the sensitive columns."""
        return bool(self.adversary.exits) or self.adversary.dependence > 0

    @property
    def front_first(self) -> bool:
        """Whether the front is trained, and frozen, before anything is released."""
        return get_schedule(self.schedule).trains_front_first(self)

    @property
    def releases(self) -> int:
        """How often one training image is released in the whole run, at most."""
        return get_schedule(self.schedule).releases(self)

    @property
    def codec_name(self) -> str:
        """The codec in force: ``codec.name``, or the default of the method."""
        return self.codec.name or get_method(self.method).usual_codec(self)

    @property
    def front_epochs(self) -> int:
        """Epochs in which the front learns."""
        return self.train.front_epochs or self.epochs

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return self.hardware.threads or max(1, (os.cpu_count() or 2) // 2)

    def whole(self, outputs: int) -> dict[str, Any]:
        """Arguments for :func:`smartedge.models.zoo.build`."""
        model = self.model
        return {
            "name": model.name,
            "outputs": outputs,
            "image_size": self.data.image_size,
            "small_input": model.small_input,
            "seed": self.seed,
        }

    def division(self, outputs: int) -> dict[str, Any]:
        """Arguments for :func:`smartedge.models.network.divide`."""
        model = self.model
        return {
            **self.whole(outputs),
            "at": model.cut,
            "bottleneck": model.bottleneck,
            "codebook": model.codebook,
            "exit_width": model.exit.width,
            "exit_depth": model.exit.depth,
        }

    def agreement(self) -> dict[str, Any]:
        """The settings on which edge and cloud must agree (what to hide, and where data lie, is the edge's alone)."""
        whole = self.model_dump(mode="json", include={"method", "schedule", "epochs", "seed", "model", "train", "dp"})
        data = self.data.model_dump(mode="json", include={"desired", "image_size", "augment"})
        return {**whole, "data": data, "codec": {"name": self.codec_name}}

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run, wherever they lie and on whatever they are computed."""
        return self.model_dump(mode="json", exclude={"run_dir", "hardware", "link"})

    def to_yaml(self) -> str:
        """The resolved settings as YAML; :func:`load_config` reads them back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """``["train.lr=0.01", "data.limit.train=100"]`` → nested mapping; values are read as YAML.

    Raises:
        ConfigError: when an assignment has no ``=`` or no key.
    """
    nested: dict[str, Any] = {}
    for assignment in assignments:
        key, found, value = assignment.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"--set {assignment!r}: write it as key=value, for example --set train.lr=0.01")
        *parents, leaf = key.strip().split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[leaf] = _read_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment!r}: the value is not YAML ({error})") from error
    return nested


def load_config(
    source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """Read and check the settings of a run.

    Args:
        source: a YAML file, a nested mapping, or a :class:`Config`.
        overrides: ``key=value`` strings as for ``--set``, or a nested mapping; they win over ``source``.

    Raises:
        ConfigError: naming every key that is wrong, why, and what to write instead.
    """
    where = "the settings"
    if isinstance(source, Config):
        raw: Any = source.model_dump(mode="json")
    elif isinstance(source, Mapping):
        raw = source
    else:
        where = str(source)
        try:
            raw = _read_yaml(Path(source).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{source}: no such file; 'smartedge init {source}' writes one to start from") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: cannot be read ({error})") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{source}: is not YAML ({error})") from error
        raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: must be a mapping of keys to values, but is a {type(raw).__name__}")
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    try:
        return Config.model_validate(_merged(raw, changes))
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _explain(problem)]
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def load_run_config(run_dir: Path) -> Config:
    """The settings that a run directory was made with.

    Raises:
        RunError: it is no run directory.
        ConfigError: its settings cannot be read.
    """
    file = run_dir / "config.yaml"
    if not file.exists():
        raise RunError(f"{run_dir}: holds no run; train one with 'smartedge train'")
    return load_config(file)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; a config must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} occurs twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as a string; people mean the number.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _section_at(path: Sequence[Any]) -> type[Section] | None:
    section: Any = Config
    for part in path:
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, Section) else None
        section = field.annotation if field is not None else None
    return section if isinstance(section, type) and issubclass(section, Section) else None


def _all_keys(section: type[Section] = Config, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys.extend(_all_keys(field.annotation, f"{prefix}{name}."))
    return keys


def _explain(problem: Any) -> list[str]:
    """One pydantic error as ``key: what is wrong; what to do``."""
    loc = [part for part in problem["loc"] if not (isinstance(part, str) and ("[" in part or part == "str"))]
    key = ".".join(str(part) for part in loc)
    if problem["type"] == "value_error":
        told = str(problem["ctx"]["error"]).split("\n")
        return told if not loc else [f"{key}: {line}" for line in told]
    if problem["type"] == "extra_forbidden":
        section = _section_at(loc[:-1])
        known = list(section.model_fields) if section else []
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        if near:
            advice = f"did you mean '{'.'.join(map(str, [*loc[:-1], near[0]]))}'?"
        elif elsewhere := [name for name in _all_keys() if name.split(".")[-1] == str(loc[-1])]:
            advice = f"did you mean '{elsewhere[0]}'?"
        else:
            advice = f"known keys here: {', '.join(known)}"
        return [f"{key}: unknown key; {advice}"]
    got = problem.get("input")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    hint = ""
    if problem["type"] == "literal_error" and isinstance(got, str):
        allowed = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        near = difflib.get_close_matches(got, allowed, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
    return [f"{key}: {message}, got {got!r}{hint}"]
