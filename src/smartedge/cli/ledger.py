"""``smartedge ledger``: the releases of each image, their cost, and the rest of the budget."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.files import finite_or_none
from smartedge.logs import say, with_spaces
from smartedge.metrics import rounded_down, rounded_up

if TYPE_CHECKING:
    from smartedge.privacy.balance import Balance, ImageGroup
    from smartedge.types import ReleaseEvent

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show the privacy budget that a run has spent. Works on the edge, which holds the ledger, also while the run goes on.

  $ smartedge ledger runs/faces
  Budget of an image: ε = 4 at δ = 1e-05, over all its releases.
  split train: 9 000 images; worst: image 0, 6 releases, ε = 4, 0 left
    6 releases, ε = 4  9 000  ########################
  split test: 1 100 images; worst: image 0, 1 release, ε = 1.459, 2.541 left
    1 release, ε = 1.459  1 100  ########################
  Released: gaussian noise of 2.648 times the sensitivity, ε = 1.459 at δ = 1e-05 each time.
  Labels: in clear; the budget does not cover them.

RUN may also be the folder in which 'smartedge infer FRONT --connect' keeps its ledger: FRONT.state, or that of --state.
Exit code 9 where the ledger is missing or damaged. docs/privacy.md says what ε means and what it does not cover.
"""
_ROWS = 12  # of a histogram
_BAR = 24
_DIGITS = 4  # of an ε


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("ledger", description=_DESCRIPTION)
    parser.add_argument(
        "run_dir", metavar="RUN", type=Path, help="run directory, on the edge; or a folder with a ledger.sqlite"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object; null stands for infinity")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="let this copy of a ledger spend the budget; only where the original is gone for good",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the balance."""
    from smartedge.privacy.balance import read_balance
    from smartedge.privacy.ledger import take_over

    file = args.run_dir / "ledger.sqlite"  # of a front bundle's releases
    if not file.exists():
        file = args.run_dir / "edge" / "ledger.sqlite"
    if args.take_over:
        take_over(file)
    balance = read_balance(file)
    if args.json:
        say(*json.dumps(_as_json(balance), indent=1).splitlines())
    else:
        say(*_as_text(balance))
    return 0


def _as_text(balance: Balance) -> list[str]:
    budget = balance.budget
    whose = "an image" if balance.of_each_number == 1 else "each number of a feature map"
    if math.isfinite(budget.epsilon):
        lines = [f"Budget of {whose}: ε = {_number(budget.epsilon)} at δ = {budget.delta:g}, over all its releases."]
    else:
        lines = ["No budget: releases are recorded, and none is refused."]
    if (numbers := balance.of_each_number) > 1:
        lines.append(
            f"Each ε here is of one number alone. An image has {numbers} numbers, and a release costs the image "
            f"{numbers} times the ε of a number."
        )
    if not balance.groups:
        return [*lines, "Nothing was released yet."]
    for split in balance.splits:
        groups = [group for group in balance.groups if group.split == split]
        worst = balance.worst(split)
        assert worst is not None
        left = ""
        if math.isfinite(budget.epsilon):
            left = ", without protection, as the settings say"
            if math.isfinite(worst.epsilon):
                left = f", {rounded_down(_rest(budget.epsilon, worst.epsilon), _DIGITS):.{_DIGITS}g} left"
        images = sum(group.images for group in groups)
        lines.append(
            f"split {split}: {with_spaces(images)} image{'s' * (images != 1)}; worst: image {worst.example}, "
            f"{_times(worst.releases)}, ε = {_number(worst.epsilon)}{left}"
        )
        lines += _histogram(groups)
    events = {event: None for group in balance.groups for event, _ in group.history}
    lines += [f"Released: {_in_words(event)}" for event in events]
    label_epsilon = max(group.label_epsilon for group in balance.groups)
    if math.isinf(label_epsilon):
        lines.append("Labels: in clear; the budget does not cover them.")
    elif label_epsilon > 0:
        lines.append(
            f"Labels: randomised response, ε = {_number(label_epsilon)} once per image, on top of the features'."
        )
    return lines


def _histogram(groups: list[ImageGroup]) -> list[str]:
    """Images by number of releases and ε; by ranges of ε where there are many different ones."""
    counts: Counter[tuple[float, int]] = Counter()
    for group in groups:
        counts[group.epsilon, group.releases] += group.images
    rows = [(f"{_times(times)}, ε = {_number(epsilon)}", n) for (epsilon, times), n in sorted(counts.items())]
    if len(rows) > _ROWS:
        finite = [epsilon for epsilon, _ in counts if math.isfinite(epsilon)]
        low = min(finite, default=0.0)
        step = (max(finite, default=0.0) - low) / (_ROWS - 2) or 1.0
        ranges: Counter[int] = Counter()
        for (epsilon, _), n in counts.items():
            ranges[min(_ROWS - 3, int((epsilon - low) / step)) if math.isfinite(epsilon) else _ROWS] += n
        rows = [(_range(low, step, place), n) for place, n in sorted(ranges.items())]
    width = max(len(name) for name, _ in rows)
    digits = max(len(with_spaces(n)) for _, n in rows)
    most = max(n for _, n in rows)
    return [f"  {name:<{width}}  {with_spaces(n):>{digits}}  {'#' * math.ceil(_BAR * n / most)}" for name, n in rows]


def _range(low: float, step: float, place: int) -> str:
    return "ε = ∞" if place == _ROWS else f"ε from {_number(low + place * step)} to {_number(low + (place + 1) * step)}"


def _in_words(event: ReleaseEvent) -> str:
    if event.mechanism == "none":
        return "without protection, ε = ∞."
    what = {
        "gaussian": f"gaussian noise of {rounded_down(event.noise_multiplier or 0, _DIGITS):.4g} times the sensitivity",
        "laplace": "Laplace noise",
        "randomised-response": f"one of {event.codewords} codewords, by randomised response",
        "subset-selection": f"{event.subset} of {event.codewords} codewords, by subset selection",
    }[event.mechanism]
    cost = f"ε = {_number(event.epsilon)}" + (f" at δ = {event.delta:g}" if event.delta else "")
    if event.granularity == "element":
        return f"{what}, {cost} for each number of a feature map alone each time; the map's is that times its numbers."
    return f"{what}, {cost} each time."


def _as_json(balance: Balance) -> dict[str, object]:
    budget = balance.budget
    splits: dict[str, object] = {}
    for split in balance.splits:
        groups = [group for group in balance.groups if group.split == split]
        worst = balance.worst(split)
        assert worst is not None
        releases: Counter[int] = Counter()
        for group in groups:
            releases[group.releases] += group.images
        splits[split] = {
            "images": sum(group.images for group in groups),
            "releases": {str(times): n for times, n in sorted(releases.items())},
            "worst": _group(worst),
            "epsilon_quantiles": {
                str(q): finite_or_none(balance.quantile(q, split)) for q in (0.0, 0.25, 0.5, 0.75, 1.0)
            },
            "remaining": _rest(budget.epsilon, worst.epsilon) if math.isfinite(budget.epsilon) else None,
            "groups": [_group(group) for group in groups],
        }
    worst = balance.spent_most
    return {
        "run": balance.run,
        "budget": {"epsilon": finite_or_none(budget.epsilon), "delta": budget.delta},
        "policy": dict(balance.policy),
        "splits": splits,
        "worst": _group(worst) if worst else None,
    }


def _group(group: ImageGroup) -> dict[str, object]:
    return {
        "split": group.split,
        "images": group.images,
        "image": group.example,
        "releases": group.releases,
        "epsilon": finite_or_none(group.epsilon),
        "label_epsilon": finite_or_none(group.label_epsilon),
        "events": [{**_event(event), "times": times} for event, times in group.history],
    }


def _event(event: ReleaseEvent) -> Mapping[str, Any]:
    return {**asdict(event), "epsilon": finite_or_none(event.epsilon)}


def _rest(budget: float, spent: float) -> float:
    """The rest of the budget; 0 where it is only a rounding error."""
    return budget - spent if budget - spent > 1e-9 * budget else 0.0


def _number(value: float) -> str:
    """An ε, rounded up."""
    return f"{rounded_up(value, _DIGITS):.{_DIGITS}g}" if math.isfinite(value) else "∞"


def _times(count: int) -> str:
    return "1 release" if count == 1 else f"{count} releases"
