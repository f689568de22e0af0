"""What the back computes on, made from what edges sent."""

from __future__ import annotations

import numpy as np
import torch
from many_edges import SHAPE, SIZE, fleet_config

from smartedge.cloud.back import build_back
from smartedge.cloud.inputs import Inputs
from smartedge.cloud.label_shares import LabelShares
from smartedge.models.entrances import Entering
from smartedge.types import FeatureBatch


def test_answers_are_corrected_where_two_edges_are_known() -> None:
    config = fleet_config(fleet={"expect": 2})
    shares = LabelShares(None)
    inputs = Inputs(config, build_back(config, 2)[0], torch.device("cpu"), shares)
    features_BF = np.ones((SIZE, *SHAPE), np.float32)
    batch = FeatureBatch(
        np.arange(SIZE), features_BF, np.zeros(SIZE, np.int64), np.full(SIZE, "one"), np.full(SIZE, "layer4")
    )
    for edge, known in (("one", False), ("two", True)):
        shares.see(edge, np.array([0, 0, 1] if edge == "one" else [1, 1, 1]), 2)
        made = inputs.of(batch, (0,))
        assert isinstance(made, Entering) and (made.offsets_BK is not None) == known
    evaluated = inputs.of(batch, None)
    assert isinstance(evaluated, Entering) and evaluated.offsets_BK is None
