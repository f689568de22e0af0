"""Networks by name: torchvision's, timm's, or one that the user's own code makes; untrained, or with weights.

Only the common core is installed on a small device; torchvision and timm come with the extra ``zoo``.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from smartedge.errors import CutError
from smartedge.images.size import RGB, ImageSize
from smartedge.models.blame import first_line, kind_and_place, place_and_reason, where_to_find
from smartedge.models.blueprint import is_on_hub, weights_named
from smartedge.models.compat import load_timm, load_torchvision
from smartedge.models.zoo.answers import check_answer
from smartedge.models.zoo.names import refuse_name
from smartedge.models.zoo.published import load_into, of_model, of_torchvision
from smartedge.models.zoo.weights import later_loaded

__all__ = ["build", "importing_from", "usual_size"]

# At 64 pixels the stock stem of a ResNet leaves 16x16 maps, enough for four stages; at 32 it would leave 8x8.
_STEM_BELOW = 64
# The stock head of a VGG stretches to 7x7 whatever arrives and then spends most of the network's time and parameters
# on it. From 128 pixels on a map of 4x4 or more arrives.
_HEAD_BELOW = 128


def build(
    name: str,
    *,
    outputs: int,
    image_size: int | ImageSize,
    small_input: bool = True,
    seed: int,
    weights: str | None = None,
    arguments: Mapping[str, JsonValue] | None = None,
) -> nn.Module:
    """A network (B, C, H, W) → (B, outputs), in training mode.

    Where it has pretrained weights, its attribute ``loaded`` tells what they are
    (:class:`smartedge.models.zoo.weights.Loaded`).

    Args:
        name: of a network of torchvision or, where it has none, of timm (``torchvision/NAME`` and ``timm/NAME`` ask
            for one of them), ``hf_hub:USER/NAME`` on the Hugging Face hub, or ``package.module:factory`` for a
            callable that takes ``num_classes``.
        outputs: number K of outputs.
        image_size: H and W of the images in pixels, and their channels C; a number is the side of a square of three
            channels. Other channels change the first convolution; the user's own network has to have it already.
        small_input: adapt to small images, by their shorter side. Below 64 pixels ResNets begin with a 3x3 convolution
            of stride 1 and no pooling; below 128 pixels VGGs end in global pooling and one linear layer. The user's own
            networks, and pretrained ones, are left alone.
        seed: determines every parameter that is not pretrained, also where the user's own code draws from Python's or
            NumPy's global generator. The global random states are left as they were.
        weights: ``none``, ``timm`` (those that timm publishes), a file, or ``later``; None: as the name says, see
            :func:`smartedge.models.blueprint.weights_named`.
        arguments: further arguments for the library's builder or the user's factory.

    Raises:
        CutError: no network has that name, its library is not installed, it does not take such images or arguments,
            or the weights cannot be read, fetched or put into it.
    """
    weights, size = weights_named(name, weights), ImageSize.of(image_size)
    own = ":" in name and not is_on_hub(name)
    if own and weights == "timm":
        raise CutError(f"model.weights: timm has no weights for a network of your own ({name}); give a file")
    with _seeded() as begin_at:
        begin_at(seed)
        if own:
            factory = _factory(name)
            begin_at(seed)  # whatever was drawn while the module was imported, which happens once in a process
            model, published = _from_factory(factory, name, outputs, arguments or {}), None
        else:
            found = _find(name, timm_first=weights == "timm")
            small = small_input and weights == "none"
            model = _from_library(name, found, outputs, size, small, arguments or {})
            published = of_torchvision(*found) if found[0] is load_torchvision() else None
        if weights != "none":
            facts = of_model(model) if published is None else published
            later = weights == "later"
            loaded = later_loaded(size.channels) if later else load_into(model, name, weights, facts, size)
            model.loaded = loaded  # type: ignore[assignment]
        check_answer(model, name, outputs, size)
    return model


def usual_size(name: str, *, weights: str = "none") -> int | None:
    """The image size in pixels for which the library publishes a network of that name.

    timm states it in ``pretrained_cfg``, torchvision in the transform of its weights. None for the user's own network,
    and where the library states no size.

    Raises:
        CutError: no network has that name, or its library is not installed.
    """
    if ":" in name:
        return None
    library, short = _find(name, timm_first=weights == "timm")
    if library is load_torchvision():
        return of_torchvision(library, short).image_size
    published = library.models.get_pretrained_cfg(short)
    return None if published is None else int(published.input_size[-1])


def _find(name: str, *, timm_first: bool) -> tuple[ModuleType, str]:
    """The library that has a network of that name, and the name in it."""
    if is_on_hub(name):
        return load_timm(), name
    library, _, short = name.rpartition("/")
    if timm_first and library == "" and load_timm().is_model(short):
        return load_timm(), short
    torchvision = load_torchvision()
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if library in ("", "torchvision") and short in classifiers:
        return torchvision, short
    timm = load_timm()
    if library not in ("", "timm") or not timm.is_model(short):
        refuse_name(name, [*classifiers, *timm.list_models()])
    return timm, short


def _from_library(
    name: str,
    found: tuple[ModuleType, str],
    outputs: int,
    size: ImageSize,
    small_input: bool,
    arguments: Mapping[str, JsonValue],
) -> nn.Module:
    library, short = found
    if library is load_torchvision():
        builder = library.models.get_model_builder(short)
        settings = _torchvision_settings(name, builder, outputs, size) | dict(arguments)
        make: Callable[[], nn.Module] = lambda: builder(**settings)  # noqa: E731
    else:
        make = lambda: _made_by_timm(library, short, outputs, size, arguments)  # noqa: E731
    try:
        if small_input and min(size.sides) < _HEAD_BELOW and re.match(r"vgg\d", short):
            model = _vgg_with_small_head(make, outputs)
        else:
            model = make()
    except (ValueError, AssertionError, RuntimeError, TypeError) as error:
        given = f" with {dict(arguments)}" if arguments else ""
        raise CutError(f"{name} cannot be built for {size} images{given}: {error}") from error
    except Exception as error:
        if not is_on_hub(name):
            raise
        raise CutError(f"{name} cannot be fetched from the Hugging Face hub: {first_line(error)}") from error
    if small_input and min(size.sides) < _STEM_BELOW:
        _shrink_stem(model)
    if size.channels != RGB and library is load_torchvision():
        _take_channels(model, name, size.channels)
    return model


def _made_by_timm(
    timm: ModuleType, name: str, outputs: int, size: ImageSize, arguments: Mapping[str, JsonValue]
) -> nn.Module:
    settings: dict[str, object] = {"num_classes": outputs, **arguments}
    if size.channels != RGB:
        settings["in_chans"] = size.channels
    if is_on_hub(name):
        cfg, architecture, own = timm.models.load_model_config_from_hf(name.partition(":")[2])
        settings |= {"pretrained_cfg": cfg, **(own or {})}
        fixed = cfg.get("fixed_input_size", False)
    else:
        published, architecture = timm.models.get_pretrained_cfg(name), name
        fixed = published is not None and published.fixed_input_size
    if fixed:  # networks made for one image size (ViT, Swin) have to be told it, the others must not be
        settings["img_size"] = size.height if size.height == size.width else size.sides
    model: nn.Module = timm.create_model(architecture, pretrained=False, **settings)
    return model


def _torchvision_settings(
    name: str, builder: Callable[..., nn.Module], outputs: int, size: ImageSize
) -> dict[str, object]:
    known = inspect.signature(typing.get_type_hints(builder)["return"].__init__).parameters
    if "image_size" in known and size.height != size.width:
        raise CutError(
            f"{name} cannot be built for {size} images: torchvision's takes squares only; timm has networks of this "
            "kind that take rectangles"
        )
    settings = {
        "image_size": size.height,  # ViT
        "input_size": size.sides,  # MaxViT
        "aux_logits": False,  # GoogLeNet and Inception would answer with several tensors
        "init_weights": True,
    }
    return {"weights": None, "num_classes": outputs} | {key: v for key, v in settings.items() if key in known}


def _take_channels(model: nn.Module, name: str, channels: int) -> None:
    """Give a network of torchvision another first convolution, which takes so many channels.

    Raises:
        CutError: it does not begin with a convolution over red, green and blue.
    """
    place, first = next((each for each in model.named_modules() if isinstance(each[1], nn.Conv2d)), ("", None))
    if not isinstance(first, nn.Conv2d) or first.in_channels != RGB or first.groups != 1:
        raise CutError(f"{name} does not begin with a convolution over 3 channels, so it cannot take {channels}")
    wide = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    model.set_submodule(place, wide)


def _shrink_stem(model: nn.Module) -> None:
    """Turn a ResNet's stem, a 7x7 convolution of stride 2 and max-pooling, into the one usual for CIFAR-10."""
    stem = getattr(model, "conv1", None)
    if isinstance(stem, nn.Conv2d) and stem.kernel_size == (7, 7) and hasattr(model, "maxpool"):
        model.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()


def _vgg_with_small_head(make: Callable[[], nn.Module], outputs: int) -> nn.Module:
    """A VGG with global pooling and one linear layer; the stock head's half a gigabyte is never allocated."""
    with torch.device("meta"):
        model = make()
    features = model.features
    assert isinstance(features, nn.Module)
    if hasattr(model, "pre_logits"):  # timm's
        model.pre_logits = nn.Identity()
        model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, outputs))
    else:
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Linear(512, outputs)
    features.to_empty(device="cpu")
    for module in features.modules():  # as torchvision and timm initialise them
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def _factory(name: str) -> Callable[..., object]:
    """The user's own function, imported."""
    module_name, _, attribute = name.partition(":")
    with importing_from(Path.cwd()):
        try:
            factory: Callable[..., object] = getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            if f"{module_name}.".startswith(f"{error.name}."):  # the module itself, or a package of it
                remedy = "give package.module:factory, and name the folder that holds it in PYTHONPATH, or start there"
                raise CutError(f"{name}: {error}; {remedy}") from error
            failed = f"importing {module_name} fails: {place_and_reason(error)}; {where_to_find(error)}"
            raise CutError(f"{name}: {failed}") from error
        except (ImportError, AttributeError) as error:
            raise CutError(f"{name}: {error}; give package.module:factory, importable from here") from error
        except (Exception, SystemExit) as error:  # a script without a main part ends here
            raise CutError(f"{name}: importing {module_name} fails: {kind_and_place(error)}") from error
    return factory


def _from_factory(
    factory: Callable[..., object], name: str, outputs: int, arguments: Mapping[str, JsonValue]
) -> nn.Module:
    given = ", ".join([f"num_classes={outputs}", *(f"{key}={value!r}" for key, value in arguments.items())])
    with importing_from(Path.cwd()):
        try:
            model = factory(num_classes=outputs, **arguments)
        except (Exception, SystemExit) as error:
            raise CutError(f"{name}({given}) fails: {kind_and_place(error)}") from error
    if not isinstance(model, nn.Module):
        raise CutError(f"{name}({given}) gave a {type(model).__name__}, not a torch.nn.Module")
    return model


@contextmanager
def _seeded() -> Iterator[Callable[[int], None]]:
    """A function that puts the global generators of torch, Python and NumPy to a seed; afterwards all are as before."""

    def begin_at(seed: int) -> None:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield begin_at
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """Within this block, modules in the folder can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
