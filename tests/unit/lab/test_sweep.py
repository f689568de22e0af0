"""A sweep: which runs are made, what is kept, and what its files say. Training and audit are stood in for."""

from __future__ import annotations

import argparse
import csv
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
from audit_example import attribute_block, example_audit, figures
from results_example import example_privacy, example_results

from smartedge.artifacts.attacks import AttributeBlock
from smartedge.artifacts.audit import Effort
from smartedge.artifacts.results import Heads, Results
from smartedge.artifacts.sweep import Sweep
from smartedge.cli import sweep as verb
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError, RunError
from smartedge.lab.audit import suite
from smartedge.lab.sweep import folder_of, parse_axes, running, sweep
from smartedge.lab.sweep.points import Point
from smartedge.runs.progress import Quiet

BASE = {"data": {"sensitive": "masculine"}, "model": {"bottleneck": "8x4x4"}, "adversary": {"exits": ["conv"]}}


def write_audit(run_dir: Path, attributes: dict[str, AttributeBlock], budget: float | None) -> None:
    effort = Effort(budget_seconds=budget, seeds=1, undefended=None)
    settings = example_audit().settings.model_copy(update={"stages": {"attributes": effort}})
    (run_dir / "audit").mkdir(exist_ok=True)
    example_audit(attributes=attributes, settings=settings).write(run_dir / "audit" / "audit.json")


class Made:
    """Stands in for training and audit: writes what they leave, and notes who was made."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.resumed: list[str] = []
        self.audited: list[tuple[str, suite.AuditSettings]] = []
        self.fails: Callable[[Config], bool] = lambda config: False
        self.stops: Callable[[Config], bool] = lambda config: False

    def train(self, config: Config, *, resume: bool, single_process: bool, monitor: Any) -> None:
        folder = config.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "run.json").write_text("{}")
        if self.stops(config):
            raise KeyboardInterrupt
        if self.fails(config):
            raise RunError("the cable is out")
        self.trained.append(folder.name)
        self.resumed += [folder.name] if resume else []
        weight = config.adversary.weight if config.adversary.exits else -1.0
        results = Results.model_validate(example_results())
        back, at_exit = (
            results.test.back.model_copy(update={"balanced_accuracy": value})
            for value in (0.95 - 0.01 * weight + 0.002 * config.seed, 0.9)
        )
        changes = {
            "test": Heads(back=back, exit=at_exit),
            "bytes_per_image": results.bytes_per_image.model_copy(update={"up": 171.0}),
            "seconds_per_epoch": 1.5,
            "privacy": example_privacy(attribute_bound=0.982, tight_attribute_bound=0.7),
        }
        results.model_copy(update=changes).write(folder / "results.json")

    def audit(self, run_dir: Path, settings: suite.AuditSettings, monitor: Any) -> None:
        self.audited.append((run_dir.name, settings))
        weight = load_config(run_dir / "config.yaml").adversary.weight
        block = attribute_block(0.9 - 0.05 * weight).model_copy(
            update={"training_image": figures(0.3, "mlp"), "undefended": figures(0.928)}
        )
        write_audit(run_dir, dict.fromkeys(settings.attributes or (), block), settings.budget)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    stand_in = Made()
    monkeypatch.setattr(running, "train", create_autospec(running.train, side_effect=stand_in.train))
    monkeypatch.setattr(suite, "audit", create_autospec(suite.audit, side_effect=stand_in.audit))
    return stand_in


def go(folder: Path, *axes: str, **changes: Any) -> Sweep:
    base = changes.pop("base", BASE)
    return sweep(base, parse_axes(axes), folder=folder, monitor=Quiet, **changes)


# -- axes


def test_axes_are_read_as_yaml():
    texts = ["adversary.weight=0, 1,1e-1", "model.bottleneck=8x4x4,null", "adversary.exits=[conv],[conv,deep]"]
    assert parse_axes(texts) == {
        "adversary.weight": (0, 1, 0.1),
        "model.bottleneck": ("8x4x4", None),
        "adversary.exits": (["conv"], ["conv", "deep"]),
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["adversary.weight"], "write it as key=value,value"),
        (["=1,2"], "write it as key=value,value"),
        (["train.lr="], "write it as key=value,value"),
        (["train.lr=1,2", "train.lr=3"], "given twice"),
        (["train.lr=1,1"], "a value occurs twice"),
        (["seed=1,2"], "use --seeds"),
        (["run_dir=a,b"], "the sweep sets it"),
        (["train.lr=[1"], "not YAML"),
    ],
)
def test_axes_that_are_none_are_named(texts, message):
    with pytest.raises(ConfigError, match=message):
        parse_axes(texts)


# -- what is made


def test_every_point_of_the_grid_is_an_ordinary_run_with_its_settings(made, tmp_path):
    found = go(tmp_path, "adversary.weight=0,3", "train.lr=0.1,0.2", seeds=2)
    assert len(made.trained) == len(set(made.trained)) == 8
    assert {point.state for point in found.points} == {"done"}
    for point in found.points:
        config = load_config(tmp_path / point.run / "config.yaml")
        assert config.adversary.weight == float(point.settings["adversary.weight"])
        assert config.train.lr == float(point.settings["train.lr"])
        assert config.seed == point.seed and config.model.bottleneck == (8, 4, 4)
    assert "runs/adversary.weight=3,train.lr=0.2,seed=1" in {point.run for point in found.points}
    # one seed of all settings comes before the next
    assert [name[-1] for name in made.trained] == ["0"] * 4 + ["1"] * 4


def test_finished_points_are_reused_by_the_same_and_by_a_larger_sweep(made, tmp_path):
    go(tmp_path, "adversary.weight=0,3")
    made.trained.clear()
    again = go(tmp_path, "adversary.weight=0,3")
    assert made.trained == [] and len(again.points) == 2
    larger = go(tmp_path, "adversary.weight=0,1,3", seeds=2)
    assert len(made.trained) == 4 and "adversary.weight=0,seed=0" not in made.trained
    assert [row.runs for row in larger.rows] == [2, 2, 2]


def test_a_failed_point_is_recorded_the_rest_goes_on_and_it_is_tried_again(made, tmp_path):
    made.fails = lambda config: config.adversary.weight == 1
    found = go(tmp_path, "adversary.weight=0,1,3")
    failed = [point for point in found.points if point.state == "failed"]
    assert [point.error for point in failed] == ["RunError: the cable is out"]
    assert sorted(made.trained) == ["adversary.weight=0,seed=0", "adversary.weight=3,seed=0"]
    assert [(row.runs, row.failed) for row in found.rows] == [(1, 0), (0, 1), (1, 0)]
    assert Sweep.read(tmp_path / "sweep.json") == found

    made.fails = lambda config: False
    assert {point.state for point in go(tmp_path, "adversary.weight=0,1,3").points} == {"done"}
    assert made.trained[2:] == ["adversary.weight=1,seed=0"]
    assert made.resumed == ["adversary.weight=1,seed=0"]  # the run directory it had begun


def test_a_sweep_that_was_stopped_goes_on(made, tmp_path):
    made.stops = lambda config: len(made.trained) == 2
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "adversary.weight=0,1,2,3")
    states = [point.state for point in Sweep.read(tmp_path / "sweep.json").points]
    assert sorted(states) == ["done", "done", "waiting", "waiting"]
    made.stops = lambda config: False
    found = go(tmp_path, "adversary.weight=0,1,2,3")
    assert {point.state for point in found.points} == {"done"}
    assert len(made.trained) == len(set(made.trained)) == 4 and len(made.resumed) == 1


def test_what_waits_has_not_failed_and_shows_no_figures_of_a_shorter_audit(made, tmp_path, monkeypatch):
    go(tmp_path, "adversary.weight=0,3", audit_seconds=60.0)
    monkeypatch.setattr(suite, "audit", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "adversary.weight=0,3", audit_seconds=math.inf)
    kept = Sweep.read(tmp_path / "sweep.json")
    assert [(point.state, point.attributes) for point in kept.points] == [("waiting", {})] * 2
    assert [(row.runs, row.failed) for row in kept.rows] == [(0, 0)] * 2


def test_a_run_directory_that_is_gone_is_made_again(made, tmp_path):
    go(tmp_path, "adversary.weight=0,1")
    shutil.rmtree(tmp_path / "runs" / "adversary.weight=1,seed=0")
    go(tmp_path, "adversary.weight=0,1")
    assert made.trained[2:] == ["adversary.weight=1,seed=0"]


@pytest.mark.parametrize("content", ["{", '{"schema_version": 99}', ""])
def test_results_that_cannot_be_read_are_made_again(made, tmp_path, content):
    go(tmp_path, "adversary.weight=0,1")
    (tmp_path / "runs" / "adversary.weight=1,seed=0" / "results.json").write_text(content)
    found = go(tmp_path, "adversary.weight=0,1")
    assert made.trained[2:] == made.resumed == ["adversary.weight=1,seed=0"]
    assert [row.runs for row in found.rows] == [1, 1]


def test_a_folder_whose_settings_cannot_be_read_is_named(made, tmp_path):
    go(tmp_path, "adversary.weight=0,1")
    (tmp_path / "runs" / "adversary.weight=1,seed=0" / "config.yaml").write_text("epochs: [")
    with pytest.raises(RunError, match=r"weight=1,seed=0: holds a run whose settings cannot be read .*; remove it"):
        go(tmp_path, "adversary.weight=0,1")


def test_one_sweep_at_a_time_works_on_a_folder(made, tmp_path):
    def another(config: Config) -> bool:
        with pytest.raises(RunError, match="another sweep works on this folder"):
            go(tmp_path, "adversary.weight=5")
        return False

    made.fails = another
    assert {point.state for point in go(tmp_path, "adversary.weight=0,1").points} == {"done"}
    assert len(made.trained) == 2
    go(tmp_path, "adversary.weight=5")


def test_another_runs_figures_are_never_taken(made, tmp_path):
    go(tmp_path, "adversary.weight=0,1")
    with pytest.raises(RunError, match="holds a run with other settings"):
        go(tmp_path, "adversary.weight=0,1", base={**BASE, "epochs": 3})
    # where it is computed does not make it another run
    go(tmp_path, "adversary.weight=0,1", base={**BASE, "hardware": {"threads": 1}})
    assert len(made.trained) == 2


def test_wrong_settings_are_told_before_anything_starts(made, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)nothing was started.*dp\.sigma=1,seed=0: .*dp\.mechanism"):
        go(tmp_path, "dp.sigma=null,1")
    with pytest.raises(ConfigError, match="unknown key"):
        go(tmp_path, "adversary.wieght=0,1")
    with pytest.raises(ConfigError, match="needs a setting to vary"):
        go(tmp_path)
    with pytest.raises(ConfigError, match=r"weight=2\.0,seed=0: has the same settings as adversary\.weight=2,seed=0"):
        go(tmp_path, "adversary.weight=2,2.0,3")
    with pytest.raises(ConfigError, match="same settings"):
        go(tmp_path, "model.bottleneck=8x4x4,[8,4,4]", "hardware.threads=1,2")
    with pytest.raises(ConfigError, match="same folder"):
        go(tmp_path, 'model.name="a b",a-b')
    with pytest.raises(ConfigError, match=r"data\.sensitive"):
        go(tmp_path, "train.lr=1,2", audit_seconds=math.inf, base={})
    with pytest.raises(ConfigError) as caught:
        go(tmp_path, "adversary.wieght=0,1,2", "epochs=1,2,3")
    assert str(caught.value).count("unknown key") == 3 and str(caught.value).endswith("\nand 6 more points")
    assert made.trained == []


# -- the audit


def test_every_point_is_attacked_and_held_against_one_undefended_run_per_seed(made, tmp_path):
    found = go(tmp_path, "adversary.weight=0,3", "dp.clip=1,2", seeds=2, audit_seconds=60.0)
    assert sorted(name for name in made.trained if "weight" not in name) == ["seed=0", "seed=1"]
    assert len(made.audited) == 8
    for name, settings in made.audited:
        assert settings.attributes == ("masculine",) and settings.budget == 60.0
        assert settings.undefended == tmp_path / "undefended" / name.split(",")[-1]
        assert "reconstruction" not in settings.attacks and "deep" in settings.attacks
    bare = load_config(tmp_path / "undefended" / "seed=1" / "config.yaml")
    assert not bare.adversary.exits and bare.model.bottleneck is None and bare.seed == 1
    assert [entry.desired for entry in found.undefended] == [pytest.approx(0.96), pytest.approx(0.962)]
    go(tmp_path, "adversary.weight=0,3", "dp.clip=1,2", seeds=2, audit_seconds=60.0)
    assert len(made.audited) == 8


def test_points_of_other_networks_have_undefended_runs_of_their_own(made, tmp_path):
    go(tmp_path, "model.name=resnet18,vgg11", "adversary.weight=0,3", audit_seconds=math.inf)
    undefended = {settings.undefended.name for _, settings in made.audited}
    assert undefended == {"model.name=resnet18,seed=0", "model.name=vgg11,seed=0"}


def test_an_audit_comes_to_runs_that_were_made_without(made, tmp_path):
    assert go(tmp_path, "adversary.weight=0,3").rows[0].attributes == {}
    found = go(tmp_path, "adversary.weight=0,3", audit_seconds=math.inf)
    assert sorted(made.trained) == ["adversary.weight=0,seed=0", "adversary.weight=3,seed=0", "seed=0"]
    assert found.rows[1].attributes["masculine"].best.model_dump() == {"mean": pytest.approx(0.75), "sd": None}


def test_an_audit_with_less_time_is_done_again_and_one_with_more_is_not(made, tmp_path):
    for budget, audits in ((60.0, 1), (30.0, 1), (math.inf, 2), (600.0, 2)):
        found = go(tmp_path, "adversary.weight=3", audit_seconds=budget)
        assert len(made.audited) == audits and found.points[0].state == "done"


def test_an_audit_that_attacked_nothing_is_no_audit(made, tmp_path, monkeypatch):
    def nothing(run_dir: Path, settings: suite.AuditSettings, monitor: Any) -> None:
        write_audit(run_dir, {"masculine": attribute_block(None)}, settings.budget)

    monkeypatch.setattr(suite, "audit", nothing)
    found = go(tmp_path, "adversary.weight=0,3", audit_seconds=math.inf)
    assert {point.state for point in found.points} == {"failed"}
    assert "no time to attack every sensitive column" in found.points[0].error


def test_who_holds_all_of_a_training_image_stands_beside_who_sees_one_release(made, tmp_path):
    found = go(tmp_path, "adversary.weight=0,3", audit_seconds=math.inf)
    (one, other) = (row.attributes["masculine"] for row in found.rows)
    assert (one.best.mean, one.training_image.mean) == pytest.approx((0.9, 0.3))
    assert other.best.mean == pytest.approx(0.75)
    assert {point.attributes["masculine"].attack for point in found.points} == {"deep"}


# -- the files


def test_rows_are_means_and_sample_deviations_over_the_seeds(made, tmp_path):
    found = go(tmp_path, "adversary.weight=0,3", seeds=3, audit_seconds=math.inf)
    desired = [point.desired for point in found.points if point.settings == {"adversary.weight": "3"}]
    assert desired == pytest.approx([0.92, 0.922, 0.924])
    row = found.rows[1]
    assert row.runs == 3
    assert row.desired.mean == pytest.approx(statistics.fmean(desired))
    assert row.desired.sd == pytest.approx(statistics.stdev(desired))
    leaks = row.attributes["masculine"]
    assert leaks.best.mean == pytest.approx(0.75) and leaks.floor.mean == pytest.approx(0.645)
    assert leaks.prediction_floor is None
    assert [row.bound.mean, row.noise_bound.mean, row.exit.mean] == pytest.approx([0.982, 0.7, 0.9])
    point = found.points[0]
    assert (point.bytes_up, point.seconds_per_epoch) == (171.0, 1.5)
    assert (point.exit, point.bound, point.noise_bound) == (0.9, 0.982, 0.7)


def test_what_protects_is_no_setting_of_an_undefended_run(tmp_path):
    protects = ("adversary.weight", "dp.epsilon", "model.bottleneck", "model.codebook", "train.distill.weight")
    point = Point(dict.fromkeys((*protects, "train.lr"), "0.1"), 2, load_config(BASE))
    found = point.undefended(tmp_path)
    assert (found.settings, found.seed) == ({"train.lr": "0.1"}, 2)
    assert found.folder == tmp_path / "undefended" / "train.lr=0.1,seed=2"


def test_the_csv_has_a_line_per_run(made, tmp_path):
    go(tmp_path, "adversary.weight=0,3", seeds=2, audit_seconds=math.inf)
    with (tmp_path / "sweep.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4
    line = next(line for line in lines if (line["adversary.weight"], line["seed"]) == ("3", "1"))
    assert float(line["desired"]) == pytest.approx(0.922)
    assert float(line["masculine.best"]) == pytest.approx(0.75)
    assert line["masculine.attack"] == "deep" and line["state"] == "done"


# -- the command line


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers())
    return parser.parse_args(["sweep", *argv])


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(load_config(BASE, {"run_dir": str(tmp_path / "faces")}).to_yaml())
    return path


def test_the_verb_prints_a_table_and_the_files(made, config_file, capsys):
    args = parsed(str(config_file), "--vary", "adversary.weight=0,3", "--seeds", "2", "--audit", "--budget", "2m")
    assert verb.run(args) == 0
    folder = config_file.parent / "faces-sweep"
    out = capsys.readouterr().out
    assert str(folder / "sweep.html") in out and str(folder / "frontier.png") in out
    row = next(line for line in out.splitlines() if line.split()[:2] == ["│", "3"])
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "3", "92.1 % ± 0.1", "75.0 % ± 0.0", "30.0 % ± 0.0", "92.8 % ± 0.0", "64.5 % ± 0.0", "98.2 %", "2",
    ]  # fmt: skip
    assert made.audited[0][1].budget == 120.0
    assert (folder / "sweep.html").exists() and (folder / "frontier.png").exists()


def test_failures_are_told_at_the_end(made, config_file, capsys):
    made.fails = lambda config: config.adversary.weight == 3
    assert verb.run(parsed(str(config_file), "--vary", "adversary.weight=0,3")) == 10
    assert "failed: runs/adversary.weight=3,seed=0: RunError: the cable is out" in capsys.readouterr().out


def test_ctrl_c_says_how_to_go_on(made, config_file):
    made.stops = lambda config: True
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        verb.run(parsed(str(config_file), "--vary", "adversary.weight=0,3"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--vary", "train.lr=1,2", "--budget", "5m"], "give --audit as well"),
        (["--vary", "train.lr=1,2", "--audit", "--budget", "soon"], "must be a positive time"),
    ],
)
def test_arguments_that_do_not_fit(argv, message, config_file):
    with pytest.raises(ConfigError, match=message):
        verb.run(parsed(str(config_file), *argv))


def test_the_sweep_lies_beside_the_run():
    assert folder_of(load_config({"run_dir": "runs/faces"}), "other") == Path("runs/faces-sweep")
    assert folder_of(load_config({}), "faces") == Path("runs/faces-sweep")


def test_a_row_counts_what_failed_and_takes_figures_of_finished_runs_alone(made, tmp_path, monkeypatch):
    """Of three seeds, the first of which is the settings', the audit of one has no time."""
    attacked = made.audit

    def audit(run_dir: Path, settings: suite.AuditSettings, monitor: Any) -> None:
        attacked(run_dir, settings, monitor)
        if run_dir.name.endswith("seed=6"):
            write_audit(run_dir, {"masculine": attribute_block(None)}, settings.budget)

    monkeypatch.setattr(suite, "audit", audit)
    found = go(tmp_path, "adversary.weight=0", base={**BASE, "seed": 5}, seeds=3, audit_seconds=60.0)
    assert (found.seeds, found.budget_seconds) == ((5, 6, 7), 60.0)
    assert [(point.seed, point.state) for point in found.points] == [(5, "done"), (6, "failed"), (7, "done")]
    assert found.points[1].attributes == {} and found.points[1].desired == pytest.approx(0.962)
    (row,) = found.rows
    assert (row.runs, row.failed) == (2, 1) and row.desired.mean == pytest.approx(0.962)
    assert row.attributes["masculine"].best.mean == pytest.approx(0.9)
    assert go(tmp_path / "other", "adversary.weight=0", audit_seconds=math.inf).budget_seconds is None
