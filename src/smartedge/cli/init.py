"""``smartedge init``: writes a commented settings file to start from."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from smartedge.config import Config, Section, load_config
from smartedge.errors import ConfigError

__all__ = ["add_parser", "commented_yaml", "run"]

_DESCRIPTION = """\
Write a settings file with every key, its meaning and its default.

  $ smartedge init run.yaml --data ../photos --desired smiling
  wrote run.yaml
  next:
    smartedge cuts resnet18 --input 3x64x64      # choose model.cut
    smartedge train run.yaml                     # edge and cloud, on this machine
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "init", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="?", type=Path, default=Path("smartedge.yaml"), help="default: %(default)s")
    parser.add_argument("--data", metavar="PATH", help="the data set: sets data.path")
    parser.add_argument(
        "--desired",
        metavar="COLUMN",
        action="append",
        help="the column to learn: sets data.desired; repeat for several",
    )
    parser.add_argument("--method", help="hierarchical, upload, split or local")
    parser.add_argument("--force", action="store_true", help="overwrite a file that exists")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the file and say what to do next.

    Raises:
        ConfigError: when the file exists and ``--force`` is not given, cannot be written, or a value is impossible.
    """
    data = {"path": args.data, "desired": args.desired[0] if args.desired and len(args.desired) == 1 else args.desired}
    chosen = {"method": args.method, "data": {key: value for key, value in data.items() if value is not None}}
    config = load_config({key: value for key, value in chosen.items() if value})
    try:
        with args.path.open("w" if args.force else "x", encoding="utf-8") as file:
            file.write(commented_yaml(config))
    except FileExistsError as error:
        raise ConfigError(f"{args.path}: exists already; give another path, or --force to overwrite it") from error
    except OSError as error:
        raise ConfigError(f"{args.path}: cannot be written ({error.strerror}); give another path") from error
    print(f"wrote {args.path}\nnext:")
    if args.data and not args.desired:
        print(f"  set data.desired in {args.path} to the column of {args.data} that is to be learned")
    size = config.data.image_size
    print(f"  smartedge cuts {config.model.name} --input 3x{size}x{size}      # choose model.cut")
    print(f"  smartedge train {args.path}      # edge and cloud, on this machine")
    return 0


def commented_yaml(config: Config) -> str:
    """The settings as YAML. A comment above every key gives its meaning and its values."""
    head = (
        "# Settings of a smartedge run. Keys that are left out have the value shown in a fresh file.\n"
        "# 'smartedge train FILE --set key=value' overrides one, for example --set train.lr=0.01\n\n"
    )
    return head + "\n".join(_lines(config)) + "\n"


def _lines(section: Section, indent: str = "") -> list[str]:
    lines: list[str] = []
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            about = (type(value).__doc__ or "").partition("\n")[0]
            lines += ["", f"{indent}# {about}", f"{indent}{name}:", *_lines(value, indent + "  ")]
            continue
        about = field.description or ""
        if choices := _choices(field.annotation):
            about = f"{about} ({' | '.join(choices)})" if about else " | ".join(choices)
        lines += [f"{indent}# {line}" for line in textwrap.wrap(about, 110 - len(indent), break_on_hyphens=False)]
        lines.append(f"{indent}{name}: {_flow(values[name])}")
    return lines


def _flow(value: object) -> str:
    """One value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).split("\n")[0]


def _choices(annotation: object) -> tuple[str, ...]:
    """The values of a ``Literal``, also where it is the key of a mapping."""
    options = [annotation, *get_args(annotation)]
    return next((get_args(option) for option in options if get_origin(option) is Literal), ())
