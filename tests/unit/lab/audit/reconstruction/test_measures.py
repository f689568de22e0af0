from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from smartedge.errors import ConfigError
from smartedge.images.size import ImageSize
from smartedge.lab.audit.reconstruction.measures import (
    LPIPS_FILE,
    FeatureDistance,
    Lpips,
    perceptual_distance,
    psnr,
    ssim,
)
from smartedge.lab.audit.reconstruction.pixels import prepare, to_bytes, to_image
from smartedge.models.compat import load_torchvision
from smartedge.models.network import to_input


def pair(size: int = 16, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    return images, (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def test_psnr_is_that_of_a_plain_loop_and_of_no_error_100_db():
    images, others = pair()
    for row, value in enumerate(psnr(images, others).tolist()):
        total = 0.0
        for a, b in zip(images[row].flatten().tolist(), others[row].flatten().tolist(), strict=True):
            total += (a - b) ** 2
        assert value == pytest.approx(-10 * math.log10(total / images[row].numel()), abs=1e-3)
    assert psnr(images, images).tolist() == pytest.approx([100.0] * 3)


def test_ssim_is_that_of_a_plain_loop_over_windows():
    images, others = pair(count=2)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    for row, value in enumerate(ssim(images, others).tolist()):
        parts = []
        for channel in range(3):
            a, b = (np.pad(t[row, channel].double().numpy(), 5, mode="reflect") for t in (images, others))
            for top in range(16):
                for left in range(16):
                    x, y = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
                    mx, my = (window * x).sum(), (window * y).sum()
                    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                    cov = (window * (x - mx) * (y - my)).sum()
                    parts.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
        assert value == pytest.approx(np.mean(parts), abs=1e-4)


@pytest.mark.parametrize("size", [8, 13, 32])
def test_ssim_of_equal_images_is_one_at_every_size(size):
    images, others = pair(size)
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert (ssim(images, others) < 0.999).all()


def test_ssim_of_many_images_is_that_of_each():
    images, others = pair(count=130)
    assert torch.allclose(ssim(images, others)[-1:], ssim(images[-1:], others[-1:]), atol=1e-5, rtol=0)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 64, 2),
    )


def test_feature_distance_is_that_of_a_plain_loop_over_the_last_tensor_of_each_size():
    network = small_network()
    distance = FeatureDistance(network, image_size=ImageSize.of(16), of="small")
    images, others = pair()
    with torch.no_grad():
        layers = [
            [network[:2](prepare(x)) for x in (images, others)],
            [network[:4](prepare(x)) for x in (images, others)],
        ]
    for row, value in enumerate(distance(images, others).tolist()):
        per_layer = []
        for a, b in layers:
            places = []
            for top in range(a.shape[2]):
                for left in range(a.shape[3]):
                    u, v = a[row, :, top, left], b[row, :, top, left]
                    u, v = u / u.norm().clamp(min=1e-12), v / v.norm().clamp(min=1e-12)
                    places.append(float(((u - v) ** 2).sum()))
            per_layer.append(sum(places) / len(places))
        assert value == pytest.approx(sum(per_layer) / 2, abs=1e-5)
    assert distance(images, images).abs().max() < 1e-6
    assert distance.name == "distance in the features of the undivided small"


@pytest.fixture
def lpips_in_cache(tmp_path, monkeypatch):
    """torchmetrics' LPIPS with its own linear weights, over an AlexNet of random ones: those published are not here."""
    load_torchvision()
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    torch.manual_seed(0)
    reference = _NoTrainLpips(net="alex", pnet_rand=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "smartedge").mkdir()
    save_model(reference, str(tmp_path / "smartedge" / LPIPS_FILE))
    return reference, tmp_path / "smartedge" / LPIPS_FILE


def test_lpips_is_torchmetrics_and_taken_where_its_weights_are(lpips_in_cache):
    reference, path = lpips_in_cache
    distance = perceptual_distance(small_network(), image_size=ImageSize.of(64), of="small")
    assert isinstance(distance, Lpips) and distance.name == "LPIPS (AlexNet)"
    images, others = pair(64, 5)
    expected = reference(images, others, normalize=True).flatten()
    assert torch.allclose(distance(images, others), expected, rtol=1e-4, atol=1e-7)
    assert float(expected.min()) > 0 and distance(images, images).abs().max() == 0
    assert isinstance(perceptual_distance(small_network(), image_size=ImageSize.of(16), of="small"), FeatureDistance), (
        "too small"
    )
    path.unlink()
    network = nn.Sequential(*small_network()[:4], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert isinstance(perceptual_distance(network, image_size=ImageSize.of(64), of="small"), FeatureDistance)


def test_a_file_that_is_not_lpips_is_named(lpips_in_cache):
    _, path = lpips_in_cache
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=r"lpips-alex.*docs/audit-schema"):
        perceptual_distance(small_network(), image_size=ImageSize.of(64), of="small")


def test_feature_distance_takes_tokens():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 5, 4, 4)
            self.mix = nn.Linear(5, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.mix(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    images, others = pair()
    distance = FeatureDistance(Tokens(), image_size=ImageSize.of(16), of="tokens")
    assert (distance(images, others) > 0).all()


def test_patches_that_are_folded_into_the_batch_are_passed_over():
    """As MobileViT's transformers do: (B, C, H, W) → (B·P, N, C) and back."""

    class Folds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.paint = nn.Conv2d(3, 4, 3, padding=1)
            self.mix = nn.Linear(4, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.paint(x)
            patches = maps.unflatten(2, (8, 2)).unflatten(4, (8, 2)).permute(0, 3, 5, 2, 4, 1)  # (B, 2, 2, 8, 8, C)
            mixed = self.mix(patches.reshape(len(x) * 4, 64, 4)).reshape(len(x), -1, 4)
            return self.last(mixed.mean(dim=1))

    torch.manual_seed(0)
    network = Folds()
    images, others = pair(count=5)
    distance = FeatureDistance(network, image_size=ImageSize.of(16), of="folds")
    assert distance(images, others).shape == (5,)
    assert distance._taps == [network.paint]


def test_a_network_without_inner_maps_is_refused_by_name():
    with pytest.raises(ConfigError, match="Sequential has no inner module"):
        FeatureDistance(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2)), image_size=ImageSize.of(16), of="x")


def test_networks_get_what_to_input_would_give_them_and_bytes_survive():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    assert torch.allclose(prepare(to_image(pixels)), to_input(pixels, torch.device("cpu")), atol=1e-5, rtol=0)
    assert torch.equal(to_bytes(to_image(pixels)), pixels)
