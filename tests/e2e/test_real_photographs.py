"""A few steps on real photographs in two processes over a socket: the frames, the log, and both sides' weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from smartedge.codec import unpack
from smartedge.config import load_config
from smartedge.launch.datasets import dataset_of
from smartedge.models.network import divide, to_input
from smartedge.runs.progress import Quiet
from smartedge.training import train


@pytest.mark.usefixtures("forked_sides")
def test_faces_cross_a_socket_as_features(shared_data, tmp_path, open_log):
    config = load_config(
        {
            "epochs": 1,
            "run_dir": str(tmp_path / "run"),
            "schedule": "freeze-and-log",
            "data": {
                "path": str(shared_data / "lfw-attributes"),
                "desired": "Smiling",
                "sensitive": "Male",
                "image_size": 64,
                "limit": {"train": 96, "val": 32, "test": 32},
                "cache_dir": str(tmp_path / "cache"),
            },
            "model": {"name": "narrow:build", "cut": "layer1"},  # the shapes of a ResNet-18
            "train": {"batch_size": 32},
            "codec": {"name": "float16"},
            "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
        }
    )
    results = train(config, monitor=Quiet())

    divided = divide(config.division(2))
    front, back = divided.front, divided.back
    trained = load_file(config.run_dir / "edge" / "front.safetensors")
    moved = [name for name, tensor in front.state_dict().items() if not torch.equal(tensor, trained[name])]
    assert set(moved) == set(trained), "every parameter and statistic of the front has learned"
    in_cloud = load_file(config.run_dir / "cloud" / "back.safetensors")
    moved = [name for name, tensor in back.state_dict().items() if not torch.equal(tensor, in_cloud[name])]
    assert set(moved) == set(in_cloud), "and of the back"

    dataset = dataset_of(config)  # a tenth of the training images is set apart for the audit
    front.load_state_dict(trained)
    front.eval()
    log = open_log(config.run_dir)
    released: list[int] = []
    for frame in log.frames():
        header = log.header_of(frame.seq)
        batch = unpack(frame.batch, header)
        split = dataset.splits[header.split]
        position = {image: place for place, image in enumerate(split.ids.tolist())}
        images = split.read(torch.tensor([position[image] for image in batch.ids.tolist()]).numpy())
        assert torch.equal(images.labels, torch.from_numpy(batch.labels))
        with torch.no_grad():
            features_BF = front(to_input(images.images_BCHW, torch.device("cpu")))
        torch.testing.assert_close(torch.from_numpy(batch.features_BF), features_BF, rtol=1e-2, atol=1e-2)
        released += batch.ids.tolist() if header.split == "train" else []
    assert 80 < len(released) < 96
    assert sorted(released) == sorted(dataset.splits["train"].ids.tolist()), "each image once"

    assert results.releases_per_image == 1
    float16_bytes = 2 * 4 * 16 * 16  # the bottleneck that `auto` takes: 4 channels, half of what the JPEG would be
    assert float16_bytes < results.bytes_per_image.up < results.bytes_per_image.reference.jpeg_q90
    assert results.test.exit.balanced_accuracy > 0
    assert results.data.skipped == {}
