"""Predicts every choice, keeps those that the constraints allow, ranks them, and explains the recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smartedge.artifacts.plan import Choice, Job, Machine, PlanFile, Prediction
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError
from smartedge.lab.plan.cost import predict
from smartedge.lab.plan.job import Setting
from smartedge.lab.plan.profile import as_method
from smartedge.methods.base import METHODS, Method, encodes_images, get_method
from smartedge.methods.schedules import SCHEDULES, get_schedule

__all__ = [
    "Constraints",
    "Plan",
    "as_file",
    "choices",
    "describe",
    "explain",
    "figures_of",
    "make_plan",
    "parse_depth",
    "written",
]

_NOISY = 0.15  # interquartile range ÷ median, above which the measurements are called noisy
_BUSY = 0.85  # if a step had a smaller share of a processor, the machine is called busy
_NEARLY = 0.05  # choices whose times differ by less count as equally good, since predictions are not more exact


@dataclass(frozen=True)
class Constraints:
    """The constraints on a choice. None: no constraint."""

    max_edge_bytes: float | None = None  # peak memory of the edge's process
    max_bytes: float | None = None  # up and down over the whole run
    min_depth: float | None = None  # smallest share of the network's cuts that lie on the edge


@dataclass(frozen=True)
class Plan:
    """All predictions, the fastest first. Choices that break a constraint come after all others."""

    ranked: tuple[Prediction, ...]
    method: str  # of the settings
    job: Job
    setting: Setting

    @property
    def best(self) -> Prediction | None:
        """The first of those allowed."""
        return next((p for p in self.ranked if not p.rejected), None)

    @property
    def chosen(self) -> Prediction | None:
        """The first of those allowed that keeps the settings' method: what ``--write`` writes."""
        return self.best_of(self.method)

    def first_of(self, method: str) -> Prediction | None:
        """The first with that method, allowed or not."""
        return next((p for p in self.ranked if p.choice.method == method), None)

    def best_of(self, method: str) -> Prediction | None:
        """The first of those allowed with that method."""
        return next((p for p in self.ranked if not p.rejected and p.choice.method == method), None)


def choices(setting: Setting, methods: Sequence[str] = tuple(METHODS), schedules: Sequence[str] = ()) -> list[Choice]:
    """Every choice for which both profiles have figures.

    Args:
        setting: machines and link. The profiles of the machines list the cuts and codecs.
        methods: names; default: all.
        schedules: names; default: all that a method has. A method with one schedule keeps it.
    """
    found: list[Choice] = []
    for method in METHODS.values():
        if method.name not in methods:
            continue
        offered = _schedules_of(method)
        for schedule in offered:
            if not schedules or schedule in schedules or len(offered) == 1:
                found += [
                    Choice(method=method.name, schedule=schedule, cut=cut, codec=codec)
                    for cut, codec in _ways(method, setting)
                ]
    return found


def _schedules_of(method: Method) -> list[str]:
    """Names of the schedules that a method can have."""
    return [name for name, schedule in SCHEDULES.items() if schedule.refuses(method) is None]


def _ways(method: Method, setting: Setting) -> list[tuple[str | None, str | None]]:
    """Cut and codec of all that a method can send, of which both profiles have figures."""
    edge, cloud = setting.edge, setting.cloud
    if not method.has_cloud:
        return [(None, None)]
    if not method.divides:
        return [(None, name) for name in edge.whole.codecs if name in cloud.whole.codecs]
    in_cloud = {cut.name: cut for cut in cloud.cuts}
    ways: list[tuple[str | None, str | None]] = []
    for cut in edge.cuts:
        both = [name for name in cut.codecs if cut.name in in_cloud and name in in_cloud[cut.name].codecs]
        if not method.answered or "float32" in both:  # answers use this codec
            ways += [(cut.name, name) for name in both if not encodes_images(name)]
    return ways


def make_plan(
    config: Config,
    job: Job,
    setting: Setting,
    constraints: Constraints,
    *,
    methods: Sequence[str] = tuple(METHODS),
    schedules: Sequence[str] = (),
) -> Plan:
    """Predict and rank all choices with which a run can be made.

    Where the settings suppress a sensitive label, a method that protects its front is offered only with schedules that
    train the front first (unless ``schedules`` names others): else it would send features before the front has
    unlearned anything.

    Raises:
        ConfigError: there is nothing to choose from.
    """
    offered = choices(setting, methods, schedules)
    if config.suppresses and not schedules:
        offered = [
            choice
            for choice in offered
            if get_schedule(choice.schedule).front_first or not get_method(choice.method).has_exit
        ]
    predictions = [predict(choice, job, setting) for choice in offered if _can_run(config, choice)]
    if not predictions:
        raise ConfigError("plan: nothing to choose from; allow more with --methods, --schedules, --cuts or --codecs")
    checked = [p.model_copy(update={"rejected": _broken(p, constraints)}) for p in predictions]
    ranked = sorted(checked, key=lambda p: (bool(p.rejected), p.seconds_total, p.bytes_up_total))
    return Plan(tuple(ranked), config.method, job, setting)


def _can_run(config: Config, choice: Choice) -> bool:
    """Whether these settings allow that choice, or, for another method, what is left of them without their own."""
    try:
        own = choice.method == config.method
        written(config if own else as_method(config, get_method(choice.method), choice.cut or config.model.cut), choice)
    except ConfigError:
        return False
    return True


def _broken(prediction: Prediction, limits: Constraints) -> tuple[str, ...]:
    found = []
    if limits.max_edge_bytes is not None and prediction.edge_peak_bytes > limits.max_edge_bytes:
        found.append("edge memory")
    if limits.max_bytes is not None and prediction.bytes_up_total + prediction.bytes_down_total > limits.max_bytes:
        found.append("bytes")
    if limits.min_depth is not None and prediction.depth < limits.min_depth:
        found.append("depth")
    return tuple(found)


def parse_depth(text: str, all_cuts: Sequence[str]) -> float:
    """A share between 0 and 1, or the name of a cut, which means the depth of that cut.

    Raises:
        ConfigError: it is neither.
    """
    if text in all_cuts:
        return (all_cuts.index(text) + 1) / (len(all_cuts) + 1)
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"--min-depth {text}: give a share from 0 to 1, or a cut: {', '.join(all_cuts)}")
    return share


def describe(choice: Choice) -> str:
    """One choice in a few words."""
    schedule = "" if len(_schedules_of(get_method(choice.method))) == 1 else f", {choice.schedule}"
    where = f" at {choice.cut}" if choice.cut else ""
    return f"{choice.method}{where}{schedule}{f', {choice.codec}' if choice.codec else ''}"


def figures_of(prediction: Prediction) -> dict[str, str]:
    """The figures of a choice as texts, by the heads of their columns."""
    joules = prediction.energy.total
    return {
        "s/epoch": f"{prediction.seconds_per_epoch:.3g}",
        **{stage: f"{seconds:.3g}" for stage, seconds in prediction.stage_seconds.items()},
        "s in all": f"{prediction.seconds_total:.4g}",
        "bytes/image": f"{prediction.bytes_up_per_image:,.0f}",
        "MB sent": f"{(prediction.bytes_up_total + prediction.bytes_down_total) / 1e6:,.1f}",
        "edge MiB": f"{prediction.edge_peak_bytes / 2**20:,.0f}",
        "edge J": "–" if joules is None else f"{joules:,.0f}",
        "depth": f"{prediction.depth:.2f}",
    }


def explain(plan: Plan) -> list[str]:
    """The recommendation and its reasons, one sentence each."""
    best, chosen = plan.best, plan.chosen
    if best is None:
        nearest = plan.ranked[0]
        return [
            f"Nothing keeps all constraints. The fastest choice, {describe(nearest.choice)}, breaks: "
            f"{', '.join(nearest.rejected)}."
        ]
    lines: list[str] = []
    if chosen is None:
        lines.append(f"No choice with method {plan.method} keeps the constraints.")
        lines.append(f"Use {describe(best.choice)}: {_seconds(best)} per epoch.")
        lines += [_why(best)]
    elif best.seconds_total < (1 - _NEARLY) * chosen.seconds_total:
        ratio = chosen.seconds_total / best.seconds_total
        lines.append(
            f"Do not use {plan.method} for its speed here: {describe(best.choice)} is {ratio:.2f} times as fast "
            f"({_seconds(best)} against {_seconds(chosen)} per epoch for {describe(chosen.choice)})."
        )
        lines.append(f"{_why(best)} With {plan.method}, {_why(chosen).lower()}")
        if get_method(best.choice.method).sends == "images":
            lines.append(f"But with method {best.choice.method} raw images leave the edge.")
    else:
        lines.append(
            f"Use {describe(chosen.choice)}: {_seconds(chosen)} per epoch, {chosen.seconds_total:.3g} s in all."
        )
        lines.append(_why(chosen))
        for method in METHODS:
            rival = plan.best_of(method)
            if rival is not None and method != plan.method:
                ratio = rival.seconds_total / chosen.seconds_total
                lines.append(f"The best of method {method} takes {ratio:.2f} times as long ({describe(rival.choice)}).")
    lines += _cautions(plan)
    return lines


def _why(prediction: Prediction) -> str:
    stages, wall = prediction.stage_seconds, prediction.seconds_per_epoch
    busy = stages[prediction.bottleneck]
    reason = {
        "edge": "the edge's own steps take longest: a cut nearer to the image would shorten them",
        "encode": "releasing and encoding take longest: a cheaper codec would shorten them",
        "link": f"the link takes longest, with {prediction.bytes_up_per_image:,.0f} bytes per image: a narrower cut, "
        "a bottleneck or a smaller codec would shorten it",
        "cloud": "the cloud's steps take longest: more of the network on the edge would shorten them",
    }[prediction.bottleneck]
    if not get_method(prediction.choice.method).has_cloud:
        rest = "" if busy > (1 - _NEARLY) * wall else "; the rest is reading images and writing checkpoints"
        return f"Everything is the edge's work: of each epoch's {wall:.3g} s, its steps take {busy:.3g} s{rest}."
    return f"Of each epoch's {wall:.3g} s, {reason} ({busy:.3g} s)."


def _cautions(plan: Plan) -> list[str]:
    setting = plan.setting
    lines = []
    for profile in (setting.edge, setting.cloud):
        lines += [f"{note}." for note in profile.notes]
        if profile.kind == "scaled":
            continue
        timings = [profile.whole.step, *(t for cut in profile.cuts for t in (cut.front_step, cut.back_step))]
        noise = max(timing.spread for timing in timings)
        share = min(timing.cpu_seconds / timing.seconds for timing in timings if timing.seconds > 0)
        if profile.device == "cpu" and share < _BUSY:
            lines.append(
                f"{profile.name} was busy with other things while it was measured (a step had {100 * share:.0f} % of a "
                "processor): these times are too long for an idle machine; measure again when it is idle."
            )
        elif noise > _NOISY:
            lines.append(
                f"The measurements on {profile.name} were noisy (the middle half of the repeats spread over "
                f"{100 * noise:.0f} % of the median): measure again, with more --repeats."
            )
    chosen = plan.chosen or plan.best
    if chosen is not None and chosen.choice.codec not in (None, "float32", "image"):
        lines.append("Accuracy is not predicted: codecs that lose something, cuts and schedules change it.")
    else:
        lines.append("Accuracy is not predicted: cuts and schedules change it.")
    return list(dict.fromkeys(lines))  # edge and cloud may have the same file


def _seconds(prediction: Prediction) -> str:
    return f"{prediction.seconds_per_epoch:.3g} s"


def written(config: Config, choice: Choice) -> Config:
    """The settings with that choice in them.

    Raises:
        ConfigError: the choice does not go with other settings.
    """
    changes: dict[str, object] = {"method": choice.method, "schedule": choice.schedule}
    if choice.cut is not None:
        changes["model"] = {"cut": choice.cut}
    changes["codec"] = {"name": choice.codec, "bytes": None, "reference": None}  # they are in the name
    if not get_schedule(choice.schedule).front_first and config.train.front_epochs is not None:
        changes["train"] = {"front_epochs": None}
    return load_config(config, changes)


def as_file(plan: Plan) -> PlanFile:
    """A plan as it is written: what :func:`explain` says, and every prediction."""
    setting = plan.setting
    edge, cloud = (
        Machine(name=profile.name, kind=profile.kind, date=profile.date) for profile in (setting.edge, setting.cloud)
    )
    return PlanFile(
        energy="modelled, see docs/decisions/0010-planner.md",
        link=setting.link,
        same_machine=setting.same_machine,
        edge=edge,
        cloud=cloud,
        job=plan.job,
        recommended=None if plan.best is None else plan.best.choice,
        chosen=None if plan.chosen is None else plan.chosen.choice,
        reasons=tuple(explain(plan)),
        ranked=plan.ranked,
    )
