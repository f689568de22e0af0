"""What does a generative network paint from a release that it would not have painted without?

    python benchmarks/reconstruction_prior.py                    # both fronts, and the table
    python benchmarks/reconstruction_prior.py --only defended    # one front
    python benchmarks/reconstruction_prior.py --table            # print the table from what is finished

LFW at 64x64, ResNet-18, ``Smiling`` learned and ``Male`` hidden, seed 0: fronts with the settings of
``benchmarks/privacy.py``, without and with protection, attacked by flow matching with the release as the condition
(``flow.py``) and by the audit's decoder. Both learn from the images that were set apart. The same network draws from
the release, from the release of another image, and without a release. What the release gave is the difference: the
prior alone paints a face as well. Judged are likeness, how often an image is found by its reconstruction among 20, and
what a classifier of originals reads (threshold: from the attacker's val images; of several draws: the mean).

An attack takes some minutes on a GPU. ``--seconds`` limits each training. Figures are kept in
``benchmarks/results/reconstruction-prior/``, and what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, keep_result, show_table, train_front
from flow import Flow, draw_images, train_flow
from privacy import configs
from torch import Tensor

from smartedge.config import load_config
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.floors import label_floor
from smartedge.lab.audit.gathering import assemble, open_audited, trained_parts
from smartedge.lab.audit.judge import judge
from smartedge.lab.audit.reconstruction.classifier import Classifier, questions_of, train_classifier
from smartedge.lab.audit.reconstruction.decoder import reconstruct_images, train_decoder
from smartedge.lab.audit.reconstruction.figures import Distance, likeness
from smartedge.lab.audit.reconstruction.measures import perceptual_distance
from smartedge.lab.audit.reconstruction.pixels import to_image
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.runs.progress import Quiet
from smartedge.runs.seeds import derive_seed

RESULTS = HERE / "results" / "reconstruction-prior"
FRONTS = ("undefended", "defended")
COMPARISON, SENSITIVE = "smiling-male-resnet18", "Male"
AMONG = 20  # images, of which one is the original


@dataclass(frozen=True)
class Effort:
    """How much is computed."""

    seconds: float  # of each training
    epochs: int  # of the flow, at most
    draws: int  # from one release
    steps: int  # of a draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=FRONTS, help="may be repeated")
    parser.add_argument("--seconds", type=float, default=600.0, help="for the training of the flow; a decoder: a third")
    parser.add_argument("--epochs", type=int, default=300, help="of the flow, at most")
    parser.add_argument("--draws", type=int, default=4, help="images drawn from one release")
    parser.add_argument("--steps", type=int, default=20, help="of a draw")
    parser.add_argument("--limit", type=int, help="so many test and val images (for a quick try)")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/reconstruction-prior"), help="trained fronts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    effort = Effort(args.seconds, args.epochs, args.draws, args.steps)
    for name in () if args.table else args.only or FRONTS:
        if not (file := RESULTS / f"{name}.json").exists():
            found = attack(name, effort, args.work, args.limit)
            keep_result(file, found, f"--only {name} --seconds {args.seconds:g}")
            print(f"{name}: done", flush=True)
    print_table()


def attack(name: str, effort: Effort, work: Path, limit: int | None) -> dict[str, Any]:
    evidence = evidence_of(name, work)
    seed = derive_seed(evidence.seed, "reconstruction with a prior")
    questions = questions_of(evidence, [SENSITIVE])
    classifier, _ = train_classifier(evidence, questions, seconds=effort.seconds / 3, seed=seed, report=lambda *_: None)
    image_size = evidence.config.data.image_size
    distance = perceptual_distance(classifier.network, image_size=image_size, of=evidence.config.model.name)
    judging = Judging(evidence, classifier, distance, slice(None, limit))
    decoder, decoded = train_decoder(evidence, seconds=effort.seconds / 3, seed=seed, report=lambda *_: None)
    flow, fitted = train_flow(evidence, epochs=effort.epochs, seconds=effort.seconds, seed=seed, report=lambda *_: None)
    own_CHW = to_image(evidence.images(evidence.train.split)).mean(dim=0).mul(255).round().to(torch.uint8)
    released_NF = evidence.test_features_NF[judging.rows]
    swapped_NF = released_NF.roll(len(released_NF) // 2, dims=0)  # images are in the order of persons
    ways: dict[str, Callable[[Tensor, int], Tensor]] = {
        "own": lambda released_NF, seed: _draw(flow, released_NF, evidence, effort, seed, told=True),
        "none": lambda released_NF, seed: _draw(flow, released_NF, evidence, effort, seed, told=False),
    }
    val_NF = judging.val_releases()
    return {
        "image_size": list(image_size.sides),
        "own_images": len(evidence.train),
        "settings": {key: evidence.config.model_dump(mode="json")[key] for key in ("adversary", "dp")},
        "floor": label_floor(evidence, SENSITIVE).balanced_accuracy,
        "classifier_on_originals": judging.read([judging.val_NCHW], [judging.test_NCHW]),
        "training": {
            "flow": {"epochs": round(fitted.epochs, 1), "planned": fitted.planned, "val_loss": -fitted.score},
            "decoder": {"epochs": round(decoded.epochs, 1), "planned": decoded.planned},
            "parameters": sum(each.numel() for each in flow.parameters()),
            "draws": effort.draws,
            "steps": effort.steps,
        },
        "mean image": judging.judge([own_CHW.expand_as(judging.test_NCHW)], None),
        "decoder": judging.judge([reconstruct_images(decoder, released_NF)], [reconstruct_images(decoder, val_NF)]),
        "flow, its release": judging.judge(
            [ways["own"](released_NF, seed + draw) for draw in range(effort.draws)],
            [ways["own"](val_NF, seed + 100 + draw) for draw in range(effort.draws)],
        ),
        "flow, another's release": judging.judge([ways["own"](swapped_NF, seed)], None),
        "flow, no release": judging.judge([ways["none"](released_NF, seed)], None),
    }


def evidence_of(name: str, work: Path) -> RunEvidence:
    """The front's releases of test images, and the attacker's own images."""
    both = configs(COMPARISON, 0, work)
    config = load_config(both[name])
    folder = work / name
    train_front(config, folder)
    opened = open_audited(config, [SENSITIVE])
    parts = trained_parts(config, opened.dataset.task, folder)
    return assemble(name, config, opened, parts, None, folder=folder / "features", clock=Clock(None), monitor=Quiet())


def _draw(flow: Flow, released_NF: Tensor, evidence: RunEvidence, effort: Effort, seed: int, *, told: bool) -> Tensor:
    height, width = evidence.config.data.image_size.sides
    return draw_images(flow, released_NF, (height, width), told=told, steps=effort.steps, seed=seed)


class Judging:
    """What all reconstructions of one evidence are judged with."""

    def __init__(self, evidence: RunEvidence, classifier: Classifier, distance: Distance, rows: slice) -> None:
        self.evidence, self.classifier, self.distance, self.rows = evidence, classifier, distance, rows
        self.test_NCHW = evidence.images(evidence.test)[rows]
        self.val_NCHW = evidence.images(evidence.val.split)[rows]
        generator = torch.Generator().manual_seed(0)
        count = len(self.test_NCHW)
        # For each image the originals of others, among which its reconstruction has to find it.
        self.others = [torch.randint(1, count, (count,), generator=generator) for _ in range(AMONG - 1)]

    def val_releases(self) -> Tensor:
        """One release of each of the attacker's val images."""
        generator = torch.Generator().manual_seed(derive_seed(self.evidence.seed, "val releases"))
        return self.evidence.draw(self.evidence.val, generator, view=0)[self.rows]

    def judge(self, made: list[Tensor], made_of_val: list[Tensor] | None) -> dict[str, Any]:
        """Figures of reconstructions, uint8 (N, 3, H, W) for each draw; without those of val images nothing is read."""
        found: dict[str, Any] = {
            "images": len(made[0]),
            "draws": len(made),
            "one": likeness(self.test_NCHW, made[0], self.distance),
            "found_among_20": self.found(made[0]),
        }
        if len(made) > 1:
            mean_NCHW = torch.stack(made).float().mean(dim=0).round().to(torch.uint8)
            found["mean_of_draws"] = likeness(self.test_NCHW, mean_NCHW, self.distance)
        if made_of_val is not None:
            found["read"] = self.read(made_of_val, made)
        return found

    def found(self, made_NCHW: Tensor) -> float:
        """How often the original is the nearest of 20 images; chance: 5 %."""
        made = to_image(made_NCHW)
        own_N = self.distance(to_image(self.test_NCHW), made)
        nearest_N = torch.ones(len(made), dtype=torch.bool)
        for shift_N in self.others:
            other_N = (torch.arange(len(made)) + shift_N) % len(made)
            nearest_N &= own_N < self.distance(to_image(self.test_NCHW[other_N]), made)
        return float(nearest_N.float().mean())

    def read(self, of_val: list[Tensor], of_test: list[Tensor]) -> dict[str, float | None]:
        """What the classifier reads of the sensitive attribute, from the mean of its answers to all draws."""
        at_val, at_test = (
            np.mean([self.classifier.scores(each)[SENSITIVE] for each in made], axis=0) for made in (of_val, of_test)
        )
        val, test = self.evidence.val.labels[SENSITIVE][self.rows], self.evidence.test_labels[SENSITIVE][self.rows]
        figures = judge(at_val, val.numpy(), at_test, test.numpy())
        return {"balanced_accuracy": figures.balanced_accuracy, "auroc": figures.auroc}


def print_table() -> None:
    rows = []
    for name in FRONTS:
        if (file := RESULTS / f"{name}.json").exists():
            found = json.loads(file.read_text())
            ways = ("mean image", "decoder", "flow, its release", "flow, another's release", "flow, no release")
            rows += [row(name, way, found[way], found) for way in ways]
    title = "reconstructions of LFW test images; what is read: balanced accuracy in %"
    show_table(title, rows, RESULTS.with_suffix(".csv"))


def row(name: str, way: str, figures: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    one, mean, read = figures["one"], figures.get("mean_of_draws"), figures.get("read")
    return {
        "front": name,
        "painted by": way,
        "PSNR dB": f"{one['psnr']:.1f}",
        "SSIM": f"{one['ssim']:.2f}",
        "perceptual": f"{one['perceptual']['value']:.3f}",
        "PSNR dB, mean of draws": f"{mean['psnr']:.1f}" if mean else "",
        "SSIM, mean of draws": f"{mean['ssim']:.2f}" if mean else "",
        "found among 20": f"{100 * figures['found_among_20']:.1f}",
        "sensitive": f"{100 * read['balanced_accuracy']:.1f}" if read else "",
        "AUROC": f"{read['auroc']:.2f}" if read else "",
        "label floor": f"{100 * found['floor']:.1f}" if read else "",
    }


if __name__ == "__main__":
    main()
