"""What a differential-privacy guarantee costs: accuracy at ε = 1, 2, 4, 8, 16 (δ = 1e-5), every image released once.

    python benchmarks/epsilon.py                    # everything that is not finished yet
    python benchmarks/epsilon.py --only codewords2  # one mechanism
    python benchmarks/epsilon.py --table            # print the table from what is finished, and draw

LFW faces, ``Smiling``, ResNet-18 cut at ``layer1``. ε is that of the whole feature vector, except for ``element``:
there the settings claim it for one number of the vector alone, as much of the literature does, and *vector ε*
says what that is worth. *randomised response* is the baseline that every private release must beat: the exit's own
answer, randomised at the same (vector) ε. Answers are weighed by the classes' shares
(``balanced_accuracy_adjusted``), since under strong noise every plain answer is the commoner class. Each run is a
process of its own on one thread; its figures are kept in ``benchmarks/results/epsilon/``, and a run that is there is
not made again.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import HERE, data_folder, keep_result, show_table, train_in_own_process

from smartedge.metrics import rounded_up

RESULTS = HERE / "results" / "epsilon"
EPSILONS = (1, 2, 4, 8, 16)
MODEL = {"name": "resnet18", "cut": "layer1"}
MECHANISMS: dict[str, dict[str, Any]] = {
    "codewords2": {"model": {**MODEL, "codebook": 2}, "dp": {"mechanism": "randomised-response"}},
    "codewords8": {"model": {**MODEL, "codebook": 8}, "dp": {"mechanism": "randomised-response"}},
    "gaussian": {"model": {**MODEL, "bottleneck": "1x1x1"}, "dp": {"mechanism": "gaussian", "delta": 1e-5}},
    "element": {
        "model": {**MODEL, "bottleneck": "8x1x1"},
        "dp": {"mechanism": "laplace", "granularity": "element"},
    },
}
COMMON: dict[str, Any] = {
    "schedule": "freeze-and-log",
    "epochs": 2,
    "train": {"front_epochs": 6, "precision": "bfloat16", "channels_last": True},
    "hardware": {"threads": 1},
    "seed": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=MECHANISMS, help="may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--work", type=Path, default=Path("runs/epsilon"), help="run directories (large)")
    args = parser.parse_args()
    if not args.table:
        jobs = [
            (name, epsilon)
            for name in MECHANISMS
            if not args.only or name in args.only
            for epsilon in EPSILONS
            if not result_file(name, epsilon).exists()
        ]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda job: run(*job, work=args.work), jobs))
    print_table()


def result_file(name: str, epsilon: int) -> Path:
    return RESULTS / f"{name}-{epsilon}.json"


def run(name: str, epsilon: int, *, work: Path) -> None:
    settings = MECHANISMS[name]
    data = {"path": str(data_folder("lfw-attributes")), "desired": "Smiling", "image_size": 64}
    run_dir = work / f"{name}-{epsilon}"
    config = {**COMMON, **settings, "data": data, "dp": {**settings["dp"], "epsilon": epsilon}, "run_dir": str(run_dir)}
    results = train_in_own_process(config)
    kept = {key: results[key] for key in ("test", "cloud_gain", "bytes_per_image", "privacy")}
    file = result_file(name, epsilon)
    keep_result(file, {"settings": {**COMMON, **settings}, **kept}, f"--only {name}")
    print(f"{file.stem}: {100 * results['test']['back']['balanced_accuracy_adjusted']:.2f} %", flush=True)


def print_table() -> None:
    rows, points = [], []
    for name in MECHANISMS:
        for epsilon in EPSILONS:
            if result_file(name, epsilon).exists():
                found = json.loads(result_file(name, epsilon).read_text())
                privacy, test = found["privacy"], found["test"]
                baseline = privacy["randomised_response_baseline"]
                back, at_exit = (test[head]["balanced_accuracy_adjusted"] for head in ("back", "exit"))
                points.append((name, privacy["vector_epsilon"], 100 * back, 100 * baseline))
                rows.append(
                    {
                        "mechanism": name,
                        "claimed ε": epsilon,
                        "vector ε": f"{privacy['vector_epsilon']:g}",
                        "back %": f"{100 * back:.2f}",
                        "randomised response %": f"{100 * baseline:.2f}",
                        "back - baseline": f"{100 * (back - baseline):+.2f}",
                        "exit, on the edge %": f"{100 * at_exit:.2f}",
                        "plain answers of the back %": f"{100 * test['back']['balanced_accuracy']:.2f}",
                        "bytes up": f"{found['bytes_per_image']['up']:.0f}",
                        "attribute bound %": f"{100 * rounded_up(privacy['tight_attribute_bound']):.1f}",
                    }
                )
    show_table("balanced accuracy on the test split; one seed", rows, HERE / "results" / "epsilon.csv")
    if points:
        draw(points)


def draw(points: list[tuple[str, float, float, float]]) -> None:
    """Accuracy of the back over the ε of the whole vector, a line for each mechanism; dotted: the baseline."""
    from smartedge.lab.report import canvas as surface

    marks = dict(zip(MECHANISMS, ("o", "s", "^", "D"), strict=True))
    with surface.drawing(1.3 * surface.WIDTH, 3.4) as canvas:
        axis = canvas.subplots()
        for name in MECHANISMS:
            line = sorted((epsilon, back) for mechanism, epsilon, back, _ in points if mechanism == name)
            if line:
                style: dict[str, Any] = {"color": surface.CLOUD, "marker": marks[name], "markersize": 5, "linewidth": 1}
                axis.plot(*zip(*line, strict=True), label=name, **style)
        baseline = sorted((epsilon, at) for mechanism, epsilon, _, at in points if mechanism == "codewords2")
        axis.plot(
            *zip(*baseline, strict=True), color=surface.EDGE, linestyle=":", label="randomised response", zorder=5
        )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlabel("ε of one image's release, whole vector")
        axis.set_ylabel("balanced accuracy, %")
        axis.legend(loc="lower right")
        surface.save_png(canvas, HERE / "results" / "epsilon.png")


if __name__ == "__main__":
    main()
