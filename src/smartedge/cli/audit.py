"""``smartedge audit``: attacks on the data that a run sent."""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.artifacts.summary import refuse_unfinished
from smartedge.cli.arguments import count, names, positive, seconds
from smartedge.cli.common import write_report_where_possible
from smartedge.errors import ConfigError, DataError, list_some
from smartedge.lab.audit.clock import Clock
from smartedge.lab.judging.text import lower_number, upper_number
from smartedge.logs import say
from smartedge.metrics import rounded_up

if TYPE_CHECKING:
    from rich.console import Console

    from smartedge.artifacts.attacks import NamedFigures
    from smartedge.artifacts.audit import Audit, Skipped
    from smartedge.lab.audit.settings import AuditSettings
    from smartedge.runs.progress import Monitor

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Attack a finished run as the cloud could: with the front's weights, the noise law, labelled images of its own, and the
features that crossed the link. The run directory must hold both sides' folders, edge/ and cloud/.

  $ smartedge audit runs/faces --budget 60s
  audit defended mlp 0.001 seed 0 31/200
  what an attacker reads from 600 protected images (balanced accuracy, %)
        best attack         no attacker exceeds  training image  undefended  floor  prediction floor  chance  DP bound
  Male  56.2 ± 4.4  ensemble               56.5            67.3        none   67.8              50.0    50.0     100.0
  the best of each kind of attacker (balanced accuracy, %)
  linear 51.8, mixture 53.4, trees 54.6, mlp 54.4, ensemble 56.2
  Male: attackers of full depth were not needed, since no attacker exceeds 56.5 %, and a cheap one is ...
  membership of a release: AUROC 0.68
  epsilon of one release: claimed 91.82 at δ = 1e-05, at least 54.37 (confidence 99.9 %)
  not in full: undefended: the undefended front is at epoch 1 of 1; another call continues there
  What was sent hides Male from the attackers that were tried: the best attacker reads Male with 67.3 % balanced
  accuracy, no more than the desired label alone gives away (67.8 %). ... Some attacks were left out or cut short: ...
  runs/faces/audit/audit.json

best attack          the best attacker that has the features of one release
training image       the best attacker that has all data sent about a training image: its releases and its desired
                     label. (≤ N): with 95 % confidence, no attacker that has them exceeds N
undefended           the best of linear, mlp and deep on the same front without bottleneck, noise and adversary (trained
                     here, once)
floor                the best attacker that has only the true desired label; a defence that keeps the label cannot be
                     below it
prediction floor     the best attacker that has only the task exit's answer
DP bound             upper bound for any attacker that has the features of one release, from the law of the noise
no attacker exceeds  with 95 % confidence no attacker that has the features of one release does, whatever it computes
                     (docs/certificate.md). Within 2 points of the best attack, deep attackers are left out

attacks: linear, linear-pooled, posterior, mixture, trees, mlp, deep, fine-tuned (attributes); membership,
identity, persons, epsilon, certificate, reconstruction. identity (are two releases of one person?) and persons (what
several images of one person tell together) need a column 'identity' that names the person in each image.
Finished attacks are kept and reused. Give the command again to continue after Ctrl-C, or with a larger budget. Attacks
that the budget left out are listed.

Features of other programs. The same attackers, without a run:

  $ smartedge audit --features faces.npz --noise gaussian:sigma=0.4,clip=2
  $ smartedge audit --features faces.parquet --attributes glasses --known-label --out faces-audit

FILE holds arrays (.npz, .safetensors) or columns (.parquet), one row for each image:
  features   (images, numbers) or (images, channels, height, width); in Parquet lists of numbers, nested for maps
  labels     the desired label, optional; with it there is a label floor
  persons    who is in each image, optional. Splits are then made by persons. Without it images of one person may be in
             two splits, so attackers may recognise persons, and the certificate's confidence is lower than stated
  splits     train, val or test (or 0, 1, 2), optional. Attackers learn from train, are chosen by val and are judged on
             test. Without it: 50, 20 and 30 % at random, by --seed
  any other  a sensitive column, to be read: booleans, whole numbers or texts
Give features of images that your network has not learned from. Without --noise they are attacked as they are. With
--noise give them as they are before clip and noise: the audit adds the noise, anew for each draw, and certifies.
FILE.audit/ (or --out) takes audit.json, a page audit.html and the finished attacks. LAW is one of:
"""

_HEADINGS = ("no attacker exceeds", "training image", "undefended", "floor", "prediction floor", "chance", "DP bound")
_MOST_SHOWN = 6  # attributes
_REPORT_SECONDS, _REPORT_SHARE = 20.0, 0.1  # kept of a budget for the report: the smaller one


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    from smartedge.lab.audit.features.noise import NOISE_WORDS

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "audit",
        description=_DESCRIPTION + textwrap.indent(NOISE_WORDS, "  "),
    )
    parser.add_argument("run_dir", metavar="RUN", type=Path, nargs="?", help="run directory of a finished run")
    parser.add_argument(
        "--attributes",
        metavar="A,B",
        help="columns to read, or 'all': data.sensitive and every yes/no column; default: data.sensitive. With "
        "--features: sensitive columns of FILE; default: all",
    )
    parser.add_argument("--attacks", metavar="A,B", help="only these; default: all")
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="such as 90s, 5m or 2h, for everything from the start to the report; default: no limit",
    )
    parser.add_argument("--seeds", type=positive, default=2, help="attackers of each kind (2)")
    parser.add_argument(
        "--undefended",
        metavar="RUN2",
        type=Path,
        help="compare with this unprotected run instead of training a front; its attacks are kept in its directory",
    )
    parser.add_argument("--fresh", action="store_true", help="do everything again")
    parser.add_argument("--threads", type=positive, help="CPU threads; default: those of the run, or half of the cores")
    given = parser.add_argument_group("features of other programs (no RUN)")
    given.add_argument("--features", metavar="FILE", type=Path, help=".npz, .safetensors or .parquet")
    given.add_argument("--noise", metavar="LAW", help="such as gaussian:sigma=0.4,clip=2; default: none")
    given.add_argument("--known-label", action="store_true", help="the attacker has the desired label as well")
    given.add_argument("--seed", type=count, default=0, help="of splits, noise and attackers (0)")
    given.add_argument("--out", metavar="DIR", type=Path, help="folder of the results; default: FILE.audit")
    return parser


def run(args: argparse.Namespace) -> int:
    """Attack, print the tables and one sentence."""
    from smartedge.config import load_run_config
    from smartedge.runs.progress import Bars

    clock = Clock(None if args.budget is None else seconds(args.budget, "--budget"))
    _check(args)
    usual = load_run_config(args.run_dir).threads if args.run_dir else max(1, (os.cpu_count() or 2) // 2)
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or usual)
        with closing(Bars()) as monitor:
            result, files = (_of_run if args.run_dir else _of_features)(args, clock, monitor)
    finally:
        torch.set_num_threads(before)
    _print(result)
    for file in files:
        say(file)
    return 0


def _check(args: argparse.Namespace) -> None:
    from smartedge.config import load_run_config
    from smartedge.lab.audit.features.noise import check_noise
    from smartedge.methods.base import get_method

    if (args.run_dir is None) == (args.features is None):
        raise ConfigError("give either a run directory, or --features FILE; see 'smartedge audit --help'")
    if args.features is None and (args.noise or args.known_label or args.out or args.seed):
        raise ConfigError("--noise, --known-label, --seed, --out: go with --features; a run states these itself")
    if args.features is not None and args.undefended is not None:
        raise ConfigError("--undefended: goes with a run; audit the undefended features by a call of their own")
    if args.features is not None and not args.features.exists():
        raise DataError(f"{args.features}: there is no such file")
    if args.noise is not None:
        check_noise(args.noise)
    configs = [load_run_config(folder) for folder in (args.run_dir, args.undefended) if folder is not None]
    if args.run_dir is not None:  # before torch is imported
        sends = get_method(configs[0].method).has_cloud
        refuse_unfinished(args.run_dir, sides=("edge", "cloud") if sends else ("edge",))
    _settings(args)


def _of_run(args: argparse.Namespace, clock: Clock, monitor: Monitor) -> tuple[Audit, list[Path]]:
    from smartedge.lab.audit.suite import audit

    result = audit(args.run_dir, _settings(args), monitor, clock=_without_report(clock))
    report = None
    if (args.run_dir / "results.json").exists():
        if clock.remaining() > 0:
            report = write_report_where_possible(args.run_dir)
        else:
            say(f"no time was left for report.html; 'smartedge report {args.run_dir}' writes it", file=sys.stderr)
    return result, [args.run_dir / "audit" / "audit.json", *([report] if report else [])]


def _of_features(args: argparse.Namespace, clock: Clock, monitor: Monitor) -> tuple[Audit, list[Path]]:
    from smartedge.lab.audit.features.files import read_table
    from smartedge.lab.audit.features.run import FeaturesSettings, audit_features

    settings = _settings(args)
    columns = None if settings.attributes == ("all",) else settings.attributes
    table = read_table(args.features, attributes=columns, seed=args.seed)
    folder = args.out or Path(f"{args.features}.audit")
    how = FeaturesSettings(args.noise, args.known_label, args.seed, args.features.name)
    result = audit_features(table, settings, how, folder, monitor, clock=_without_report(clock))
    try:
        from smartedge.lab.report import write_features_page
    except ImportError as error:
        say(f"no page was written: {error}", file=sys.stderr)
        return result, [folder / "audit.json"]
    return result, [folder / "audit.json", write_features_page(result, folder / "audit.html")]


def _without_report(clock: Clock) -> Clock:
    """The time of the audit, which leaves some for the report: its packages are imported, and it draws pictures."""
    left = clock.remaining()
    return clock.part(left - min(_REPORT_SECONDS, _REPORT_SHARE * left)) if math.isfinite(left) else clock


def _settings(args: argparse.Namespace) -> AuditSettings:
    """What to attack."""
    from smartedge.lab.audit.settings import AuditSettings, check_settings

    settings = AuditSettings(
        attributes=names(args.attributes, "--attributes"),
        attacks=names(args.attacks, "--attacks"),
        budget=None if args.budget is None else seconds(args.budget, "--budget"),
        seeds=args.seeds,
        undefended=args.undefended,
        fresh=args.fresh,
    )
    check_settings(settings, of_a_run=args.run_dir is not None)
    return settings


def _print(result: Audit) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    images, edge = result.audited.images["test"], getattr(result.audited, "edge", None)
    of_edge = f" of edge {edge}" if edge else ""
    title = f"what an attacker reads from {images} protected images{of_edge} (balanced accuracy, %)"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("best attack")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for name, block in result.attributes.items():
        table.add_row(
            escape(name) + (" (desired)" if block.desired else ""),
            _best(block.best),
            _certified(result, name),
            _training_image(result, name, block.training_image),
            _figure(block.undefended),
            _figure(block.floor),
            _figure(block.prediction_floor),
            f"{100 * block.chance:.1f}",
            f"{100 * rounded_up(block.dp_bound):.1f}" if block.dp_bound is not None else "none",
        )
    console = Console(width=120, highlight=False)
    console.print(table)
    _print_kinds(result, console)
    if result.membership:
        console.print(f"membership of a release: AUROC {result.membership.any.auroc:.2f}")
    _print_people(result, console)
    dp = result.dp
    if dp.epsilon_lower_bound is not None and dp.confidence is not None:
        at = f" at δ = {dp.delta:g}" if dp.delta else ""
        claimed = dp.epsilon_claimed
        claim = "nothing claimed" if claimed is None else f"claimed {upper_number(claimed)}{at}"
        at_least = max(dp.epsilon_lower_bound, dp.epsilon_lower_bound_gaussian or 0.0)
        sure = f"(confidence {100 * dp.confidence:.1f} %)"
        console.print(f"epsilon of one release: {claim}, at least {lower_number(at_least)} {sure}")
    for name, figures in (result.reconstruction.attacks if result.reconstruction else {}).items():
        if figures.psnr is not None and figures.ssim is not None:
            console.print(f"reconstruction by {name}: PSNR {figures.psnr:.1f} dB, SSIM {figures.ssim:.2f}")
    if result.skipped:
        console.print(_cut_short(result.skipped), markup=False)
    console.print(result.verdict, markup=False)


def _cut_short(skipped: Sequence[Skipped]) -> str:
    """One line for all that was left out or cut short."""
    attacks = list(dict.fromkeys(entry.attack for entry in skipped))
    reasons = Counter(entry.reason for entry in skipped)
    reason, _ = reasons.most_common(1)[0]
    others = f", and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
    return f"not in full: {list_some(attacks)}: {reason}{others}; audit.json lists all {len(skipped)}"


def _print_kinds(result: Audit, console: Console) -> None:
    """All kinds of attackers, where there are few attributes."""
    from rich.markup import escape
    from rich.table import Table

    if not 0 < len(result.attributes) <= _MOST_SHOWN:
        return
    console.print("the best of each kind of attacker (balanced accuracy, %)")
    table = Table()
    table.add_column("")
    for name in result.attributes:
        table.add_column(escape(name), justify="right")
    for kind in dict.fromkeys(kind for block in result.attributes.values() for kind in block.attacks):
        found = [block.attacks.get(kind) for block in result.attributes.values()]
        table.add_row(kind, *(f"{100 * figures.balanced_accuracy:.1f}" if figures else "" for figures in found))
    console.print(table)
    for name, block in result.attributes.items():
        if block.full_depth_needed is False:
            console.print(
                f"{name}: attackers of full depth were not needed, since no attacker exceeds "
                f"{_certified(result, name)} %, and a cheap one is within 2 points of that on the same population",
                markup=False,
            )


def _print_people(result: Audit, console: Console) -> None:
    """Identity, and what several images of one person tell."""
    if found := result.identity:
        best, floor = found.linkers[found.best], found.label_floor
        plain = f", undefended {found.undefended.auroc:.2f}" if found.undefended else ""
        console.print(
            f"two releases of one person: AUROC {best.auroc:.2f} ({found.best}){plain}, label floor {floor.auroc:.2f}, "
            f"equal-error rate {100 * best.equal_error_rate:.1f} %"
        )
    for name, bands in (result.persons or {}).items():
        for images, band in bands.items():
            figures = band.attacks[band.best]
            low, high = figures.ci95
            fewest = images.split("-")[0]
            bound = (
                f", no attacker of {fewest} exceeds {100 * rounded_up(band.certificate.bound):.1f}"
                if band.certificate
                else ""
            )
            console.print(
                f"{name} from {images} of one person's images: {100 * figures.balanced_accuracy:.1f} "
                f"± {50 * (high - low):.1f} %, label floor {100 * band.label_floor.balanced_accuracy:.1f}{bound}",
                markup=False,
            )


def _certified(result: Audit, name: str) -> str:
    certificate = result.certificate.one_release if result.certificate else None
    bound = certificate.attributes.get(name) if certificate else None
    return "none" if bound is None else f"{100 * rounded_up(bound.bound):.1f}"


def _training_image(result: Audit, name: str, figures: NamedFigures | None) -> str:
    certificate = result.certificate.training_image if result.certificate else None
    bound = certificate.attributes.get(name) if certificate else None
    return _figure(figures) + ("" if bound is None else f" (≤ {100 * rounded_up(bound.bound):.1f})")


def _best(figures: NamedFigures | None) -> str:
    if figures is None:
        return "none made"
    low, high = figures.ci95
    return f"{100 * figures.balanced_accuracy:.1f} ± {50 * (high - low):.1f}  {figures.attack}"


def _figure(figures: NamedFigures | None) -> str:
    return f"{100 * figures.balanced_accuracy:.1f}" if figures else "none"
