"""What releases tell about a person: are two of one person, and what do several images of a person tell together?

    python benchmarks/persons.py                       # everything that is not finished yet
    python benchmarks/persons.py --only wide-male      # one front; may be repeated
    python benchmarks/persons.py --fronts              # train fronts, and attack nothing
    python benchmarks/persons.py --table               # print the tables from what is finished

LFW at 64×64, ``Smiling`` learned, ResNet-18 cut at ``layer1``, one seed: *plain* is the undefended front; *narrow* has
a bottleneck of 4 numbers, *wide* one of 128. *noise*: Gaussian noise of 0.4. *male*, *several*, *identity*: noise, and
adversarial exits that learn ``Male``; ``Male``, ``Young`` and ``Heavy_Makeup``; these three and who it is.

Only front and task exit are trained, since attackers see their features and no more. The front has not seen 30 % of the
training images, val and test. These images are divided into three parts by persons: attackers learn from one, are
chosen by another, and are judged on the third, in turn. All attackers also have the true desired labels.

A front is kept in ``--work`` after each epoch, so a training that was stopped goes on. Figures are kept in
``benchmarks/results/persons/``, and what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, data_folder, keep_result, show_table, train_front

from smartedge.config import Config, load_config
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.certificate.sets import held_sets, set_law
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.crowd import Crowd, Fold
from smartedge.lab.audit.gathering import assemble, open_audited, trained_parts
from smartedge.lab.audit.identity import link_releases
from smartedge.lab.audit.inputs import Pool
from smartedge.lab.audit.persons import read_persons
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.metrics import evaluate, rounded_up
from smartedge.runs.progress import Quiet

RESULTS = HERE / "results" / "persons"
PERSONS_OF = ("Male", "Young")  # attributes that are read from sets; too few persons wear heavy make-up
FOLDS = 3
COLUMNS = 4096  # of a release that linkers and networks see, at most
DRAWS = 10_000  # of the certificate of sets

HIDDEN = ("Male", "Young", "Heavy_Makeup")
NARROW, WIDE = {"bottleneck": "4x1x1"}, {"bottleneck": "8x4x4"}
NOISE = {"mechanism": "gaussian", "sigma": 0.4}


def exits(shape: str) -> dict[str, Any]:
    return {"exits": [shape, shape], "weight": 3.0, "confusion": "conditional", "steps": 3}


FRONTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow": {"model": NARROW},
    "narrow-noise": {"model": NARROW, "dp": NOISE},
    "narrow-male": {"model": NARROW, "dp": NOISE, "adversary": exits("mlp"), "data": {"sensitive": ["Male"]}},
    "narrow-several": {"model": NARROW, "dp": NOISE, "adversary": exits("mlp")},
    "wide": {"model": WIDE},
    "wide-noise": {"model": WIDE, "dp": NOISE},
    "wide-male": {"model": WIDE, "dp": NOISE, "adversary": exits("conv"), "data": {"sensitive": ["Male"]}},
    "wide-several": {"model": WIDE, "dp": NOISE, "adversary": exits("conv"), "train": {"front_epochs": 10}},
    "wide-identity": {
        "model": WIDE,
        "dp": NOISE,
        "adversary": exits("conv"),
        "data": {"sensitive": [*HIDDEN, "identity"]},
    },
}


def config_of(name: str) -> Config:
    own = FRONTS[name]
    data = {
        "path": str(data_folder("lfw-attributes")),
        "desired": "Smiling",
        "sensitive": list(HIDDEN),
        "image_size": 64,
        "audit_share": 0.3,
    }
    train = {"precision": "bfloat16", "channels_last": True, "front_epochs": 6}
    return load_config(
        {
            "seed": 0,
            "schedule": "freeze-and-log",
            "hardware": {"threads": 1},
            **own,
            "data": {**data, **own.get("data", {})},
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": None, **own.get("model", {})},
            "train": {**train, **own.get("train", {})},
        }
    )


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Attack what a front releases of persons that it has not seen."""
    config = config_of(name)
    opened = open_audited(config, HIDDEN)
    parts = trained_parts(config, opened.dataset.task, folder)
    evidence = assemble(
        "defended", config, opened, parts, None, folder=folder / "features", clock=Clock(None), monitor=Quiet()
    )
    folds, law = folds_of(evidence), evidence.law
    found: dict[str, Any] = {
        "numbers": math.prod(evidence.feature_shape),
        "settings": FRONTS[name],
        "front_epochs": config.front_epochs,
        "desired": evaluate(evidence.test_desired.numpy(), evidence.exit_scores["test"].numpy(), "single"),
        "identity": link_releases(folds, labelled=True, law=law, seed=0, clock=Clock(None)).model_dump(mode="json"),
        "persons": {},
        "certificate": {},
    }
    for attribute in [name for name in PERSONS_OF if name in config.data.sensitive]:
        bands = read_persons(folds, attribute, 2, labelled=True, law=law, seed=0, clock=Clock(None))
        found["persons"][attribute] = {band: each.model_dump(mode="json") for band, each in bands.items()}
        if law is not None:
            found["certificate"][attribute] = {
                images: certificate(evidence, folds, attribute, images) for images in (1, 2, 4)
            }
    return found


def folds_of(evidence: RunEvidence) -> list[Fold]:
    """All images that the front has not seen, divided by persons; each part is protected once, and chooses once."""
    persons = evidence.persons
    assert persons is not None and not persons.also_in_training
    bounded_NF = torch.cat([evidence.train.views_VNF[0], evidence.val.views_VNF[0], evidence.bounded_test_NF]).float()
    persons_N = torch.cat([persons.train, persons.val, persons.test]).numpy()
    desired_N = torch.cat([evidence.train.desired, evidence.val.desired, evidence.test_desired]).numpy()
    labels = (evidence.train.labels, evidence.val.labels, evidence.test_labels)
    codes = {name: torch.cat([part[name] for part in labels]).numpy() for name in HIDDEN}
    pool = Pool(evidence.feature_shape, COLUMNS, evidence.layout)
    names, number_N = np.unique(persons_N, return_inverse=True)
    part_N = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[number_N.reshape(-1)]

    def crowd(rows: np.ndarray, draws: int, seed: int) -> Crowd:
        generator, chosen_NF = torch.Generator().manual_seed(seed), bounded_NF[torch.from_numpy(rows)]
        released = [
            torch.cat([pool(evidence.release(part, generator)).flatten(1) for part in chosen_NF.split(1024)])
            for _ in range(draws if evidence.noisy else 1)
        ]
        return Crowd(
            torch.stack(released).numpy(),
            persons_N[rows],
            desired_N[rows],
            {name: column[rows] for name, column in codes.items()},
            chosen_NF.numpy() if evidence.noisy else None,
        )

    folds = []
    for part in range(FOLDS):
        protected, choosing = part_N == part, part_N == (part + 1) % FOLDS
        own = ~protected & ~choosing
        crowds = [
            crowd(np.flatnonzero(rows), draws, 10 * part + place)
            for place, (rows, draws) in enumerate(((own, 6), (choosing, 4), (protected, 1)))
        ]
        folds.append(Fold(*crowds))
    return folds


def certificate(evidence: RunEvidence, folds: list[Fold], attribute: str, images: int) -> dict[str, Any]:
    """What no attacker exceeds that has so many images of one person, with their desired labels."""
    crowds = [fold.protected for fold in folds]
    held = HeldOut(
        np.concatenate([crowd.bounded_NF for crowd in crowds if crowd.bounded_NF is not None]),
        np.concatenate([crowd.attributes[attribute] for crowd in crowds]),
        ("no", "yes"),
        np.concatenate([crowd.persons_N for crowd in crowds]),
        np.concatenate([crowd.desired_N for crowd in crowds]),
    )
    law, sets = set_law(evidence.mechanism, images, labelled=True), held_sets(held, images, seed=0, labelled=True)
    found = certify_attribute(law, sets, label_known=True, draws=DRAWS)
    return found.model_dump(mode="json")


def print_tables() -> None:
    found = {name: json.loads(result_file(name).read_text()) for name in FRONTS if result_file(name).exists()}
    rows = []
    for name, each in found.items():
        identity = each["identity"]
        release, best = identity["linkers"][identity["best_of_release"]], identity["linkers"][identity["best"]]
        rows.append(
            {
                "front": name,
                "desired": f"{100 * each['desired']['balanced_accuracy']:.1f}",
                "AUROC, release alone": interval(release, "auroc"),
                "its equal-error rate": f"{100 * release['equal_error_rate']:.1f} %",
                "AUROC, label too": interval(best, "auroc"),
                "label floor": interval(identity["label_floor"], "auroc"),
                "attribute floor": interval(identity["attribute_floor"], "auroc"),
            }
        )
    title = "are two releases of one person? Persons that neither front nor linker has met; desired label: the exit, %"
    show_table(title, rows, HERE / "results" / "persons-identity.csv")
    rows = []
    for name, each in found.items():
        for attribute, bands in each["persons"].items():
            for band, figures in bands.items():
                best, floor = figures["attacks"][figures["best"]], figures["label_floor"]
                bound = each["certificate"].get(attribute, {}).get(band.split("-")[0])
                rows.append(
                    {
                        "front": name,
                        "attribute": attribute,
                        "images": band,
                        "persons": " + ".join(map(str, figures["persons"])),
                        "best attack": percent_interval(best),
                        "label floor": percent_interval(floor),
                        "attack - floor": f"{100 * (best['balanced_accuracy'] - floor['balanced_accuracy']):+.1f}",
                        "AUROC": f"{best['auroc']:.3f}",
                        "AUROC of the floor": f"{floor['auroc']:.3f}",
                        "no attacker exceeds": f"{100 * rounded_up(bound['bound']):.1f}" if bound else "",
                    }
                )
    title = "what the images of one person tell together, with their desired labels: balanced accuracy over persons, %"
    show_table(title, rows, HERE / "results" / "persons.csv")


def interval(figures: dict[str, Any], key: str) -> str:
    low, high = figures[f"{key}_ci95"]
    return f"{figures[key]:.3f} ({low:.3f} to {high:.3f})"


def percent_interval(figures: dict[str, Any]) -> str:
    low, high = figures["ci95"]
    return f"{100 * figures['balanced_accuracy']:.1f} ({100 * low:.0f} to {100 * high:.0f})"


def result_file(name: str) -> Path:
    return RESULTS / f"{name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=FRONTS, help="may be repeated")
    parser.add_argument("--fronts", action="store_true", help="train fronts, and attack nothing")
    parser.add_argument("--table", action="store_true", help="train and attack nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/persons"), help="trained fronts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in () if args.table else args.only or FRONTS:
        if result_file(name).exists():
            continue
        train_front(config_of(name), args.work / name)
        if not args.fronts:
            keep_result(result_file(name), measure(name, args.work / name), f"--only {name}")
        print(name, flush=True)
    print_tables()


if __name__ == "__main__":
    main()
