from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawings import small_text

from smartedge.artifacts.plan import Choice, Energy, Job, Prediction
from smartedge.artifacts.profile import Profile
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError
from smartedge.lab.plan.draw import draw_plan, rows_by_cut
from smartedge.lab.plan.job import Setting
from smartedge.lab.plan.published import load_device, scale
from smartedge.lab.plan.search import (
    Constraints,
    as_file,
    choices,
    describe,
    explain,
    figures_of,
    make_plan,
    parse_depth,
    written,
)


def test_every_choice_is_there_once(make_setting: Callable[..., Setting]) -> None:
    found = choices(make_setting("3g"))
    assert len(found) == len(set(found))
    # 3 schedules, 3 cuts, 3 codecs; 2 schedules and 2 codecs of images; split 3 by 3; one on the edge.
    by_method = {
        method: [c for c in found if c.method == method] for method in ("hierarchical", "upload", "split", "local")
    }
    assert {method: len(some) for method, some in by_method.items()} == {
        "hierarchical": 27,
        "upload": 4,
        "split": 9,
        "local": 1,
    }


def test_only_cuts_of_both_profiles_are_chosen(profile: Profile, make_setting: Callable[..., Setting]) -> None:
    fewer = profile.model_copy(update={"cuts": profile.cuts[:1]})
    found = choices(make_setting("3g", cloud=fewer), methods=("hierarchical",), schedules=("joint",))
    assert {choice.cut for choice in found} == {"stem"}


def test_answers_need_a_codec_that_both_profiles_have(profile: Profile, make_setting: Callable[..., Setting]) -> None:
    def methods(setting: Setting) -> set[tuple[str, str | None]]:
        return {(choice.method, choice.codec) for choice in choices(setting) if choice.cut == "early"}

    cuts = tuple(cut.model_copy(update={"codecs": {"uint8": cut.codecs["uint8"]}}) for cut in profile.cuts)
    found = methods(make_setting("3g", cloud=profile.model_copy(update={"cuts": cuts})))
    assert found == {("hierarchical", "uint8")}
    assert ("split", "uint8") in methods(make_setting("3g"))


def test_the_fastest_comes_first(config: Config, job: Job, make_setting: Callable[..., Setting]) -> None:
    plan = make_plan(config, job, make_setting("3g"), Constraints())
    times = [p.seconds_total for p in plan.ranked]
    assert times == sorted(times)


def test_constraints_put_what_breaks_them_last(config: Config, job: Job, make_setting: Callable[..., Setting]) -> None:
    limits = Constraints(max_edge_bytes=570e6, max_bytes=20e6, min_depth=0.3)
    plan = make_plan(config, job, make_setting("3g"), limits)
    allowed = [p for p in plan.ranked if not p.rejected]
    assert allowed and plan.ranked[: len(allowed)] == tuple(allowed)
    for p in plan.ranked:
        broken = {
            "edge memory": p.edge_peak_bytes > 570e6,
            "bytes": p.bytes_up_total + p.bytes_down_total > 20e6,
            "depth": p.depth < 0.3,
        }
        assert set(p.rejected) == {name for name, is_broken in broken.items() if is_broken}
    assert {name for p in plan.ranked for name in p.rejected} == {"edge memory", "bytes", "depth"}
    assert "upload" not in {p.choice.method for p in allowed}  # images leave the edge: depth 0


def test_where_nothing_keeps_the_constraints_the_words_say_so(
    config: Config, job: Job, make_setting: Callable[..., Setting]
) -> None:
    plan = make_plan(config, job, make_setting("3g"), Constraints(max_edge_bytes=1.0))
    assert plan.best is None and plan.chosen is None
    assert explain(plan) == [explain(plan)[0]] and "edge memory" in explain(plan)[0]


def test_a_method_that_is_faster_is_named(config: Config, job: Job, make_setting: Callable[..., Setting]) -> None:
    # Two strong machines and a thin link: training on the edge alone needs no link at all.
    plan = make_plan(config, job, make_setting("0.05"), Constraints(), methods=("hierarchical", "local"))
    assert plan.best is not None and plan.best.choice.method == "local"
    words = " ".join(explain(plan))
    assert words.startswith("Do not use hierarchical for its speed here: local is ")
    assert "the link takes longest" in words
    assert plan.chosen is not None and plan.chosen.choice.method == "hierarchical"


def test_a_weak_edge_is_told_what_it_gains(
    config: Config, job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    setting = make_setting("wifi", edge=scale(profile, load_device("raspberry-pi-4")))
    plan = make_plan(config, job, setting, Constraints(min_depth=0.1))
    words = explain(plan)
    assert words[0].startswith("Use hierarchical at stem")
    assert any(line.startswith("The best of method local takes ") for line in words)
    assert any("raspberry-pi-4 was not measured" in line for line in words)
    assert words[-1].startswith("Accuracy is not predicted")


def test_a_profile_taken_on_a_busy_machine_is_called_that(
    config: Config, job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    def words(*, device: str = "cpu", kind: str = "measured", **changes: float) -> str:
        step = profile.whole.step.model_copy(update=changes)
        whole = profile.whole.model_copy(update={"step": step})
        noisy = profile.model_copy(update={"whole": whole, "device": device, "kind": kind})
        setting = make_setting("3g", edge=noisy, cloud=noisy.model_copy())
        return " ".join(explain(make_plan(config, job, setting, Constraints())))

    assert "busy with other things" in words(cpu_seconds=1e-3)
    assert words(spread=0.3).count("were noisy") == 1  # edge and cloud read the same file
    # A GPU leaves the processor idle, and of a scaled machine nothing was measured.
    for quiet in (words(), words(cpu_seconds=1e-3, device="cuda"), words(cpu_seconds=1e-3, spread=0.3, kind="scaled")):
        assert "busy with other things" not in quiet and "noisy" not in quiet


def test_depth_is_a_share_or_a_cut() -> None:
    cuts = ("a", "b", "c")
    assert parse_depth("b", cuts) == 0.5
    assert parse_depth("0.25", cuts) == 0.25
    for wrong in ("d", "1.5", "-0.1"):
        with pytest.raises(ConfigError, match="--min-depth"):
            parse_depth(wrong, cuts)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(method="hierarchical", schedule="freeze-and-log", cut="late", codec="uint8"),
        Choice(method="hierarchical", schedule="joint", cut="stem", codec="float32"),
        Choice(method="hierarchical", schedule="joint", cut="stem", codec="learned-90"),
        Choice(method="hierarchical", schedule="freeze-and-log", cut="stem", codec="uint4-previous"),
        Choice(method="upload", schedule="freeze-and-log", cut=None, codec="jpeg"),
        Choice(method="split", schedule="joint", cut="late", codec="float32"),
        Choice(method="local", schedule="joint", cut=None, codec=None),
    ],
)
def test_what_is_written_is_what_was_chosen(choice: Choice, config: Config) -> None:
    staged = load_config(
        config, {"schedule": "freeze-and-log", "train": {"front_epochs": 3}, "codec": {"name": "learned", "bytes": 50}}
    )
    changed = written(staged if choice.method == "hierarchical" else config, choice)
    assert (changed.method, changed.schedule) == (choice.method, choice.schedule)
    assert changed.codec.full_name("none") == (choice.codec or "none")
    assert changed.model.cut == (choice.cut or config.model.cut)
    assert changed.train.front_epochs == (3 if choice.schedule == "freeze-and-log" and choice.cut else None)


def test_the_picture_has_a_bar_for_each_cut_and_method(
    config: Config, job: Job, make_setting: Callable[..., Setting], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    plan = make_plan(config, job, make_setting("3g"), Constraints(min_depth=0.3))
    rows = rows_by_cut(plan)
    assert [name for name, _ in rows][:3] == ["stem", "early", "late"]
    assert [p.choice.method for _, p in rows][3:] == ["upload", "split", "local"]
    png, page = draw_plan(plan, tmp_path / "a" / "plan.png"), draw_plan(plan, tmp_path / "plan.html")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = html.unescape(page.read_text())
    assert small_text(page) == []
    assert "<svg" in text and text.count("<tr") == 1 + len(plan.ranked) and "://" not in text
    assert "Plan · smartedge" in text and "not allowed: depth" in text
    broken = [f"{describe(p.choice)} (not allowed: depth)" for p in plan.ranked if p.rejected]
    dimmed = re.findall(r'<tr class="note"><th scope="row">([^<]*)</th>', text)
    assert dimmed == broken and 0 < len(broken) < len(plan.ranked)
    figures = "".join(f"<td>{figure}</td>" for figure in figures_of(plan.ranked[0]).values())
    assert f'<tr><th scope="row">{describe(plan.ranked[0].choice)}</th>{figures}</tr>' in text
    where = "edge test bench, cloud test bench; link 3g (1.1 Mbit/s up, 50 ms); predicted, not measured"
    assert f'<p class="lede">{where}</p>' in text and all(line in text for line in explain(plan))
    first = rows[0][1]
    bar = ", ".join(f"{stage} {first.stage_seconds[stage]:.3g}" for stage in ("edge", "encode", "link", "cloud"))
    assert f"Predicted time of an epoch, by cut: stem {first.seconds_per_epoch:.3g} s ({bar}); early" in text


def test_the_bars_are_the_fastest_choice_at_each_cut_and_one_of_each_other_method(
    config: Config, job: Job, make_setting: Callable[..., Setting]
) -> None:
    plan = make_plan(config, job, make_setting("3g"), Constraints())
    for name, prediction in rows_by_cut(plan)[:3]:
        at_cut = [p for p in plan.ranked if p.choice.method == "hierarchical" and p.choice.cut == name]
        assert prediction == at_cut[0]
    split = plan.first_of("split")
    assert split is not None and rows_by_cut(plan)[4:] == [
        (f"split at {split.choice.cut}", split),
        ("local", plan.first_of("local")),
    ]
    undivided = replace(plan, method="upload")  # the cuts are those of the first method that divides
    assert rows_by_cut(undivided) == rows_by_cut(plan)
    assert [name for name, _ in rows_by_cut(replace(plan, method="split"))] == [
        "stem", "early", "late", f"hierarchical at {plan.ranked[0].choice.cut}", "upload", "local",
    ]  # fmt: skip


def test_the_figures_of_a_choice_as_texts(config: Config, job: Job, make_setting: Callable[..., Setting]) -> None:
    choice = Choice(method="hierarchical", schedule="joint", cut="early", codec="uint8")
    prediction = Prediction(
        choice=choice,
        seconds_per_epoch=1.2345,
        seconds_total=1234.56,
        stage_seconds={"edge": 1.0, "encode": 0.02, "link": 3.456, "cloud": 0.5},
        bottleneck="link",
        bytes_up_per_image=2053.4,
        bytes_up_total=1.5e9,
        bytes_down_total=2.5e8,
        edge_peak_bytes=3 * 2**30,
        energy=Energy(compute=100.0, radio=1134.4),
        depth=0.4,
        rmse=0.02,
    )
    assert figures_of(prediction) == {
        "s/epoch": "1.23", "edge": "1", "encode": "0.02", "link": "3.46", "cloud": "0.5", "s in all": "1235",
        "bytes/image": "2,053", "MB sent": "1,750.0", "edge MiB": "3,072", "edge J": "1,234", "depth": "0.40",
    }  # fmt: skip
    unknown = prediction.model_copy(update={"energy": Energy(compute=100.0, radio=None)})
    assert figures_of(unknown)["edge J"] == "–"
    assert describe(choice) == "hierarchical at early, joint, uint8"
    assert describe(Choice(method="local", schedule="joint", cut=None, codec=None)) == "local"
    assert describe(Choice(method="split", schedule="joint", cut="late", codec="float32")) == "split at late, float32"


def test_the_file_of_a_plan_holds_what_was_planned(
    config: Config, job: Job, make_setting: Callable[..., Setting]
) -> None:
    plan = make_plan(config, job, make_setting("0.05", same_machine=True), Constraints())
    found = as_file(plan)
    assert plan.best is not None and plan.chosen is not None and plan.best != plan.chosen
    assert (found.recommended, found.chosen) == (plan.best.choice, plan.chosen.choice)
    assert (found.link, found.same_machine, found.job) == (plan.setting.link, True, job)
    assert (found.reasons, found.ranked) == (tuple(explain(plan)), plan.ranked)
    for machine in (found.edge, found.cloud):
        assert (machine.name, machine.kind, machine.date) == ("test bench", "measured", "2026-01-01T00:00:00+00:00")
    none = as_file(make_plan(config, job, make_setting("3g"), Constraints(max_bytes=-1.0)))
    assert (none.recommended, none.chosen) == (None, None)


def test_what_is_sent_in_all_and_the_depth_have_limits_that_may_be_reached(
    config: Config, job: Job, make_setting: Callable[..., Setting]
) -> None:
    plan = make_plan(config, job, make_setting("3g"), Constraints())
    split = plan.first_of("split")
    assert split is not None and split.bytes_down_total > 0
    most, memory = split.bytes_up_total + split.bytes_down_total, split.edge_peak_bytes
    for limits, broken in (
        (Constraints(memory, most, split.depth), ()),
        (Constraints(memory - 1, most - 1, split.depth + 1e-9), ("edge memory", "bytes", "depth")),
    ):
        ranked = make_plan(config, job, make_setting("3g"), limits).ranked
        (same,) = [p for p in ranked if p.choice == split.choice]
        assert same.rejected == broken


@pytest.mark.parametrize("name", ["plan.pdf", "plan"])
def test_other_pictures_are_refused(
    name: str, config: Config, job: Job, make_setting: Callable[..., Setting], tmp_path: Path
) -> None:
    plan = make_plan(config, job, make_setting("3g"), Constraints())
    with pytest.raises(ConfigError, match=r"\.png or \.html"):
        draw_plan(plan, tmp_path / name)


def test_nothing_to_choose_from_is_an_error(config: Config, job: Job, make_setting: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="nothing to choose from"):
        make_plan(config, job, make_setting("3g"), Constraints(), methods=())


def test_a_choice_that_cannot_train_is_not_offered(
    config: Config, job: Job, profile: Profile, make_setting: Callable[..., Setting]
) -> None:
    more = {"learned-60": profile.cuts[0].codecs["uint8"], "uint4-previous": profile.cuts[0].codecs["uint4"]}
    cuts = tuple(cut.model_copy(update={"codecs": cut.codecs | more}) for cut in profile.cuts)
    rich = profile.model_copy(update={"cuts": cuts})
    plan = make_plan(config, job, make_setting("3g", edge=rich, cloud=rich), Constraints())
    with_codec = {
        codec: {(p.choice.method, p.choice.schedule) for p in plan.ranked if p.choice.codec == codec} for codec in more
    }
    three = {("hierarchical", schedule) for schedule in ("joint", "two-stage", "freeze-and-log")}
    assert with_codec == {"learned-60": three, "uint4-previous": {("hierarchical", "freeze-and-log")}}


@pytest.mark.parametrize(
    "given",
    [
        {"model": {"front": "front.safetensors"}, "schedule": "freeze-and-log"},
        {"model": {"start": "front.safetensors"}},
        {"model": {"adapter": 8}, "train": {"freeze": ["front"]}},
        {"fleet": {"expect": 2, "cuts": ["early", "late"]}},
        {"cloud": {"shards": 2}},
    ],
)
def test_rivals_are_planned_without_what_only_the_own_method_has(
    given: dict[str, Any], config: Config, job: Job, make_setting: Callable[..., Setting]
) -> None:
    own = load_config(config, given)
    plan = make_plan(own, job, make_setting("3g"), Constraints())
    assert {p.choice.method for p in plan.ranked} == {"hierarchical", "upload", "split", "local"}
    if own.model.front is not None:
        assert all(p.choice.schedule != "joint" for p in plan.ranked if p.choice.method == "hierarchical")


def test_what_suppresses_is_not_advised_to_send_before_it_has_unlearned(
    job: Job, make_setting: Callable[..., Setting]
) -> None:
    config = load_config({"data": {"sensitive": "masculine"}, "adversary": {"exits": ["mlp"]}})
    setting = make_setting("3g")

    def offered(**asked: Any) -> set[tuple[str, str]]:
        plan = make_plan(config, job, setting, Constraints(), **asked)
        return {(prediction.choice.method, prediction.choice.schedule) for prediction in plan.ranked}

    assert ("hierarchical", "joint") not in offered()
    assert {("hierarchical", "two-stage"), ("hierarchical", "freeze-and-log"), ("upload", "joint")} <= offered()
    assert ("hierarchical", "joint") in offered(schedules=("joint",))
