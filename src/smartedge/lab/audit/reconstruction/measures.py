"""Measures of how like a reconstruction is to the image: PSNR, SSIM, and a perceptual distance.

Images are float32 (B, 3, H, W) in [0, 1] throughout this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartedge.data.reading.images import default_cache_dir
from smartedge.errors import ConfigError
from smartedge.extras import how_to_install
from smartedge.images.size import RGB, ImageSize
from smartedge.lab.audit.reconstruction.pixels import prepare
from smartedge.models.compat import load_torchvision
from smartedge.models.layout import layout_of_shape

__all__ = ["LPIPS_FILE", "FeatureDistance", "Lpips", "finite_mean", "perceptual_distance", "psnr", "ssim"]

_LEAST_ERROR = 1e-10  # a smaller mean squared error counts as this one: 100 dB, which JSON can hold
_CHUNK = 128
LPIPS_FILE = "lpips-alex.safetensors"  # in the cache folder
_LEAST_SIZE = 32  # pixels; AlexNet's strides need at least so many


def psnr(images_BCHW: Tensor, reconstructed_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, float32 (B,): ``−10 log10(mean squared error)``, at most 100."""
    error_B = (images_BCHW - reconstructed_BCHW).square().flatten(1).mean(dim=1)
    return -10 * error_B.clamp(min=_LEAST_ERROR).log10()


def ssim(images_BCHW: Tensor, reconstructed_BCHW: Tensor) -> Tensor:
    """Structural similarity of each image, float32 (B,), at most 1 (Wang et al. 2004; torchmetrics).

    The Gaussian window has σ = 1.5 pixels (11×11) and is centred at every pixel. Reflection continues the image.
    """
    measure = _torchmetrics_ssim()
    parts = [
        measure(reconstructed, images, data_range=1.0, reduction="none")
        for images, reconstructed in zip(images_BCHW.split(_CHUNK), reconstructed_BCHW.split(_CHUNK), strict=True)
    ]
    return torch.cat([part.reshape(-1) for part in parts])


class FeatureDistance:
    """A perceptual distance between two images, measured in the features of a network trained on such images.

    It is LPIPS (Zhang et al. 2018) without the learned weights. The last tensor of every resolution is scaled to unit
    length along the channels. Squared differences are summed over channels, then averaged over positions and
    resolutions. Equal images have distance 0.

    Args:
        network: (B, 3, H, W) → logits; put in evaluation mode.
        image_size: H and W in pixels.
        of: the name of the network.
    """

    def __init__(self, network: nn.Module, *, image_size: ImageSize, of: str) -> None:
        self.network = network.eval()
        self.name = f"distance in the features of the undivided {of}"
        self.device = next(network.parameters()).device
        self._taps = _taps(network, prepare(torch.zeros(2, *image_size.shape, device=self.device)))

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor, reconstructed_BCHW: Tensor) -> Tensor:
        """Distance of each pair, float32 (B,)."""
        parts = []
        for images, reconstructed in zip(images_BCHW.split(_CHUNK), reconstructed_BCHW.split(_CHUNK), strict=True):
            ours, theirs = self._features(images.to(self.device)), self._features(reconstructed.to(self.device))
            layers = [_unit_distance(a, b) for a, b in zip(ours, theirs, strict=True)]
            parts.append(torch.stack(layers).mean(dim=0).cpu())
        return torch.cat(parts)

    def _features(self, images_BCHW: Tensor) -> list[Tensor]:
        self.network.eval()
        found: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, _: object, output: Tensor) -> None:
            found[module] = output.clone()  # a later layer may work in place

        handles = [module.register_forward_hook(keep) for module in self._taps]
        try:
            self.network(prepare(images_BCHW))
        finally:
            for handle in handles:
                handle.remove()
        return [found[module] for module in self._taps]


class Lpips:
    """LPIPS (Zhang et al. 2018) with AlexNet, with weights from a safetensors file on disk.

    The weights are published as pickles, which this library does not read. docs/audit-schema.md shows how to convert
    them. A smaller value means more alike; equal images have 0.

    Args:
        path: the file, with the keys of torchmetrics' LPIPS.

    Raises:
        ConfigError: the file does not hold these weights.
    """

    name = "LPIPS (AlexNet)"
    _STRIDES, _PADDINGS, _POOLED = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (1, 2)  # of the five convolutions
    _SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [−1, 1]

    def __init__(self, path: Path) -> None:
        try:
            weights = load_file(path)
            slices = zip(range(1, 6), (0, 3, 6, 8, 10), strict=True)
            self._convolutions = [
                (weights[f"net.slice{n}.{i}.weight"], weights[f"net.slice{n}.{i}.bias"]) for n, i in slices
            ]
            self._lines = [weights[f"lin{n}.model.1.weight"] for n in range(5)]
        except (OSError, KeyError, SafetensorError) as error:
            raise ConfigError(
                f"{path}: is not LPIPS's weights with AlexNet ({error}); make it as docs/audit-schema.md says, or "
                "remove it to have another perceptual distance"
            ) from error

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor, reconstructed_BCHW: Tensor) -> Tensor:
        """Distance of each pair, float32 (B,)."""
        parts = []
        for images, reconstructed in zip(images_BCHW.split(_CHUNK), reconstructed_BCHW.split(_CHUNK), strict=True):
            total_B = torch.zeros(len(images))
            for ours, theirs, line in zip(
                self._features(images), self._features(reconstructed), self._lines, strict=True
            ):
                apart = (nn.functional.normalize(ours, eps=1e-4) - nn.functional.normalize(theirs, eps=1e-4)).square()
                total_B += nn.functional.conv2d(apart, line).mean(dim=(1, 2, 3))
            parts.append(total_B)
        return torch.cat(parts)

    def _features(self, images_BCHW: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(values)[:, None, None] for values in (self._SHIFT, self._SCALE))
        x = (2 * images_BCHW - 1 - shift) / scale
        found = []
        for number, (weight, bias) in enumerate(self._convolutions):
            if number in self._POOLED:
                x = nn.functional.max_pool2d(x, 3, stride=2)
            x = nn.functional.conv2d(x, weight, bias, self._STRIDES[number], self._PADDINGS[number]).relu()
            found.append(x)
        return found


def perceptual_distance(network: nn.Module, *, image_size: ImageSize, of: str) -> FeatureDistance | Lpips:
    """LPIPS where its weights are in the cache folder and images are large enough; otherwise the network's distance.

    LPIPS is for red, green and blue.
    """
    path = default_cache_dir() / LPIPS_FILE
    if path.exists() and min(image_size.sides) >= _LEAST_SIZE and image_size.channels == RGB:
        return Lpips(path)
    return FeatureDistance(network, image_size=image_size, of=of)


def _taps(network: nn.Module, blank: Tensor) -> list[nn.Module]:
    """For each size of maps or tokens in the network: the last module that returns a tensor of this size.

    Tensors whose first axis is not the batch are ignored: MobileViT folds the patches of an image into this axis.
    """
    last: dict[tuple[int, ...], nn.Module] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.dim() not in (3, 4) or len(output) != len(blank):
            return
        if output.shape[2:].numel() > 1:
            shape = tuple(output.shape[1:])
            spatial = shape[1:] if layout_of_shape(shape) == "channels-first" else shape[:-1]
            last.pop(spatial, None)
            last[spatial] = module

    handles = [module.register_forward_hook(note) for module in network.modules() if module is not network]
    try:
        with torch.no_grad():
            network.eval()(blank)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ConfigError(
            f"{type(network).__name__} has no inner module that gives a map or tokens, so a perceptual distance "
            "cannot be measured in it; build it of torch modules, or leave the reconstruction attacks out"
        )
    return list(dict.fromkeys(last.values()))


def _unit_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B,): squared distance along the channels of unit vectors, averaged over positions."""
    axis = 1 if ours.dim() == 4 and layout_of_shape(tuple(ours.shape[1:])) == "channels-first" else -1
    gap = nn.functional.normalize(ours, dim=axis) - nn.functional.normalize(theirs, dim=axis)
    return gap.square().sum(dim=axis).flatten(1).mean(dim=1)


def _torchmetrics_ssim() -> Callable[..., Any]:
    load_torchvision()  # torchmetrics imports it, which can fail (see there)
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ConfigError(
            f"SSIM comes from torchmetrics, which is not installed; run: {how_to_install('audit')}"
        ) from error
    return structural_similarity_index_measure


def finite_mean(values: Tensor) -> float:
    """The mean as a number that JSON can hold.

    Raises:
        ValueError: it is not finite. For images in [0, 1], every measure of this module is finite.
    """
    mean = float(values.double().mean())
    if not math.isfinite(mean):
        raise ValueError("a measure of the reconstructions is not finite: the images are not finite")
    return mean
