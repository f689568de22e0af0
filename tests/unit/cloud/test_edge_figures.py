"""The cloud's figures of each edge, among them those of its test images, from the predictions that were written."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from headers import stream_header
from safetensors.torch import save_file
from torch import Tensor

from smartedge.cloud.edge_figures import _test_figures, figures_of_edges
from smartedge.cloud.handover import Handover
from smartedge.cloud.order.influence import Influence
from smartedge.cloud.trainer import BackTrainer
from smartedge.config import load_config

NAN = math.nan


def trainer(folder: Path, labels: Tensor, scores: Tensor, images: dict[str, int]) -> BackTrainer:
    """What ``_test_figures`` reads of a trainer that has finished."""
    save_file({"labels": labels, "scores": scores}, folder / "predictions.safetensors")
    return cast("BackTrainer", SimpleNamespace(finished=True, folder=folder, test_images=images))


def cross_entropy(pairs: list[tuple[float, float]]) -> float:
    """The mean over pairs (label, score) of a yes/no column: a plain loop."""
    return sum(-math.log(score if label == 1 else 1 - score) for label, score in pairs) / len(pairs)


def test_loss_of_several_columns_leaves_out_labels_that_are_lacking(tmp_path: Path) -> None:
    labels = torch.tensor([[1, 0], [NAN, 1], [0, NAN], [1, 1], [0, 0]])
    scores = torch.tensor([[0.9, 0.3], [0.5, 0.6], [0.2, 0.5], [0.7, 0.8], [0.4, 0.1]])
    found = _test_figures(trainer(tmp_path, labels, scores, {"a": 3, "b": 2}))
    assert found["a"].loss == pytest.approx(cross_entropy([(1, 0.9), (0, 0.3), (1, 0.6), (0, 0.2)]), rel=1e-5)
    assert found["b"].loss == pytest.approx(cross_entropy([(1, 0.7), (1, 0.8), (0, 0.4), (0, 0.1)]), rel=1e-5)


def test_loss_of_classes_is_that_of_the_true_class(tmp_path: Path) -> None:
    labels = torch.tensor([2, 0, 1])
    scores = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.5, 0.25, 0.25]])
    found = _test_figures(trainer(tmp_path, labels, scores, {"a": 2, "b": 1}))
    assert found["a"].loss == pytest.approx(-(math.log(0.5) + math.log(0.6)) / 2, rel=1e-5)
    assert found["b"].loss == pytest.approx(-math.log(0.25), rel=1e-5)


@pytest.fixture
def handover() -> Handover:
    """Of three edges, of 8 frames each in the end; the second one is in quarantine from its frame 3 on."""
    made = Handover()
    header = stream_header(agreement='{"model": {"cut": "layer2"}}', frames=6)
    last = stream_header(agreement=header.agreement, split="test", first_seq=6, frames=2)
    for place, (name, frames) in enumerate({"a": 8, "b": 8, "c": 4}.items()):
        made.intakes[name] = SimpleNamespace(  # type: ignore[assignment]
            streams=[header, last][: 1 + (frames == 8)] + [last] * (name == "c"),
            next_seq=frames,
            images=10 + place,
            refused=20 + place,
            sent_all=frames == 8,
            log=SimpleNamespace(total_bytes=1000 + place, gaps=[(1, 3), (5, 6)][:place]),
        )
    made.learned, made.quarantined, made.complete = {"a": 6, "b": 5}, {"b": 3}, True
    return made


def trainer_of(*, finished: bool) -> BackTrainer:
    config = load_config(
        {"model": {"bottleneck": "2x2x2"}, "dp": {"mechanism": "gaussian", "epsilon": 4.0, "label_epsilon": 1.0}}
    )
    return cast("BackTrainer", SimpleNamespace(finished=finished, test_images={}, config=config))


def test_every_figure_of_an_edge_is_in_its_place(handover: Handover) -> None:
    influence = Influence(0.5)
    influence.capped = ("b",)
    for name, moved in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        for step in range(11):
            influence.see(name, np.full((2, 1), moved * step, np.float32))
    influence.note(np.array(["a", "a"]), np.array([1.0, 2.0]))
    found = figures_of_edges(handover, trainer_of(finished=False), influence)
    a, b, c = (found.edges[name] for name in "abc")
    assert [each.cut for each in (a, b, c)] == ["layer2"] * 3
    assert [(each.frames, each.images, each.bytes) for each in (a, b, c)] == [
        (8, 10, 1000),
        (8, 11, 1001),
        (4, 12, 1002),
    ]
    assert [(each.learned, each.lag) for each in (a, b, c)] == [(6, 2), (3, 3), (0, 4)]
    assert [(each.gaps, each.refused, each.closed) for each in (a, b, c)] == [
        (0, 20, True),
        (2, 21, True),
        (3, 22, False),
    ]
    assert [(each.quarantined, each.capped, each.loss) for each in (a, b, c)] == [
        (None, False, 1.5),
        (3, True, None),
        (None, False, None),
    ]
    assert a.drift == pytest.approx(0.5) and c.drift == pytest.approx(2.0), "beside the one of b"
    assert [each.outlier for each in (a, b, c)] == [influence.distances()[name] for name in "abc"]
    assert (found.complete, found.epsilon, found.delta, found.label_epsilon) == (False, 4.0, 1e-5, 1.0)
    shares = [6 / 8, 3 / 8, 0]
    assert found.jain == pytest.approx(sum(shares) ** 2 / (3 * sum(share**2 for share in shares)))


def test_a_back_that_has_finished_has_used_every_frame_but_those_in_quarantine(handover: Handover) -> None:
    found = figures_of_edges(handover, trainer_of(finished=True), Influence(None))
    assert found.complete
    assert [(each.learned, each.lag) for each in found.edges.values()] == [(8, 0), (3, 0), (4, 0)]
    handover.complete = False
    assert not figures_of_edges(handover, trainer_of(finished=True), Influence(None)).complete
    handover.intakes.clear()
    trainer = trainer_of(finished=True)
    trainer.config = load_config(
        {"model": {"bottleneck": "2x2x2"}, "dp": {"mechanism": "laplace", "granularity": "element", "epsilon": 4.0}}
    )
    found = figures_of_edges(handover, trainer, Influence(None))
    assert found.jain is None and found.epsilon is None and found.delta is None, (
        "the ε of one number is no budget of an image"
    )
