"""``results.json``: old versions, and what the figures say of a run as a whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smartedge.artifacts.results import DataFacts, Figures, Heads, Results
from smartedge.artifacts.task import TaskFacts
from smartedge.errors import RunError
from smartedge.metrics import evaluate


def figures(balanced):
    others = dict.fromkeys(("accuracy", "balanced_accuracy_adjusted", "auroc", "loss", "base_rate"), 0.0)
    return Figures(**{**others, "balanced_accuracy": balanced})


def results_of(at_exit, back, *, names=("no", "yes"), kind="single", images=1000):
    names = tuple(map(str, names))
    task = TaskFacts(kind=kind, columns=("a",) if kind == "single" else names, names=names)
    data = DataFacts(path="x", image_size=8, train=0, val=0, test=images, skipped={}, notes=())
    exit_, back = (figures(head) if isinstance(head, float) else head for head in (at_exit, back))
    return Results.model_construct(task=task, data=data, test=Heads(exit=exit_, back=back))


@pytest.mark.parametrize(
    ("results", "guessing"),
    [
        (results_of(0.506, 0.527), True),
        (results_of(None, 0.527), True),
        (results_of(0.506, 0.56), False),
        (results_of(0.56, 0.506), False),
        (results_of(0.5, 0.56, images=100), True),
        (results_of(None, 0.12, names=range(10)), True),
        (results_of(None, 0.15, names=range(10)), False),
        (results_of(None, 0.53, names=range(40), kind="multi"), False),
        (results_of(None, 0.505, names=range(40), kind="multi"), True),
        (results_of(None, 1.0, images=8), False),  # all are right, and three standard errors above guessing is 103 %
    ],
)
def test_a_run_that_guesses_is_known_by_its_standard_error(results, guessing):
    assert results.learned_nothing is guessing


def test_a_run_whose_adjusted_answers_are_better_than_guessing_has_learned():
    unsure = figures(0.5).model_copy(update={"balanced_accuracy_adjusted": 0.8})
    assert not results_of(None, unsure).learned_nothing


def test_guessers_are_told_as_such():
    rng = np.random.default_rng(0)
    for _ in range(20):  # with a false answer of 1 in 700 each, about 3 in 100 for all; the seed is fixed
        labels, scores = rng.choice(3, size=300), rng.dirichlet(np.ones(3), size=300)
        back = Figures(**evaluate(labels, scores, "single"), loss=0.0)
        assert results_of(None, back, names=range(3), images=300).learned_nothing


@pytest.mark.parametrize(
    ("said", "meant"), [("edge", "local"), ("cloud", "upload"), ("upload", "upload"), ("hierarchical", "hierarchical")]
)
def test_results_of_version_1_are_read_with_the_methods_new_name(said, meant, tmp_path, example_results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**example_results, "schema_version": 1, "method": said}))
    found = Results.read(path)
    assert (found.method, found.schema_version) == (meant, 2)


def test_results_of_another_version_are_refused(tmp_path, example_results):
    path = tmp_path / "results.json"
    for version in (0, 3):
        path.write_text(json.dumps({**example_results, "schema_version": version}))
        with pytest.raises(RunError, match=f"is of version {version}, and this program knows 2"):
            Results.read(path)


def test_a_run_without_the_figures_of_any_head_is_refused(tmp_path, example_results):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**example_results, "test": {"back": None, "exit": None}}))
    with pytest.raises(RunError, match="neither of the back nor of the exit"):
        Results.read(path)


def test_what_is_written_is_read(tmp_path, example_results):
    results = Results.model_validate(example_results)
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
