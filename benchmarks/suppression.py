"""What does each suppression term keep and hide? Adversarial exits, the mixture term, both, neither; over the numbers.

    python benchmarks/suppression.py                          # every cell that is not finished yet
    python benchmarks/suppression.py --only 16-mixture --seed 1
    python benchmarks/suppression.py --table                  # table and figure of what is finished

A cell is one front: ResNet-18 cut at ``layer1``, LFW at 64x64, ``Smiling`` learned and ``Male`` hidden, a bottleneck of
so many numbers, Gaussian noise of 0.4, six epochs. Only front and task exit are trained, since attackers see their
features and no more. Then, on images that the front has not seen: the desired label at the exit; the best of the cheap
attackers; what the best possible attacker reads of these images (plug-in); and what no attacker exceeds (certificate,
95 %). Each also for an attacker that knows the desired label.

A cell takes some minutes on one thread and is kept as one file in ``benchmarks/results/suppression/``; what is there is
not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from common import HERE, data_folder, epochs_of, keep_result, percent, show_table

from smartedge.config import Config, load_config
from smartedge.data import DataSet
from smartedge.lab.audit.attributes import infer, plan, summarise
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.floors import label_floor
from smartedge.lab.audit.gathering import assemble, open_audited, trained_parts
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.loop import Progress, fit
from smartedge.metrics import evaluate
from smartedge.privacy.laws import release_law
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.machine import pick_device
from smartedge.runs.progress import Quiet
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import ImageBatch

RESULTS = HERE / "results" / "suppression"
SENSITIVE = "Male"
SHAPES = {4: "4x1x1", 8: "8x1x1", 16: "4x2x2", 32: "8x2x2", 128: "8x4x4"}  # numbers -> model.bottleneck
EXITS = {"exits": ["mlp", "mlp"], "weight": 3.0, "confusion": "conditional", "steps": 3}
MIXTURE = {"mixture": 3.0}
TERMS: dict[str, dict[str, Any]] = {
    "neither": {},
    "exits": EXITS,
    "mixture": MIXTURE,
    "both": {**EXITS, **MIXTURE},
    "mixture-1": {"mixture": 1.0},  # a smaller weight, for 128 numbers only
}
ATTACKS = ("linear", "trees", "mlp", "mixture")
CELLS = {
    f"{numbers}-{term}": (numbers, term)
    for numbers in (16, 4, 128, 32, 8)
    for term in TERMS
    if term != "mixture-1" or numbers == 128
}
PERSONS = "identity"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CELLS, help="may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/suppression"), help="trained fronts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for cell in () if args.table else args.only or CELLS:
        file = RESULTS / f"{cell}-{args.seed}.json"
        if not file.exists():
            found = measure(cell, args.seed, args.work / file.stem)
            keep_result(file, found, f"--only {cell} --seed {args.seed}")
            print(f"{file.stem}: {json.dumps(row_of(found))}", flush=True)
    print_table()


def config_of(cell: str, seed: int) -> Config:
    numbers, term = CELLS[cell]
    path = str(data_folder("lfw-attributes"))
    return load_config(
        {
            "seed": seed,
            "schedule": "freeze-and-log",
            "data": {"path": path, "desired": "Smiling", "sensitive": [SENSITIVE], "image_size": 64},
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": SHAPES[numbers]},
            "train": {"precision": "bfloat16", "channels_last": True, "front_epochs": 6},
            "adversary": TERMS[term],
            "dp": {"mechanism": "gaussian", "sigma": 0.4, "warmup": 0.0},
            "hardware": {"threads": 1},
        }
    )


def measure(cell: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a front, or take the one in the folder, and read from its releases whatever can be read."""
    config = config_of(cell, seed)
    opened = open_audited(config, [SENSITIVE, PERSONS])
    if not (folder / "front.safetensors").exists():
        train_front(config, opened.dataset, folder)
    training = json.loads((folder / "training.json").read_text())
    opened = replace(opened, classes={SENSITIVE: opened.classes[SENSITIVE]})
    parts = trained_parts(config, opened.dataset.task, folder)
    kept = folder / "features"
    evidence = assemble("defended", config, opened, parts, None, folder=kept, clock=Clock(None), monitor=Quiet())
    found: dict[str, Any] = {
        "numbers": CELLS[cell][0],
        "term": CELLS[cell][1],
        "seed": seed,
        "adversary": config.model_dump(mode="json")["adversary"],
        "training": training,
        "desired": evaluate(evidence.test_desired.numpy(), evidence.exit_scores["test"].numpy(), "single"),
        "label_floor": label_floor(evidence, SENSITIVE).balanced_accuracy,
        "attacks": {},
        "certificate": {},
    }
    for known in (False, True):
        key = "label-known" if known else "release"
        attacked = replace(evidence, name=key, labelled=known)
        found["attacks"][key] = attack(attacked, folder)
        found["certificate"][key] = certify(evidence, opened.labels, known, seed)
    return found


def train_front(config: Config, dataset: DataSet, folder: Path) -> None:
    """Train front and task exit as the edge does before it releases anything."""
    split, size = dataset.splits["train"], config.train.batch_size
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    learner = ExitLearner(config, dataset.task, device, dataset)
    terms: list[dict[str, float]] = []

    def step(batch: ImageBatch, progress: Progress) -> None:
        made = learner.learn(batch, progress).step
        assert made is not None
        terms.append({"loss": made.loss, **made.figures})

    begun = time.process_time()
    progress = Progress(config.front_epochs, len(split) // size)
    random = RandomStream(derive_seed(config.seed, "edge"), device)
    fit(step, epochs_of(learner, config, split), progress, rates=learner.rates, random=random)
    seconds = time.process_time() - begun
    folder.mkdir(parents=True, exist_ok=True)
    last = terms[-progress.steps_per_epoch :]
    figures = {name: mean(each[name] for each in last) for name in last[-1]}
    # On a GPU the processor's seconds say nothing of the work.
    kept = {"cpu_seconds": seconds if device.type == "cpu" else None, "last_epoch": figures}
    (folder / "training.json").write_text(json.dumps(kept))
    save_weights(folder / "exit.safetensors", learner.modules["exit"].state_dict())
    save_weights(folder / "front.safetensors", learner.modules["front"].state_dict())


def attack(evidence: Evidence, folder: Path) -> dict[str, Any]:
    """The best of the cheap attackers, and the best of each kind."""
    units = plan(evidence, ATTACKS, focus=(), seeds=1)
    readings = infer(
        {evidence.name: evidence},
        units,
        folders={evidence.name: folder / "attacks"},
        clock=Clock(None),
        monitor=Quiet(),
        skipped=[],
    )
    found = summarise(readings[evidence.name][SENSITIVE], evidence, SENSITIVE)
    return {
        "best": found.best.model_dump(mode="json"),
        "by_validation": found.by_validation.model_dump(mode="json"),
        "attacks": {kind: each.model_dump(mode="json") for kind, each in found.attacks.items()},
    }


def certify(evidence: RunEvidence, labels: Any, known: bool, seed: int) -> dict[str, Any]:
    """The certificate of test and audit images, each person counted once."""
    held = HeldOut(
        torch.cat([evidence.bounded_test_NF, evidence.train.views_VNF[0].float()]).numpy(),
        torch.cat([labels["test"][SENSITIVE], labels["train"][SENSITIVE]]).numpy(),
        evidence.classes[SENSITIVE],
        torch.cat([labels["test"][PERSONS], labels["train"][PERSONS]]).numpy(),
        torch.cat([evidence.test_desired, evidence.train.desired]).numpy(),
    )
    bound = certify_attribute(release_law(evidence.mechanism), held, label_known=known, seed=seed)
    return bound.model_dump(mode="json")


def row_of(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "desired": found["desired"]["balanced_accuracy"],
        **{
            f"{what}, {key}": value
            for key in ("release", "label-known")
            for what, value in (
                ("attack", found["attacks"][key]["best"]["balanced_accuracy"]),
                ("plug-in", found["certificate"][key]["plug_in"]),
                ("certificate", found["certificate"][key]["bound"]),
            )
        },
        "floor": found["label_floor"],
        "CPU seconds": found["training"]["cpu_seconds"],
    }


def print_table() -> None:
    rows = []
    for numbers in SHAPES:
        for term in TERMS:
            found = [
                row_of(json.loads(file.read_text())) for file in sorted(RESULTS.glob(f"{numbers}-{term}-[0-9].json"))
            ]
            if found:
                cells = {
                    key: percent([each[key] for each in found], up=key.startswith("certificate"))
                    for key in found[0]
                    if key != "CPU seconds"
                }
                timed = [each["CPU seconds"] for each in found if each["CPU seconds"] is not None]
                seconds = f"{mean(timed):.0f}" if timed else ""
                rows.append({"numbers": numbers, "term": term, "seeds": len(found), **cells, "CPU seconds": seconds})
    show_table(
        "balanced accuracy in %, mean ± standard deviation over seeds", rows, HERE / "results" / "suppression.csv"
    )
    if rows:
        draw(rows)


def draw(rows: list[dict[str, Any]]) -> None:
    """Best attack and certificate over the numbers, a line for each term."""
    from smartedge.lab.report import canvas as surface

    looks: dict[str, surface.Look] = {
        "neither": {"color": surface.MUTED, "marker": "s", "linestyle": ":"},
        "exits": {"color": surface.EDGE, "marker": "o", "linestyle": "--"},
        "mixture": {"color": surface.CLOUD, "marker": "^", "linestyle": "-"},
        "both": {"color": surface.INK, "marker": "D", "linestyle": "-."},
        "mixture-1": {"color": surface.CLOUD, "marker": "v", "linestyle": ""},
    }
    panels = {
        "attack, release": "best attack",
        "plug-in, release": "best possible on these images",
        "certificate, release": "no attacker exceeds (95 %)",
    }
    with surface.drawing(2.2 * surface.WIDTH, 3.4) as canvas:
        for axis, (key, title) in zip(canvas.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            for term, look in looks.items():
                of_term = [row for row in rows if row["term"] == term]
                if of_term:
                    numbers = [row["numbers"] for row in of_term]
                    values = [float(row[key].split()[0]) / 100 for row in of_term]
                    axis.plot(numbers, values, label=term.replace("-1", ", weight 1"), **look)
            axis.axhline(float(rows[0]["floor"].split()[0]) / 100, color=surface.LINE, label="label floor")
            axis.set(title=title, xscale="log", xlabel="numbers per image")
            axis.set_xticks(list(SHAPES), labels=[str(numbers) for numbers in SHAPES])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter(surface.PERCENT)
        canvas.axes[0].set_ylabel(f"balanced accuracy on {SENSITIVE}")
        canvas.axes[0].legend()
        surface.save_png(canvas, HERE / "results" / "suppression.png")


if __name__ == "__main__":
    main()
