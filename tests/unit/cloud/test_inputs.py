"""What the back computes on, made from what edges sent."""

from __future__ import annotations

import numpy as np
import torch
from many_edges import SHAPE, SIZE, fleet_config

from smartedge.cloud.back import build_back
from smartedge.cloud.inputs import Inputs
from smartedge.cloud.label_shares import LabelShares
from smartedge.cloud.workers.shared_step import ShardedBatch
from smartedge.images.augment import augment
from smartedge.models.entrances import Entering
from smartedge.models.network import to_input
from smartedge.runs.seeds import derive_seed
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


def test_images_of_a_step_are_augmented_by_the_seed_the_update_and_the_shard() -> None:
    config = fleet_config(seed=3, data={"augment": "flip"})
    images = np.random.default_rng(0).integers(256, size=(16, 3, 8, 8), dtype=np.uint8)
    part = FeatureBatch(np.arange(16), images, np.zeros(16, np.int64))
    inputs = Inputs(config, build_back(config, 2)[0], torch.device("cpu"), LabelShares(None))

    def expected(*update: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(3, "augment", *update))
        return to_input(augment(torch.from_numpy(images), generator=generator, kind="flip"), torch.device("cpu"))

    of_shards = inputs.ready(5, ShardedBatch({0: part, 2: part}, 32)).inputs
    for made, update in ((of_shards[0], (5, 0)), (of_shards[2], (5, 2)), (inputs.ready(5, part).inputs[0], (5,))):
        assert isinstance(made, torch.Tensor) and torch.equal(made, expected(*update))
    assert not torch.equal(expected(5, 0), expected(5, 2))
    assert torch.equal(inputs.of(part, None), to_input(torch.from_numpy(images), torch.device("cpu")))  # type: ignore[arg-type]
