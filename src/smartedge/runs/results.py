"""``results.json`` of a run, put together from what its two sides wrote. Schema: ``docs/results-schema.md``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from smartedge import metrics
from smartedge.errors import RunError
from smartedge.files import write_atomically, write_json_atomically
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.record import read_metrics

if TYPE_CHECKING:
    from smartedge.config import Config

__all__ = ["SCHEMA_VERSION", "assemble"]

SCHEMA_VERSION = 1


def assemble(run_dir: Path, config: Config, facts: dict[str, Any]) -> dict[str, Any]:
    """Write ``results.json``, ``metrics.jsonl`` and ``predictions.safetensors`` of a run; returns the results.

    Args:
        run_dir: holds ``edge/`` and, unless the method is ``edge``, ``cloud/``.
        config: the run's settings.
        facts: ``machine``, ``versions``, ``started``, ``command``.

    Raises:
        RunError: a side has not finished.
    """
    edge = _summary(run_dir / "edge")
    cloud = _summary(run_dir / "cloud") if config.method != "local" else None
    undivided = edge["test"] if cloud is None else cloud["test"]
    at_exit = edge["test"] if config.method == "hierarchical" else None
    noisy_labels = config.dp.label_epsilon is not None and config.dp.apply_to == "always"
    if noisy_labels and cloud is not None:  # the cloud measured itself against labels that are partly wrong
        undivided = _against_true_labels(run_dir, edge["task"]["kind"])
    divided = config.method in ("hierarchical", "split")
    traffic, images = edge["traffic"], edge["images"]
    sent = traffic["images"].get("train", 0)
    results = {
        "schema_version": SCHEMA_VERSION,
        "smartedge_version": facts["versions"].get("smartedge"),
        "method": config.method,
        "schedule": config.schedule,
        "model": config.model.name,
        "cut": config.model.cut if divided else None,
        "bottleneck": list(config.model.bottleneck) if divided and config.model.bottleneck else None,
        "codec": config.codec_name if cloud else None,
        "seed": config.seed,
        "epochs": config.epochs,
        "task": edge["task"],
        "data": {
            "path": config.data.path,
            "image_size": config.data.image_size,
            **images,
            "skipped": edge["skipped"],
            "notes": edge["notes"],
        },
        "test": {"back": undivided, "exit": at_exit},
        "cloud_gain": _gain(undivided, at_exit),
        "bytes_per_image": {
            "up": traffic["up"].get("train", 0) / sent if sent else 0.0,
            "down": traffic["down"].get("train", 0) / sent if sent else 0.0,
            "source": traffic["source"] or None,
            "reference": edge["reference_bytes"],
        },
        "codec_error": traffic["codec_error"] or None,
        "bytes_total": {"up": sum(traffic["up"].values()), "down": sum(traffic["down"].values())},
        **_times(config, edge, cloud),
        "edge_data_share": _share(edge["data_wait_seconds"], edge["busy_seconds"]),
        "edge_peak_rss_bytes": edge["peak_rss_bytes"],
        "edge_baseline_rss_bytes": edge["baseline_rss_bytes"],
        "cloud_peak_rss_bytes": cloud["peak_rss_bytes"] if cloud else None,
        "releases_per_image": edge["releases_per_image"],
        "privacy": _privacy(run_dir, edge, with_exit=at_exit is not None),
        **facts,
    }
    rows = read_metrics(run_dir / "edge" / "metrics.jsonl") + read_metrics(run_dir / "cloud" / "metrics.jsonl")
    rows.sort(key=lambda row: row["epoch"])
    write_atomically(run_dir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _join_predictions(run_dir, at_exit=at_exit is not None)
    write_json_atomically(run_dir / "results.json", results)
    return results


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: not there, so this side of the run has not ended; where the sides ran on two machines, copy "
            "the cloud's folder cloud/ into the edge's run directory (edge/ holds the noise's key and raw images)"
        ) from error
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error})") from error
    if not summary["finished"]:
        raise RunError(f"{folder}: the run was stopped before its end; continue it with --resume")
    return summary


def _privacy(run_dir: Path, edge: dict[str, Any], *, with_exit: bool) -> dict[str, Any] | None:
    """What the edge's ledger says, and what randomised response on the exit's answers alone would reach.

    These are taken at the threshold that serves the exit best in hindsight: one that learned through strong noise is
    unsure of everything, and its plain answers would be a baseline that is too easy to beat.
    """
    privacy: dict[str, Any] | None = edge.get("privacy")
    if privacy is None:
        return None
    baseline, task = None, edge["task"]
    if with_exit and privacy["vector_epsilon"] is not None:
        found = load_file(run_dir / "edge" / "predictions.safetensors")
        recalled = metrics.attainable_balanced_accuracy(found["labels"].numpy(), found["scores"].numpy(), task["kind"])
        baseline = _response_baseline(recalled, privacy["vector_epsilon"], task)
    return {**privacy, "randomised_response_baseline": baseline}


def _response_baseline(recalled: float, epsilon: float, task: dict[str, Any]) -> float:
    """Balanced accuracy of k-ary randomised response on answers whose own is ``recalled``, with the ε of one release.

    The answer is sent as it is with probability p, as any other class with probability q each; a class that is recalled
    with r is then recalled with p·r + q·(1 − r), and balanced accuracy is the mean of these. Of K yes/no columns, each
    has ε/K.
    """
    outputs = len(task["names"])
    classes, each = (outputs, epsilon) if task["kind"] == "single" else (2, epsilon / outputs)
    kept = 1 / (1 + (classes - 1) * math.exp(-each))
    other = (1 - kept) / (classes - 1)
    return float(other + (kept - other) * recalled)


def _against_true_labels(run_dir: Path, kind: Literal["single", "multi"]) -> dict[str, Any]:
    """The back's figures on the test split, against the labels that only the edge holds."""
    edge, cloud = (load_file(run_dir / side / "predictions.safetensors") for side in ("edge", "cloud"))
    place = {image: row for row, image in enumerate(edge["ids"].tolist())}
    labels = edge["labels"][torch.tensor([place[image] for image in cloud["ids"].tolist()])]
    scores = cloud["scores"].double().clamp(1e-12, 1 - 1e-12)
    if kind == "single":
        loss = -scores.gather(1, labels[:, None].long()).log().mean()
    else:
        loss = torch.nn.functional.binary_cross_entropy(scores, labels.double())
    return {"loss": float(loss), **metrics.evaluate(labels.numpy(), cloud["scores"].numpy(), kind)}


def _gain(back: dict[str, Any] | None, at_exit: dict[str, Any] | None) -> float | None:
    return None if back is None or at_exit is None else back["accuracy"] - at_exit["accuracy"]


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest > 0 else 0.0


def _times(config: Config, edge: dict[str, Any], cloud: dict[str, Any] | None) -> dict[str, Any]:
    """Wall clock of the last session (a resumed run has several), and busy seconds of each stage, with validation."""
    sessions = [side["session"] for side in (edge, cloud) if side]
    wall = max(session["ended"] for session in sessions) - edge["session"]["started"]
    # Of a front that is trained first, an epoch's share is told by the epochs of the back, as that of every stage is.
    epochs = sessions[-1]["epochs"] or sessions[0]["epochs"] or 1
    link, in_cloud = edge["traffic"]["link_seconds"], cloud["busy_seconds"] if cloud else 0.0
    if not edge["threaded"]:  # the edge waits for each frame to be dealt with
        link = max(0.0, link - in_cloud)
    return {
        "seconds_per_epoch": wall / epochs,
        "seconds_total": wall,
        "stage_seconds": {
            "edge": edge["busy_seconds"] / config.epochs,
            "encode": (edge["traffic"]["release_seconds"] + edge["traffic"]["encode_seconds"]) / config.epochs,
            "link": link / config.epochs,
            "cloud": in_cloud / config.epochs,
        },
    }


def _join_predictions(run_dir: Path, *, at_exit: bool) -> None:
    """Both sides' answers on the test split, in one file, for the images that both answered."""
    edge, cloud = run_dir / "edge" / "predictions.safetensors", run_dir / "cloud" / "predictions.safetensors"
    parts: dict[str, dict[str, Tensor]] = {}
    if edge.exists():
        parts["exit" if at_exit else "back"] = load_file(edge)
    if cloud.exists():
        parts["back"] = load_file(cloud)
    shared = set.intersection(*(set(part["ids"].tolist()) for part in parts.values()))
    ids = sorted(shared)
    joined: dict[str, Tensor] = {"ids": torch.tensor(ids, dtype=torch.int64)}
    for name, part in parts.items():
        place = {image: row for row, image in enumerate(part["ids"].tolist())}
        rows = torch.tensor([place[image] for image in ids], dtype=torch.int64)
        joined.setdefault("labels", part["labels"][rows])  # the edge's first: the cloud's may be randomised
        joined[name] = part["scores"][rows]
    save_weights(run_dir / "predictions.safetensors", joined)
