"""What a network answered over a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smartedge.errors import RunError
from smartedge.runs.predictions import Predictions


def test_batches_count_by_their_size():
    predictions = Predictions()
    first_BK = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    predictions.add(np.array([3, 1]), torch.tensor([0, 1]), first_BK.log(), 1.0, {"confusion": 2.0})
    predictions.add(np.array([2]), torch.tensor([1]), torch.tensor([[0.7, 0.3]]).log(), 4.0, {"confusion": 5.0})
    assert len(predictions) == 3
    assert predictions.figures().loss == pytest.approx(2.0)
    assert predictions.figures().accuracy == pytest.approx(2 / 3)
    assert predictions.figures().balanced_accuracy == pytest.approx(0.75)
    assert predictions.tensors()["ids"].tolist() == [3, 1, 2]
    assert torch.allclose(predictions.tensors()["scores"], torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]))
    assert predictions.latest_loss == 4.0
    assert predictions.further_losses() == {"confusion": 3.5}


def test_answers_to_many_questions_are_probabilities_each() -> None:
    predictions = Predictions()
    predictions.add(np.array([0]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 100.0]]), 1.0)
    assert predictions.tensors()["scores"].tolist() == [[0.5, 1.0]]
    assert predictions.further_losses() == {}


def test_a_network_that_diverged_is_an_error_of_the_run():
    predictions = Predictions()
    predictions.add(np.array([0, 1]), torch.tensor([0, 1]), torch.full((2, 2), float("nan")), float("nan"))
    with pytest.raises(RunError, match="diverged"):
        predictions.figures()
