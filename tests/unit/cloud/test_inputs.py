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


def test_each_image_enters_at_the_cut_of_its_edge_also_where_it_is_alone() -> None:
    cuts = ["layer2", "layer4"]
    config = fleet_config(fleet={"expect": 2, "cuts": cuts})
    network, shapes = build_back(config, 2)
    sent = np.empty(3, object)
    cut_B = np.array(["layer4", "layer2", "layer4"])
    for image, cut in enumerate(cut_B.tolist()):
        sent[image] = np.full(shapes[cut], image, np.float32)
    batch = FeatureBatch(np.arange(3), sent, np.zeros(3, np.int64), np.array(["deep", "flat", "deep"]), cut_B)
    made = Inputs(config, network, torch.device("cpu"), LabelShares(None)).of(batch, (0,))
    assert isinstance(made, Entering)
    came = {cut: features_BF.flatten(1)[:, 0].tolist() for cut, features_BF in made.features.items()}
    assert came == {"layer2": [1.0], "layer4": [0.0, 2.0]} and made.places.tolist() == [1, 0, 2]


def test_maps_lie_in_memory_as_the_settings_say_and_vectors_stay_as_they_are() -> None:
    for channels_last in (False, True):
        config = fleet_config(train={"batch_size": SIZE, "channels_last": channels_last})
        inputs = Inputs(config, build_back(config, 2)[0], torch.device("cpu"), LabelShares(None))
        for shape in ((8, 4, 4), (6, 5), (7,)):
            batch = FeatureBatch(np.arange(2), np.ones((2, *shape), np.float32), np.zeros(2, np.int64))
            made = inputs.of(batch, (0,))
            assert isinstance(made, torch.Tensor) and made.shape == (2, *shape)
            if len(shape) == 3:
                assert made.is_contiguous(memory_format=torch.channels_last) == channels_last
            else:
                assert made.is_contiguous()
