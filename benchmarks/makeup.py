"""Mouth open or closed, with and without make-up: a figure in the layout of PriPHiT's, undefended beside defended.

    python benchmarks/makeup.py                       # draw, and take in runs that are finished
    python benchmarks/makeup.py --sensitive Male      # the same mouth, another thing to hide

PriPHiT shows faces of four kinds: mouth open or closed (the desired label), with or without make-up (to be hidden). The
columns here are the same four kinds of test images. For each network there are two rows: without and with protection. A
cell shows of how many faces the cloud answers "open", and of how many an attacker reads the sensitive attribute. A
perfect cloud answers 100 % in the columns "open" and 0 % in "closed". Of a perfectly hidden attribute an attacker reads
the same share in two columns with the same mouth.

The runs are those of ``benchmarks/privacy.py`` (``--work``, seed 0). Of the attackers in their audits, the one that was
best on its own validation images is shown. Attackers that an audit did not finish have ``--seconds`` more. What was
read of a run is kept in ``benchmarks/results/makeup/``. The figure is drawn from that, without the run. The faces come
from the data set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, keep_result
from numpy.typing import NDArray
from privacy import ATTACKS, COMPARISONS, NETWORKS, configs
from safetensors.torch import load_file

from smartedge.config import load_config
from smartedge.lab.audit.attributes import Finding, infer, plan
from smartedge.lab.audit.call import REFERENCE
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.gathering import gather, open_audited
from smartedge.lab.audit.inputs import val_labels
from smartedge.lab.audit.judge import choose_threshold, decide
from smartedge.lab.report import canvas as surface
from smartedge.runs.progress import Quiet

RESULTS = HERE / "results" / "makeup"
DESIRED = "Mouth_Slightly_Open"
COLUMNS = ((1, 1), (1, 0), (0, 1), (0, 0))  # mouth open, sensitive attribute
WORDS = {"Heavy_Makeup": "make-up", "Wearing_Lipstick": "lipstick", "Male": "male"}
FACES = 3  # of each column


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sensitive", choices=WORDS, default="Heavy_Makeup")
    parser.add_argument("--work", type=Path, default=Path("runs/privacy"), help="run directories of privacy.py")
    parser.add_argument("--seconds", type=float, default=60.0, help="for attackers that an audit did not finish (60)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for network in NETWORKS:
        names = [
            name
            for name, each in COMPARISONS.items()
            if (each.desired, each.sensitive, each.network) == (DESIRED, args.sensitive, network)
        ]
        file = RESULTS / f"{args.sensitive}-{network}.json"
        if names and not file.exists():
            both = configs(names[0], 0, args.work)
            if (Path(both["defended"]["run_dir"]) / "audit" / "audit.json").exists():
                cells = {
                    kind: cells_of(Path(each["run_dir"]), kind, args.sensitive, args.seconds)
                    for kind, each in both.items()
                }
                keep_result(file, {"network": network, "sensitive": args.sensitive, "seed": 0, **cells})
        if file.exists():
            found[network] = json.loads(file.read_text())
    if found:
        draw(found, args.sensitive, HERE / "results" / f"makeup-{args.sensitive}.png")


def cells_of(run: Path, kind: str, sensitive: str, seconds: float) -> dict[str, Any]:
    """What the cloud answers, and what an attacker reads, of the test images of each column."""
    evidence = gather(run, [sensitive], name=kind, clock=Clock(None), monitor=Quiet())
    attacker = chosen(evidence, run, sensitive, seconds)
    read_N = answers(attacker, evidence)
    said = load_file(run / "predictions.safetensors")
    assert torch.equal(said["ids"], evidence.test_ids)
    open_N = said["back"].argmax(dim=1).numpy()
    mouth_N, hidden_N = evidence.test_desired.numpy(), evidence.test_labels[sensitive].numpy()
    cells = []
    for mouth, hidden in COLUMNS:
        of_column = (mouth_N == mouth) & (hidden_N == hidden)
        cells.append(
            {
                "images": int(of_column.sum()),
                "answered_open": float(open_N[of_column].mean()),
                "read_sensitive": float(read_N[of_column].mean()),
            }
        )
    return {"attacker": attacker.unit.attack, "balanced_accuracy": attacker.figures.balanced_accuracy, "cells": cells}


def chosen(evidence: Evidence, run: Path, sensitive: str, seconds: float) -> Finding:
    """Of the attackers, the best one on its own validation images. Those that the audit trained are reused."""
    undefended = evidence.name == "undefended"
    attacks = [
        name
        for name in (REFERENCE if undefended else ATTACKS)
        if name in ("linear", "mixture", "trees", "mlp", "deep", "fine-tuned")
    ]
    units = plan(evidence, attacks, focus=(sensitive,), seeds=2, first_only=undefended)
    readings = infer(
        {evidence.name: evidence},
        units,
        folders={evidence.name: run / "audit" / "attacks"},
        clock=Clock(seconds),
        monitor=Quiet(),
        skipped=[],
    )
    return max(readings[evidence.name][sensitive], key=lambda finding: finding.figures.val_auroc or 0.0)


def answers(attacker: Finding, evidence: Evidence) -> NDArray[np.int64]:
    """Its yes (1) or no (0) to each test image, by the threshold that the audit chooses."""
    threshold = choose_threshold(attacker.val_scores[:, 1], val_labels(evidence, attacker.attribute))
    return decide(attacker.test_scores, threshold)


def faces_of(sensitive: str) -> list[NDArray[np.uint8]]:
    """The first test images of each column, uint8 (H, FACES * W, 3)."""
    name = next(name for name, each in COMPARISONS.items() if (each.desired, each.sensitive) == (DESIRED, sensitive))
    opened = open_audited(load_config(configs(name, 0, Path("runs"))["undefended"]), [sensitive])
    test, hidden_N = opened.dataset.splits["test"], opened.labels["test"][sensitive].numpy()
    mouth_N = test.labels.numpy()
    strips = []
    for mouth, hidden in COLUMNS:
        rows = np.flatnonzero((mouth_N == mouth) & (hidden_N == hidden))[:FACES]
        strips.append(np.concatenate([image.permute(1, 2, 0).numpy() for image in test.read(rows).images_BCHW], axis=1))
    return strips


def draw(found: dict[str, dict[str, Any]], sensitive: str, file: Path) -> None:
    """Faces of the four kinds, and below them two rows for each network."""
    word = WORDS[sensitive]
    rows = [(network, kind) for network in found for kind in ("undefended", "defended")]
    with surface.drawing(2.6 * surface.WIDTH, 1.5 + 0.72 * len(rows)) as canvas:
        axes = canvas.subplots(
            1 + len(rows), len(COLUMNS), gridspec_kw={"height_ratios": [1.6] + [1.0] * len(rows)}, squeeze=False
        )
        for column, ((mouth, hidden), strip) in enumerate(zip(COLUMNS, faces_of(sensitive), strict=True)):
            axis, images = axes[0, column], next(iter(found.values()))["defended"]["cells"][column]["images"]
            axis.imshow(strip, interpolation="nearest")
            axis.set_title(
                f"mouth {'open' if mouth else 'closed'}, {'' if hidden else 'no '}{word}: {images} images", fontsize=9
            )
            axis.set_axis_off()
        for place, (network, kind) in enumerate(rows):
            for column, cell in enumerate(found[network][kind]["cells"]):
                bars(axes[1 + place, column], cell, word, COLUMNS[column])
            axes[1 + place, 0].set_ylabel(
                f"{network}\n{kind}", rotation=0, ha="right", va="center", labelpad=10, color=surface.INK
            )
        surface.save_png(canvas, file)
    print(file)


def bars(axis: Any, cell: dict[str, Any], word: str, truth: tuple[int, int]) -> None:
    """Share of the answers "open" above the share of which the attribute is read; a line marks what is true."""
    shares = (cell["answered_open"], cell["read_sensitive"])
    for place, (share, colour, label, true) in enumerate(
        zip(shares, (surface.CLOUD, surface.EDGE), ("cloud: open", f"attacker: {word}"), truth, strict=True)
    ):
        axis.barh(place, share, color=colour, height=0.62, hatch="///" if place else "")
        axis.plot([true, true], [place - 0.42, place + 0.42], color=surface.INK, linewidth=2.5, clip_on=False)
        axis.text(
            0.5,
            place,
            f"{label} {100 * share:.0f} %",
            ha="center",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )
    axis.set(xlim=(0, 1), ylim=(1.6, -0.6), yticks=[], xticks=[])
    axis.grid(visible=False)


if __name__ == "__main__":
    main()
