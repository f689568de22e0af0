"""What libraries publish for a network: its weights, and the images that these were trained on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from smartedge.errors import CutError
from smartedge.images.size import ImageSize
from smartedge.models.blame import first_line
from smartedge.models.zoo.files import read_weights
from smartedge.models.zoo.weights import IMAGENET, Adapt, Loaded, Pixels, fill

__all__ = ["Published", "load_into", "of_model", "of_torchvision"]

# What timm calls the functions that turn other forms of a network's weights into its own, one for each module.
_FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")


@dataclass(frozen=True)
class Published:
    """Facts about a network's published weights."""

    pixels: Pixels | None = None  # how colours were scaled; None: not said
    image_size: int | None = None  # in pixels; None: not said
    head: tuple[str, ...] = ()  # names of the modules that give the logits; empty: not said
    place: tuple[str, ...] | None = None  # repository and file on the Hugging Face hub, or a URL; None: none published


def of_model(model: nn.Module) -> Published:
    """From ``pretrained_cfg``, where timm writes such facts; a network of the user's own can do the same."""
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    pixels = Pixels(tuple(cfg["mean"]), tuple(cfg["std"])) if cfg.get("mean") and cfg.get("std") else None
    classifier = cfg.get("classifier") or ()
    size = cfg.get("input_size")
    place: tuple[str, ...] | None = None
    if cfg.get("hf_hub_id"):
        place = (str(cfg["hf_hub_id"]), str(cfg.get("hf_hub_filename") or "model.safetensors"))
    elif cfg.get("url"):
        place = (str(cfg["url"]),)
    head = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return Published(pixels, None if size is None else int(size[-1]), head, place)


def of_torchvision(library: ModuleType, name: str) -> Published:
    """From the transform that belongs to the weights."""
    weights = getattr(library.models.get_model_weights(name), "DEFAULT", None)
    if weights is None:
        return Published()
    transform = weights.transforms()
    return Published(Pixels(tuple(transform.mean), tuple(transform.std)), int(transform.crop_size[0]))


def load_into(model: nn.Module, name: str, weights: str, published: Published, image_size: ImageSize) -> Loaded:
    """Give a network its pretrained weights.

    Args:
        model: the network, with a head of the task's size.
        name: of the network.
        weights: ``timm``, or a file.
        published: facts about the weights of that name.
        image_size: of the images here.

    Raises:
        CutError: the weights cannot be read or fetched, or are those of another network.
    """
    path = _fetch(name, published) if weights == "timm" else Path(weights)
    state, notes = read_weights(path)
    source = f"{name} of timm" if weights == "timm" else str(path)
    tensors, replaced, more = fill(model, state, source, head=published.head, adapt=_filter_of(model))
    pixels = published.pixels
    if pixels is None:
        pixels, more = IMAGENET, [*more, "nothing says how colours were scaled in their training: as for ImageNet"]
    if len(pixels.mean) != image_size.channels:
        pixels = pixels.of_channels(image_size.channels)
        more = [*more, f"each of the {image_size.channels} channels is scaled by the mean over red, green and blue"]
    size = published.image_size
    if size is not None and image_size.sides != (size, size):
        more = [*more, f"images are {image_size} here; data.image_size: {size} is what they know best"]
    return Loaded(source, tensors, replaced, pixels, size, (*notes, *more))


def _filter_of(model: nn.Module) -> Adapt | None:
    module = type(model).__module__
    if not module.startswith("timm."):
        return None
    found = [getattr(sys.modules[module], name, None) for name in _FILTERS]
    return next((function for function in found if function is not None), None)


def _fetch(name: str, published: Published) -> Path:
    """Download published weights, or find them in the cache of an earlier download.

    Raises:
        CutError: none are published, or they cannot be fetched.
    """
    if published.place is None:
        raise CutError(
            f"model.weights: timm publishes no weights for {name}; 'timm.list_pretrained()' lists those that it has; "
            "or give a file of your own"
        )
    try:
        if len(published.place) == 1:
            from timm.models._hub import download_cached_file

            return Path(download_cached_file(published.place[0], progress=False))
        return _from_hub(*published.place)
    except Exception as error:  # whatever the network, the hub's library or the disk reports
        raise CutError(
            f"model.weights: the weights of {name} cannot be fetched from {published.place[0]} ({first_line(error)}); "
            "download them where there is internet, copy the file here, and give it as model.weights: FILE.safetensors"
        ) from error


def _from_hub(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file))
    except EntryNotFoundError:
        return Path(hf_hub_download(repository, "pytorch_model.bin"))
