"""How a profile is put together from what each measuring process answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from smartedge.artifacts.profile import Profile
from smartedge.config import Config, load_config
from smartedge.errors import CodecError, ConfigError, RunError
from smartedge.lab.plan import survey
from smartedge.lab.plan.profile import as_method
from smartedge.runs.progress import Update

CODECS = ("float32", "uint8", "uint4")
Survey = Callable[..., tuple[Profile, dict[str, int]]]


class Processes:
    """Answers in the place of the processes that measure, and keeps what they were asked."""

    def __init__(self, profile: Profile) -> None:
        self.profile, self.asked, self.updates = profile, list[tuple[object, ...]](), list[Update]()
        self.seconds, self.now = 10.0, 0.0  # of a cut; on the clock
        self.refused: dict[str, str] = {}
        self.named: list[str] = []  # cuts that the process is told before it measures the whole network

    def update(self, update: Update) -> None:
        self.updates.append(update)

    def ask(
        self, config: Config, part: str, codecs: tuple[str, ...], repeats: int, cuts: Sequence[str] = ()
    ) -> dict[str, Any]:
        self.named += cuts
        self.asked.append((part, config.method, config.model.cut, codecs, repeats))
        if part == "whole":
            cuts = [(cut.name, cut.front_flops, cut.back_flops, 4 * cut.index) for cut in self.profile.cuts]
            whole, counts = self.profile.model_dump(mode="json"), {"train": 640, "val": 64, "test": 128}
            listed = {"all_cuts": [*cuts, ("pool", 9, 0, 5)], "left_out": {"jpeg": "no room"}, "counts": counts}
            return {**whole, "features": "images of faces", "outputs": 7, **listed}
        self.now += self.seconds
        if config.model.cut in self.refused:
            raise ConfigError(self.refused[config.model.cut])
        figures = self.profile.cut("early" if config.model.cut == "pool" else config.model.cut).model_dump(mode="json")
        for place in ("name", "index", "front_flops", "back_flops"):
            del figures[place]
        return {"figures": figures, "left_out": {"uint4": "too wide"} if config.model.cut == "late" else {}}


@pytest.fixture
def processes(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> Processes:
    found = Processes(profile)
    monkeypatch.setattr(survey, "_ask", found.ask)
    monkeypatch.setattr(survey, "_slowdown", lambda config, repeats: 1.25 if config.method == "local" else 9.0)
    monkeypatch.setattr(survey.time, "monotonic", lambda: found.now)
    return found


def test_a_profile_is_put_together(processes: Processes, config: Config) -> None:
    own = {"method": "split", "codec": {"name": "uint4"}, "hardware": {"threads": 3}, "model": {"cut": "late"}}
    staged = load_config(config, own)
    profile, counts = survey.measure_here(staged, monitor=processes, codecs=CODECS[:2], repeats=5)  # type: ignore[arg-type]
    names = (*CODECS[:2], staged.codec_name)
    assert processes.asked == [
        ("whole", "local", "late", tuple(dict.fromkeys(names)), 5),
        *(("cut", "hierarchical", cut, tuple(dict.fromkeys(names)), 5) for cut in ("late", "stem", "early", "pool")),
    ]
    assert counts == {"train": 640, "val": 64, "test": 128}
    assert [(cut.name, cut.index, cut.front_flops, cut.back_flops) for cut in profile.cuts] == [
        ("stem", 1, 10**6, 6 * 10**6), ("early", 2, 3 * 10**6, 4 * 10**6), ("late", 3, 5 * 10**6, 2 * 10**6),
        ("pool", 4, 9, 0),
    ]  # fmt: skip
    assert profile.cuts[0].front_step == processes.profile.cuts[0].front_step
    assert profile.all_cuts == ("stem", "early", "late", "pool")
    assert profile.left_out == {"jpeg": "no room", "uint4 at late": "too wide"}
    assert (profile.kind, profile.threads, profile.slowdown, profile.device) == ("measured", 3, 1.25, "cpu")
    assert (profile.features, profile.outputs, profile.notes) == ("images of faces", 7, ())
    assert profile.name == profile.machine["processor"] and profile.versions["smartedge"]
    for part in ("whole", "data", "transport", "checkpoint"):
        assert getattr(profile, part) == getattr(processes.profile, part)
    assert profile.network == survey.network_of(staged)
    told = [(update.phase, update.done, update.total, update.text) for update in processes.updates]
    assert told == [
        ("profile", 0, 10, "the undivided network"), ("profile", 1, 6, "the undivided network"),
        ("profile", 2, 6, "late"), ("profile", 3, 6, "stem"), ("profile", 4, 6, "early"), ("profile", 5, 6, "pool"),
        ("profile", 6, 6, "two at once"),
    ]  # fmt: skip


def test_cuts_that_take_too_long_are_left_out_unless_they_were_named(processes: Processes, config: Config) -> None:
    processes.seconds = 16.0  # the third would end after 48
    profile, _ = survey.measure_here(config, monitor=processes)  # type: ignore[arg-type]
    assert [cut.name for cut in profile.cuts] == ["stem", "early"], "the settings' own first"
    late = "not measured: it would take more than 45 s; --cuts late measures it"
    assert profile.left_out["late"] == late and "pool" in profile.left_out
    processes.now = 0.0
    profile, _ = survey.measure_here(config, monitor=processes, cuts=("pool", "late", "early"))  # type: ignore[arg-type]
    assert [cut.name for cut in profile.cuts] == ["early", "late", "pool"]
    profile, _ = survey.measure_here(config, monitor=processes, cuts=("all",))  # type: ignore[arg-type]
    assert processes.named == ["pool", "late", "early"]  # all of them need not be looked for
    assert [cut.name for cut in profile.cuts] == ["stem", "early", "late", "pool"]


def test_a_cut_that_cannot_be_measured_is_told_and_an_error_where_all_are_so(
    processes: Processes, config: Config
) -> None:
    processes.refused = {"late": "too deep", "stem": "too wide"}
    profile, _ = survey.measure_here(config, monitor=processes)  # type: ignore[arg-type]
    assert [cut.name for cut in profile.cuts] == ["early", "pool"]
    assert (profile.left_out["late"], profile.left_out["stem"]) == ("too deep", "too wide")
    with pytest.raises(ConfigError, match=r"^too wide$"):
        survey.measure_here(config, monitor=processes, cuts=("stem", "late"))  # type: ignore[arg-type]


def test_other_codecs_are_refused_before_anything_is_measured(processes: Processes, config: Config) -> None:
    with pytest.raises(CodecError, match="uint5"):
        survey.measure_here(config, monitor=processes, codecs=("uint5",))  # type: ignore[arg-type]
    assert processes.asked == []
    survey.measure_here(load_config(config, {"codec": {"name": "topk-10%"}}), monitor=processes)  # type: ignore[arg-type]
    assert processes.asked[0][3] == (*survey.DEFAULT_CODECS, "topk-10%")


def test_the_undivided_network_is_measured_without_what_belongs_to_a_cut(config: Config) -> None:
    """Its own codec and schedule, no adversaries, no noise and no teacher."""
    hidden = load_config(
        config,
        {
            "schedule": "freeze-and-log",
            "codec": {"name": "uint4"},
            "data": {"sensitive": ["masculine"]},
            "adversary": {"exits": ["mlp"]},
            "dp": {"mechanism": "gaussian", "clip": 1.0, "sigma": 1.0},
            "train": {"front_epochs": 3, "distill": {"epochs": 2}},
            "hardware": {"threads": 2},
        },
    )
    whole = as_method(hidden, survey._WHOLE, "late")
    assert (whole.method, whole.schedule, whole.model.cut, whole.threads) == ("local", "joint", "late", 2)
    assert (whole.dp.mechanism, whole.adversary.exits, whole.train.distill.epochs) == ("none", (), 0)
    assert whole.codec == load_config({}).codec
    divided = as_method(hidden, survey._DIVIDED, "stem")
    assert divided == load_config(hidden, {"model": {"cut": "stem"}})


@pytest.mark.parametrize(
    ("out", "error", "says"),
    [
        ("noise\n", RunError, r"measuring 'cut' failed: its process ended early"),
        ("", RunError, r"measuring 'cut' failed"),
        ('{"error": {"code": "SE-CONFIG", "message": "no"}}', ConfigError, "^no$"),
    ],
)
def test_what_a_measuring_process_answers_is_read(out: str, error: type[Exception], says: str) -> None:
    assert survey._answer('said\n{"figures": 3}\n', "cut") == {"figures": 3}
    with pytest.raises(error, match=says):
        survey._answer(out, "cut")


@pytest.mark.parametrize(
    ("times", "slowdown"), [((2.0, 6.0, 4.0), 2.0), ((4.0, 2.0, 4.0), 1.0), ((0.0, 0.0, 0.0), 1.0)]
)
def test_a_step_beside_another_is_compared_with_those_before_and_after(
    times: tuple[float, ...], slowdown: float, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Child:
        stdin = stdout = None

        def __init__(self) -> None:
            self.ended = list[str]()

        def kill(self) -> None:
            self.ended.append("killed")

        def wait(self) -> None:
            self.ended.append("waited for")

    children, told = [Child(), Child()], list[tuple[int, str]]()
    left, seconds = list(children), list(times)
    timing = {"cpu_seconds": 0.0, "spread": 0.0, "first_seconds": 0.0}

    def hear(child: Child) -> dict[str, Any]:
        if told[-1][1] != "go\n" or child is children[1]:
            return {}
        return {"step": {"seconds": seconds.pop(0), **timing}}

    monkeypatch.setattr(survey, "_start", lambda: left.pop(0))
    monkeypatch.setattr(survey, "_tell", lambda child, line: told.append((children.index(child), line)))
    monkeypatch.setattr(survey, "_hear", hear)
    assert survey._slowdown(config, 9) == slowdown
    request = survey._request(config, "together", (), 3)
    assert told == [(0, request), (1, request), (0, "go\n"), (1, "go\n"), (0, "go\n"), (0, "go\n")]
    assert [child.ended for child in children] == [["killed", "waited for"]] * 2
