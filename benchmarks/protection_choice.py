"""Which protection for Smiling / Male on ResNet-18? Chosen on validation images, by a rule that is written here.

    python benchmarks/protection_choice.py                       # every candidate that is not finished yet
    python benchmarks/protection_choice.py --only mixture-3      # one candidate; may be repeated
    python benchmarks/protection_choice.py --table               # print the table from what is finished

A candidate is one front of ``benchmarks/privacy.py`` (LFW at 64x64, ResNet-18 cut at ``layer1``, four numbers, one
seed) with other settings of noise and suppression. Only front and task exit are trained. Judged are, all on the
validation images: the desired label at the exit; the best of the cheap attackers, who learn from the images that were
set apart; and what the best possible attacker reads of the validation images (plug-in). The rule: of the candidates
whose exit loses at most one point against the best exit, the one with the smallest plug-in. Neither the test images nor
those that were set apart take part in the choice, so a certificate from these holds for what was chosen. That stands in
``privacy.py``, and is measured there.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import HERE, keep_result, show_table, train_front
from privacy import configs
from suppression import attack

from smartedge.config import Config, load_config
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.gathering import assemble, open_audited, trained_parts
from smartedge.metrics import evaluate
from smartedge.privacy.laws import release_law
from smartedge.runs.progress import Quiet
from smartedge.runs.seeds import derive_seed

RESULTS = HERE / "results" / "protection-choice"
COMPARISON, SENSITIVE, PERSONS = "smiling-male-resnet18", "Male", "identity"
MOST_LOST = 0.01  # of the best exit's balanced accuracy
EXITS = {"exits": ["mlp", "mlp"], "weight": 3.0, "confusion": "conditional", "steps": 3}
# Name -> adversary, sigma.
CANDIDATES: dict[str, tuple[dict[str, Any], float]] = {
    "exits-3": (EXITS, 0.4),
    "mixture-1": ({**EXITS, "mixture": 1.0}, 0.4),
    "mixture-3": ({**EXITS, "mixture": 3.0}, 0.4),
    "mixture-3-sigma-5": ({**EXITS, "mixture": 3.0}, 0.5),
    "exits-4-steps-6-sigma-5": ({**EXITS, "weight": 4.0, "steps": 6}, 0.5),
    "mixture-5": ({**EXITS, "mixture": 5.0}, 0.4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CANDIDATES, help="may be repeated")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/protection-choice"), help="trained fronts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in () if args.table else args.only or CANDIDATES:
        if not (file := RESULTS / f"{name}.json").exists():
            keep_result(file, measure(name, args.work / name), f"--only {name}")
            print(f"{name}: done", flush=True)
    print_table()


def config_of(name: str) -> Config:
    adversary, sigma = CANDIDATES[name]
    defended = configs(COMPARISON, 0, Path("unused"))["defended"]
    return load_config({**defended, "adversary": adversary, "dp": {**defended["dp"], "sigma": sigma}})


def measure(name: str, folder: Path) -> dict[str, Any]:
    config = config_of(name)
    train_front(config, folder)
    opened = open_audited(config, [SENSITIVE, PERSONS])
    labels = opened.labels["val"]
    opened = replace(opened, classes={SENSITIVE: opened.classes[SENSITIVE]})
    parts = trained_parts(config, opened.dataset.task, folder)
    evidence = assemble(
        "defended", config, opened, parts, None, folder=folder / "features", clock=Clock(None), monitor=Quiet()
    )
    held = HeldOut(
        evidence.val.views_VNF[0].float().numpy(),
        labels[SENSITIVE].numpy(),
        evidence.classes[SENSITIVE],
        labels[PERSONS].numpy(),
        evidence.val.desired.numpy(),
    )
    seed = derive_seed(config.seed, "audit", "certificate")
    scores_NK = evidence.exit_scores["val"].numpy()
    return {
        "settings": {key: config.model_dump(mode="json")[key] for key in ("adversary", "dp")},
        "audit_share": config.data.audit_share,
        "exit_on_val": evaluate(evidence.val.desired.numpy(), scores_NK, "single")["balanced_accuracy"],
        "attack_on_val": attack(evidence, folder)["by_validation"]["val_balanced_accuracy"],
        "of_val_images": certify_attribute(release_law(evidence.mechanism), held, seed=seed).model_dump(mode="json"),
    }


def print_table() -> None:
    found = {name: json.loads(file.read_text()) for name in CANDIDATES if (file := RESULTS / f"{name}.json").exists()}
    chosen = choose(found)
    rows = [
        {
            "candidate": name,
            "sigma": each["settings"]["dp"]["sigma"],
            "exit on val": f"{100 * each['exit_on_val']:.1f}",
            "best cheap attack on val": f"{100 * each['attack_on_val']:.1f}",
            "plug-in": f"{100 * each['of_val_images']['plug_in']:.1f}",
            "label floor": f"{100 * each['of_val_images']['label_floor']:.1f}",
            "chosen": "yes" if name == chosen else "",
        }
        for name, each in found.items()
    ]
    show_table("in %, on the validation images", rows, RESULTS.with_suffix(".csv"))


def choose(found: dict[str, dict[str, Any]]) -> str | None:
    """The candidate of the rule above; None where nothing is finished."""
    if not found:
        return None
    least = max(each["exit_on_val"] for each in found.values()) - MOST_LOST
    kept = {name: each for name, each in found.items() if each["exit_on_val"] >= least}
    return min(kept, key=lambda name: kept[name]["of_val_images"]["plug_in"])


if __name__ == "__main__":
    main()
