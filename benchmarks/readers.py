"""What is lost between exit and back under noise: readers of the same released features, beside the exit without noise.

    python benchmarks/readers.py RUN...     # finished runs of one yes/no label with noise, schedule freeze-and-log

The exit's accuracy in ``results.json`` is of features without noise: they stay on the edge. Here the same exit, and a
logistic regression that learns from the training images of the log, read what the back reads: the features in the
cloud's log. Balanced accuracy in per cent, of validation and test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, keep_result, show_table
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from smartedge.cloud.store.feature_log import FeatureReader, log_folder
from smartedge.codec import unpack
from smartedge.config import load_run_config
from smartedge.models.network import divide

SPLITS = ("val", "test")
Log = dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]  # split → features (N, *F) and labels (N,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for run in args.runs for row in rows_of(run)]
    keep_result(HERE / "results" / "readers.json", {"rows": rows}, " ".join(run.name for run in args.runs))
    show_table("balanced accuracy in %", rows, HERE / "results" / "readers.csv")


def rows_of(run: Path) -> list[dict[str, Any]]:
    """A row for each split."""
    config, log = load_run_config(run), log_of(run)
    divided = divide(config.division(2))
    task_exit = with_weights(divided.task_exit, run / "edge" / "exit.safetensors")
    back = with_weights(divided.back, run / "cloud" / "back.safetensors")
    features, labels = log["train"]
    regression = LogisticRegression().fit(features.reshape(len(features), -1), labels)
    clean = load_file(run / "predictions.safetensors")
    rows = []
    for split in SPLITS:
        features, labels = log[split]
        without = score(labels, clean["exit"].argmax(1)) if split == "test" else ""
        rows.append(
            {
                "run": run.name,
                "split": split,
                "exit, without noise": without,
                "exit, released": score(labels, answers(task_exit, features)),
                "logistic regression, released": score(labels, regression.predict(features.reshape(len(labels), -1))),
                "back, released": score(labels, answers(back, features)),
            }
        )
    return rows


def log_of(run: Path) -> Log:
    """What the cloud decoded, in the order of the log."""
    log = FeatureReader(log_folder(run / "cloud"))
    found: dict[str, list[Any]] = {}
    for frame in log.frames():
        header = log.header_of(frame.seq)
        found.setdefault(header.split, []).append(unpack(frame.batch, header))
    return {
        split: (np.concatenate([b.features_BF for b in batches]), np.concatenate([b.labels for b in batches]))
        for split, batches in found.items()
    }


def with_weights(part: nn.Module, file: Path) -> nn.Module:
    part.load_state_dict(load_file(file), strict=True)
    return part.eval()


@torch.no_grad()
def answers(part: nn.Module, features: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.cat([part(each) for each in torch.from_numpy(features).split(256)]).argmax(1)


def score(labels: np.ndarray[Any, Any], answered: Any) -> float:
    return round(100 * float(balanced_accuracy_score(labels, np.asarray(answered))), 2)


if __name__ == "__main__":
    main()
