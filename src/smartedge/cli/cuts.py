"""``smartedge cuts``: lists the places at which a network can be cut, and the cost of each."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from smartedge.cli.arguments import positive
from smartedge.errors import CutError
from smartedge.images.size import MOST_CHANNELS, ImageSize
from smartedge.logs import say

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from smartedge.models.cutting.cut import Cut

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
List every point of a network at which exactly one tensor crosses. Each name can be used as model.cut.

All figures are for one image. KiB: size of the tensor that crosses, as float32. FLOPs: floating-point operations, 2 per
multiply-accumulate; unknown where a module decides by values how much it computes.
KiB kept: results of operations on that side; training holds them in memory.
"""

_EXAMPLE = """\
example:
  $ smartedge cuts resnet18 --input 3x64x64
                                 parameters  parameters  MFLOPs  MFLOPs  KiB kept  KiB kept
  cut           shape       KiB       front        back   front    back     front      back
  conv1         64x32x32  256.0       9,408  11,172,234   19.27  276.83     256.0   1,394.0
  ...
  layer1        64x16x16   64.0     157,504  11,024,138   94.77  201.34   1,088.0     562.0
  ...

MODEL is a name of torchvision or timm, hf_hub:USER/NAME, or package.module:factory: your own function that takes
num_classes. docs/networks.md says more.
"""
_SIDES = ("front", "back")
_REASONS = 4  # that are shown


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("cuts", description=_DESCRIPTION, epilog=_EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="such as resnet18, timm/vit_tiny_patch16_224, my.code:network")
    parser.add_argument(
        "--input",
        metavar="CxHxW",
        type=_image_size,
        help="shape of one image (default: the size that the network is published for, else 3x64x64)",
    )
    parser.add_argument(
        "--outputs", metavar="K", type=positive, default=10, help="classes or columns (default: %(default)s)"
    )
    parser.add_argument("--stock", action="store_true", help="leave stem and head as published, also for small images")
    parser.add_argument(
        "--json", action="store_true", help="for programs: all fields, with the other names of each cut"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the table, or the JSON.

    Raises:
        CutError: the network is unknown, does not take such images, cannot be recorded, or has no place to cut.
    """
    from smartedge.models.zoo.names import check_name

    if args.model.endswith((".yaml", ".yml")):
        raise CutError(
            f"{args.model} is a settings file; give the network that it names, such as 'smartedge cuts resnet18'"
        )
    check_name(args.model)  # before torch is imported

    from rich.console import Console

    from smartedge.models.cutting.cut import list_cuts
    from smartedge.models.zoo.networks import build, usual_size

    size = ImageSize.of(args.input or usual_size(args.model) or 64)
    model = build(args.model, outputs=args.outputs, image_size=size, small_input=not args.stock, seed=0, weights="none")
    cuts = list_cuts(model, size.shape)
    if not cuts:
        raise CutError(f"{args.model} cannot be divided anywhere. {_reasons(model, size)}")
    if args.input is None:
        say(f"images of {'x'.join(map(str, size.shape))}; --input chooses another size", file=sys.stderr)
    if args.json:
        rows = [dataclasses.asdict(point) | {"dtype": str(point.dtype).removeprefix("torch.")} for point in cuts]
        say(*json.dumps(rows, indent=2).splitlines())
    else:
        Console(width=max(Console().width, 120)).print(_table(cuts))  # names and figures are never truncated
    return 0


def _reasons(model: nn.Module, size: ImageSize) -> str:
    """Why the network cannot be cut after each of its parts."""
    from smartedge.models.cutting.cut import cut

    reasons = []
    for name, _ in model.named_children():
        try:
            cut(model, name, size.shape)
        except CutError as error:
            reasons.append(str(error).partition(" Nearest cuts:")[0].partition(" It has no cuts")[0])
    return (
        " ".join(reasons[:_REASONS]) or "It has no parts: a network is divided between the modules that it is made of."
    )


def _table(cuts: list[Cut]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("cut", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for heading in ("KiB", *(f"{what}\n{side}" for what in ("parameters", "MFLOPs", "KiB kept") for side in _SIDES)):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in cuts:
        table.add_row(
            point.name,
            "x".join(map(str, point.shape)),
            _kib(point.activation_bytes),
            f"{point.front_parameters:,}",
            f"{point.back_parameters:,}",
            _mega(point.front_flops),
            _mega(point.back_flops),
            _kib(point.front_activation_bytes),
            _kib(point.back_activation_bytes),
        )
    return table


def _mega(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 1e6:,.2f}"


def _kib(number: int) -> str:
    return f"{number / 1024:,.1f}"


def _image_size(text: str) -> ImageSize:
    match = re.fullmatch(r"([1-9]\d?)x([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None or int(match[1]) > MOST_CHANNELS:
        raise argparse.ArgumentTypeError(
            f"{text} is not the shape of an image; write it as CxHxW, channels first, for example 3x64x64"
        )
    return ImageSize(int(match[2]), int(match[3]), int(match[1]))
