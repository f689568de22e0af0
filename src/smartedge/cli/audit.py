"""``smartedge audit``: attacks on the data that a run sent."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.errors import ConfigError

if TYPE_CHECKING:
    from smartedge.artifacts.audit import Audit, NamedFigures

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Attack a finished run as the cloud could: with the front's weights, the noise law, labelled images of its own, and the
features that crossed the link. The run directory must hold both sides' folders, edge/ and cloud/.

  $ smartedge audit runs/faces --budget 10m
  audit undefended front 852/852 epoch 6/6
  audit defended deep 0.001 seed 0 masculine 420/420
  what an attacker reads from 1000 protected images (balanced accuracy, %)
                best attack       training image  undefended  floor  prediction floor  chance  DP bound
  masculine     52.4 ± 3.1  deep            52.6        97.3   50.9              50.8    50.0      67.8
  membership of a release: AUROC 0.61
  epsilon of one release: claimed 4.00, at least 2.31 (confidence 99.9 %)
  masculine: the best attacker (deep) reads it at 52.4 % balanced accuracy, 97.3 % from the undefended front: no more
  than 3 points above what the desired label alone tells (50.9 %).
  runs/faces/audit/audit.json

best attack       the best attacker that has the features of one release
training image    the best attacker that has all data sent about a training image: its releases and its desired label
undefended        the best of linear, mlp and deep on the same front without bottleneck, noise and adversary (trained
                  here, once)
floor             the best attacker that has only the true desired label; a defence that keeps the label cannot be below
prediction floor  the best attacker that has only the task exit's answer
DP bound          upper bound for any attacker that has the features of one release, from the law of the noise

attacks: linear, linear-pooled, posterior, mixture, trees, mlp, deep, fine-tuned (attributes); membership,
epsilon, reconstruction
Finished attacks are kept and reused. Give the command again to continue after Ctrl-C, or with a larger budget. Attacks
that the budget left out are listed.
"""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "audit", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="run directory of a finished run")
    parser.add_argument(
        "--attributes",
        metavar="A,B",
        help="columns to read, or 'all': data.sensitive and every yes/no column; default: data.sensitive",
    )
    parser.add_argument("--attacks", metavar="A,B", help="only these; default: all")
    parser.add_argument("--budget", metavar="TIME", help="such as 90s, 5m or 2h; default: no limit")
    parser.add_argument("--seeds", type=int, default=2, help="attackers of each kind (2)")
    parser.add_argument(
        "--undefended",
        metavar="RUN2",
        type=Path,
        help="compare with this unprotected run instead of training a front; its attacks are kept in its directory",
    )
    parser.add_argument("--fresh", action="store_true", help="do everything again")
    parser.add_argument("--threads", type=int, help="CPU threads; default: those of the run")
    return parser


def run(args: argparse.Namespace) -> int:
    """Attack, print one table and one sentence."""
    import torch

    from smartedge.config import load_run_config
    from smartedge.lab.audit.suite import AuditSettings, audit
    from smartedge.runs.progress import Bars

    if args.threads is not None and args.threads < 1:
        raise ConfigError("--threads: at least 1 is needed")
    settings = AuditSettings(
        attributes=_names(args.attributes, "--attributes"),
        attacks=_names(args.attacks, "--attacks"),
        budget=None if args.budget is None else seconds(args.budget),
        seeds=args.seeds,
        undefended=args.undefended,
        fresh=args.fresh,
    )
    before = torch.get_num_threads()
    monitor = Bars()
    try:
        torch.set_num_threads(args.threads or load_run_config(args.run_dir).threads)
        result = audit(args.run_dir, settings, monitor)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; go on with: smartedge audit {args.run_dir}") from None
    finally:
        monitor.close()
        torch.set_num_threads(before)
    _print(result)
    print(args.run_dir / "audit" / "audit.json")
    return 0


def seconds(text: str) -> float:
    """``"90s"``, ``"5m"``, ``"1.5h"`` or a bare number of seconds.

    Raises:
        ConfigError: the text is not a positive time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--budget {text!r}: must be a positive time, such as 90s, 5m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def _names(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError(f"{option}: the list is empty; name at least one")
    return names


def _print(result: Audit) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    images = result.audited.images["test"]
    table = Table(
        title=f"what an attacker reads from {images} protected images (balanced accuracy, %)", title_justify="left"
    )
    table.add_column("")
    table.add_column("best attack")
    for heading in ("training image", "undefended", "floor", "prediction floor", "chance", "DP bound"):
        table.add_column(heading, justify="right")
    for name, block in result.attributes.items():
        table.add_row(
            escape(name) + (" (desired)" if block.desired else ""),
            _best(block.best),
            _figure(block.training_image),
            _figure(block.undefended),
            _figure(block.floor),
            _figure(block.prediction_floor),
            f"{100 * block.chance:.1f}",
            f"{100 * block.dp_bound:.1f}" if block.dp_bound is not None else "none",
        )
    console = Console(width=120, highlight=False)
    console.print(table)
    if result.membership:
        console.print(f"membership of a release: AUROC {result.membership.any.auroc:.2f}")
    dp = result.dp
    if dp.epsilon_lower_bound is not None and dp.confidence is not None:
        claim = f"claimed {dp.epsilon_claimed:.2f}" if dp.epsilon_claimed is not None else "nothing claimed"
        at_least = max(dp.epsilon_lower_bound, dp.epsilon_lower_bound_gaussian or 0.0)
        sure = f"(confidence {100 * dp.confidence:.1f} %)"
        console.print(f"epsilon of one release: {claim}, at least {at_least:.2f} {sure}")
    for name, figures in (result.reconstruction.attacks if result.reconstruction else {}).items():
        if figures.psnr is not None and figures.ssim is not None:
            console.print(f"reconstruction by {name}: PSNR {figures.psnr:.1f} dB, SSIM {figures.ssim:.2f}")
    for entry in result.skipped:
        where = f" on {entry.evidence} {', '.join(entry.attributes)}" if entry.attributes is not None else ""
        console.print(f"not in full: {entry.attack}{where}: {entry.reason}", markup=False)
    console.print(result.verdict, markup=False)


def _best(figures: NamedFigures | None) -> str:
    if figures is None:
        return "none made"
    low, high = figures.ci95
    return f"{100 * figures.balanced_accuracy:.1f} ± {50 * (high - low):.1f}  {figures.attack}"


def _figure(figures: NamedFigures | None) -> str:
    return f"{100 * figures.balanced_accuracy:.1f}" if figures else "none"
