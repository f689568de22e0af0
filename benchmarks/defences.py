"""Published defences behind the same attackers and the same certificate, beside ours.

    python benchmarks/defences.py                    # every row that is not finished yet
    python benchmarks/defences.py --only nopeek      # one row; may be repeated
    python benchmarks/defences.py --size 32          # of smaller images: a quarter of the time
    python benchmarks/defences.py --table            # print the table and draw the figure from what is finished

LFW, ``Smiling`` learned, ``Male`` hidden, ResNet-18 cut at ``layer1``, one seed. Of the training images a half
is set apart (persons too): attackers learn from it, and no front does. Every row has the same budget: six epochs of
the front; then the front is frozen, and a back (three convolutions) has eight epochs of what is released; then the
public audit of features, and the back's network as one more attacker. Each defence is on the plain map, as published,
and on a bottleneck of as many bytes as ours. Where a row names a number that was chosen, several were tried at 32×32,
and the validation images chose: of those whose task exit loses at most one point against the best, that which a linear
attacker reads least. At 64×64 the same number is used.

Fronts are kept in ``--work``, figures in ``benchmarks/results/defences/``; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import HERE, keep_result, show_table
from published.judging import BACK_EPOCHS, attack, read_desired
from published.rows import ROWS
from published.training import AUDIT_SHARE, FRONT_EPOCHS, SEED, choose

from smartedge.metrics import rounded_up

RESULTS = HERE / "results" / "defences"
CHOOSING_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ROWS, help="may be repeated")
    parser.add_argument("--size", type=int, choices=(32, 64), default=64, help="height and width of the images")
    parser.add_argument("--fronts", action="store_true", help="train fronts, and judge nothing")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/defences"), help="trained fronts and finished attacks")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    for name in () if args.table else args.only or ROWS:
        if time.monotonic() - begun < args.seconds and not result_file(name, args.size).exists():
            if args.fronts:
                choose(name, args.size, args.work / str(args.size), value=value_of(name, args.size))
            else:
                judge(name, args.size, args.work / str(args.size))
            print(f"{name}: done after {time.monotonic() - begun:.0f} s", flush=True)
    if not args.fronts:
        print_table(args.size)


def result_file(name: str, size: int) -> Path:
    return RESULTS / str(size) / f"{name}.json"


def value_of(name: str, size: int) -> float | None:
    """The number that was chosen at 32×32, for larger images; None: still to be chosen."""
    if size == CHOOSING_SIZE:
        return None
    file = result_file(name, CHOOSING_SIZE)
    if not file.exists():
        sys.exit(f"{name}: its number is chosen with --size {CHOOSING_SIZE}; call that first")
    return float(json.loads(file.read_text())["value"])


def judge(name: str, size: int, work: Path) -> None:
    row, begun = ROWS[name], time.monotonic()
    chosen = choose(name, size, work, value=value_of(name, size))
    sending = chosen.sending
    found: dict[str, Any] = {
        "defence": row.title,
        "source": row.source,
        "bottleneck": row.bottleneck,
        "feature_shape": sending.feature_shape,
        "bytes_per_image": sending.bytes_per_image,
        "settings": row.settings,
        "setting": row.setting,
        "value": sending.value,
        "tried": chosen.tried,
        "seed": SEED,
        "image_size": size,
        "budget": {"audit_share": AUDIT_SHARE, "front_epochs": FRONT_EPOCHS, "back_epochs": BACK_EPOCHS},
        "desired": read_desired(sending),
        **attack(sending, work / "audits" / name),
    }
    found["seconds"] = round(time.monotonic() - begun)
    keep_result(result_file(name, size), found, f"--size {size} --only {name}")


def print_table(size: int) -> None:
    found = {name: json.loads(result_file(name, size).read_text()) for name in ROWS if result_file(name, size).exists()}
    title = "balanced accuracy in %, on the test images; the certificate holds with 95 % confidence"
    show_table(title, [row(name, each) for name, each in found.items()], RESULTS.with_name(f"defences-{size}.csv"))
    if found:
        draw(list(found.values()), RESULTS.with_name(f"defences-{size}.png"))


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    male, certificate = found["attribute"], found["certificate"]
    more = found["certificate_with_images_set_apart"]
    best, floor = male["best"], male["floor"]["balanced_accuracy"]
    return {
        "defence": found["defence"],
        "on": place(found),
        "bytes": found["bytes_per_image"],
        "chosen": f"{found['setting']} = {found['value']:g}" if found["setting"] else "",
        "desired": f"{100 * found['desired']['test']:.1f}",
        "best attack": f"{100 * best['balanced_accuracy']:.1f}",
        "by": best["attack"],
        "chosen on val": f"{100 * male['by_validation']['balanced_accuracy']:.1f}",
        "label floor": f"{100 * floor:.1f}",
        "attack - floor": f"{100 * (best['balanced_accuracy'] - floor):+.1f}",
        "no attacker exceeds": _upper(certificate) or certificate["reason"],
        "of more images": _upper(more),
        "note": ROWS[name].note,
    }


def _upper(certificate: dict[str, Any] | None) -> str:
    bound = (certificate or {}).get("bound")
    return "" if bound is None else f"{100 * rounded_up(bound):.1f}"


def place(found: dict[str, Any]) -> str:
    numbers = "x".join(map(str, found["feature_shape"]))
    if found["bottleneck"]:
        return f"bottleneck {numbers}"
    return f"plain map {numbers}" if len(found["feature_shape"]) == 3 else f"{numbers} numbers of the plain map"


def draw(found: Sequence[dict[str, Any]], file: Path) -> None:
    """The desired label against the best attack: one colour for each defence, filled on the plain map."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    titles = list(dict.fromkeys(each["defence"] for each in found))
    palette = plt.get_cmap("tab10")
    colours = {title: palette(number) if number < 10 else "black" for number, title in enumerate(titles)}
    figure, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    for each in found:
        plain, ours = each["bytes_per_image"] > 100, each["defence"].startswith("ours")
        axes.scatter(
            100 * each["attribute"]["best"]["balanced_accuracy"],
            100 * each["desired"]["test"],
            s=220 if ours else 90,
            marker="*" if ours else "o" if plain else "s",
            facecolors=colours[each["defence"]] if plain or ours else "none",
            edgecolors=colours[each["defence"]],
            linewidths=2,
            zorder=3,
        )
    floor = 100 * found[0]["attribute"]["floor"]["balanced_accuracy"]
    axes.axvline(floor, color="grey", linestyle="--", linewidth=1)
    axes.text(floor, 0.02, " label floor", color="grey", rotation=90, transform=axes.get_xaxis_transform(), ha="right")
    handles = [Line2D([], [], marker="o", linestyle="", color=colours[title], label=title) for title in titles]
    kinds = {"o": "filled: as published, many bytes", "s": "open: 4 or 5 bytes", "*": "star: ours, 4 bytes"}
    for marker, label in kinds.items():
        inside = "none" if marker == "s" else "lightgrey"
        handles.append(Line2D([], [], marker=marker, linestyle="", color="grey", markerfacecolor=inside, label=label))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    axes.set_xlabel("best attack on Male, balanced accuracy in %  (left is better)")
    axes.set_ylabel("Smiling, balanced accuracy in %  (up is better)")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
