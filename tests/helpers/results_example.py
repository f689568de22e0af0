"""A ``results.json``."""

from __future__ import annotations

from typing import Any

from smartedge.artifacts.results import Privacy


def example_results() -> dict[str, Any]:
    """What ``results.json`` of version 2 holds."""
    figures = {
        "accuracy": 0.9,
        "balanced_accuracy": 0.9,
        "balanced_accuracy_adjusted": 0.9,
        "auroc": None,
        "loss": 0.3,
        "base_rate": 0.6,
    }
    return {
        "schema_version": 2,
        "smartedge_version": "0.1.0",
        "method": "hierarchical",
        "schedule": "joint",
        "model": "resnet18",
        "cut": "layer1",
        "bottleneck": [8, 4, 4],
        "codec": "uint8",
        "seed": 0,
        "epochs": 3,
        "task": {"kind": "single", "columns": ["smile"], "names": ["no", "yes"]},
        "data": {"path": "drawn", "image_size": 64, "train": 9, "val": 8, "test": 7, "skipped": {}, "notes": ["a"]},
        "test": {"back": figures, "exit": figures},
        "cloud_gain": 0.0,
        "bytes_per_image": {
            "up": 171.3,
            "down": 0.9,
            "source": "payload",
            "reference": {"jpeg_q90": 2210.4, "raw_uint8": 12288.0, "feature_float32": 512.0},
        },
        "bytes_total": {"up": 4000, "down": 20},
        "seconds_per_epoch": 9.0,
        "seconds_total": 30.0,
        "stage_seconds": {"edge": 1.0, "link": 2.0, "cloud": 3.0},
        "edge_data_share": 0.1,
        "edge_peak_rss_bytes": None,
        "edge_baseline_rss_bytes": 340e6,
        "cloud_peak_rss_bytes": None,
        "releases_per_image": 3,
        "machine": {"cores": 2, "system": "Linux"},
        "versions": {"python": "3.11"},
        "started": "2026-01-01T00:00:00+00:00",
        "command": "smartedge train x.yaml",
    }


def example_privacy(**changes: Any) -> Privacy:
    """The block ``privacy`` of a Gaussian release with ε = 4."""
    return Privacy.model_validate({**PRIVACY, **changes})


PRIVACY: dict[str, Any] = {
    "mechanism": "gaussian",
    "granularity": "vector",
    **dict.fromkeys(("epsilon", "epsilon_total", "epsilon_budget", "vector_epsilon", "vector_epsilon_total"), 4.0),
    **dict.fromkeys(("delta", "delta_total", "delta_budget"), 1e-5),
    "releases_max": 1,
    "clip": 11.3,
    "sigma": 24.6,
    "codewords": None,
    "subset": None,
    "labels": "clear",
    "label_epsilon": None,
    "epsilon_with_label": None,
    "apply_to": "always",
    "attribute_bound": 0.982,
    "tight_attribute_bound": 0.677,
    "sampling_delta": 0.0,
}
