"""How much noise, where less would do? Chosen on validation images of trained fronts, by a rule that is written here.

    python benchmarks/noise_choice.py RUN...     # finished runs of privacy.py: one comparison, several seeds

Where attackers read less than they may and the desired label pays for it, there is room for less noise. The fronts stay
as they are: each σ of ``SIGMAS`` is tried on the same fronts. So the figures differ by the noise alone, and not by what
two trainings differ anyway (half a point). Judged are, on the validation images: the desired label, as the task exit
reads it from released features, mean of ``DRAWS`` draws of the noise; and what the best possible attacker reads of
these images (plug-in), a person counted once. The rule: the smallest σ with which the plug-in is at most ``MOST_READ``
above its label floor, both as means over the runs. A certificate of 1 800 persons adds 3 points to its plug-in, and the
goal is 5 points above the floor. Neither the test images nor those that were set apart take part in the choice. Fronts
are then trained with this σ, and judged by ``privacy.py``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from common import HERE, keep_result, show_table
from readers import answers, score
from torch import nn

from smartedge.config import load_config, load_run_config
from smartedge.lab.audit.certificate.certify import HeldOut, certify_attribute
from smartedge.lab.audit.clock import Clock
from smartedge.lab.audit.gathering import gather, trained_parts
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.methods.mechanism import mechanism_of
from smartedge.privacy.laws import release_law
from smartedge.runs.progress import Quiet
from smartedge.runs.seeds import derive_seed

RESULTS = HERE / "results" / "noise-choice.json"
SIGMAS = (0.3, 0.35, 0.4)  # a front learned its features for its own noise, so not far from it
DRAWS = 50
PLUG_IN_DRAWS = 50_000
MOST_READ = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = [each for run in args.runs for each in measure(run)]
    chosen = choose(found)
    keep_result(RESULTS, {"chosen": chosen, "rows": found}, " ".join(run.name for run in args.runs))
    rows = [row(found, sigma, chosen) for sigma in SIGMAS]
    show_table("in %, on the validation images, mean over the runs", rows, RESULTS.with_suffix(".csv"))


def measure(run: Path) -> list[dict[str, Any]]:
    """What each σ keeps and hides of one run's validation images."""
    config = load_run_config(run)
    (sensitive,) = config.data.sensitive
    evidence = gather(run, [sensitive], clock=Clock(None), monitor=Quiet())
    parts = trained_parts(config, evidence.task, run / "edge")
    assert evidence.persons is not None and parts.task_exit is not None
    held = HeldOut(
        evidence.val.views_VNF[0].float().numpy(),
        evidence.val.labels[sensitive].numpy(),
        evidence.classes[sensitive],
        evidence.persons.val.numpy(),
        evidence.val.desired.numpy(),
    )
    rows = []
    for sigma in SIGMAS:
        mechanism = mechanism_of(load_config(config, {"dp": {"sigma": sigma}}), parts.feature_shape)
        seed = derive_seed(config.seed, "audit", "certificate")
        certificate = certify_attribute(release_law(mechanism), held, seed=seed, draws=PLUG_IN_DRAWS)
        rows.append(
            {
                "run": run.name,
                "sensitive": sensitive,
                "sigma": sigma,
                "persons": certificate.units,
                "desired": kept_of(replace(evidence, mechanism=mechanism), parts.task_exit) / 100,
                "plug_in": certificate.plug_in,
                "label_floor": certificate.label_floor,
            }
        )
    return rows


def kept_of(evidence: RunEvidence, task_exit: nn.Module) -> float:
    """Balanced accuracy of the exit on releases of the validation images, in per cent, mean over the draws."""
    generator = torch.Generator().manual_seed(derive_seed(evidence.seed, "noise-choice"))
    labels = evidence.val.desired.numpy()
    return mean(score(labels, answers(task_exit, evidence.draw(evidence.val, generator).numpy())) for _ in range(DRAWS))


def choose(found: list[dict[str, Any]]) -> float | None:
    """The σ of the rule above; None where even the largest hides too little."""
    return min((sigma for sigma in SIGMAS if read_above_floor(found, sigma) <= MOST_READ), default=None)


def read_above_floor(found: list[dict[str, Any]], sigma: float) -> float:
    return average(found, sigma, "plug_in") - average(found, sigma, "label_floor")


def average(found: list[dict[str, Any]], sigma: float, key: str) -> float:
    return mean(float(each[key]) for each in found if each["sigma"] == sigma)


def row(found: list[dict[str, Any]], sigma: float, chosen: float | None) -> dict[str, Any]:
    return {
        "sigma": sigma,
        "runs": sum(each["sigma"] == sigma for each in found),
        "desired, released": f"{100 * average(found, sigma, 'desired'):.2f}",
        "plug-in": f"{100 * average(found, sigma, 'plug_in'):.2f}",
        "label floor": f"{100 * average(found, sigma, 'label_floor'):.2f}",
        "plug-in - floor": f"{100 * read_above_floor(found, sigma):+.2f}",
        "chosen": "yes" if sigma == chosen else "",
    }


if __name__ == "__main__":
    main()
