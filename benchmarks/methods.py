"""What each method sends and needs: bytes per image both ways at the socket, the edge's peak memory, time per stage.

    python benchmarks/methods.py

Two real processes per run, on real faces, a short training each: accuracy is not the subject (benchmarks/accuracy.py).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, data_folder, keep_csv, keep_result

from smartedge.runs.progress import Quiet
from smartedge.training import train

RUNS: dict[str, dict[str, Any]] = {
    "hierarchical": {},
    "hierarchical, 8x4x4 bottleneck": {"model": {"bottleneck": "8x4x4"}},
    "hierarchical, each image once": {"schedule": "freeze-and-log"},
    "upload (lossless images)": {"method": "upload"},
    "upload (JPEG quality 90)": {"method": "upload", "codec": {"name": "jpeg"}},
    "split (float32)": {"method": "split"},
    "local": {"method": "local"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="training images")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--cut", default="layer1")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for number, (name, changes) in enumerate(RUNS.items()):
            base = {
                "epochs": 2,
                "run_dir": str(Path(work) / str(number)),
                "data": {
                    "path": str(data_folder("lfw-attributes")),
                    "desired": "Smiling",
                    "image_size": 64,
                    "limit": {"train": args.images, "val": 64, "test": 64},
                },
                "model": {"name": args.model, "cut": args.cut, "bottleneck": None},
                "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
            }
            results: dict[str, Any] = train(base, changes, monitor=Quiet()).as_json()
            stages, sent = results["stage_seconds"], results["bytes_per_image"]
            row = {
                "run": name,
                "up B/image": round(sent["up"]),
                "down B/image": round(sent["down"], 1),
                "times sent": results["releases_per_image"],
                "edge peak MiB": round(results["edge_peak_rss_bytes"] / 2**20),
                "of it before training MiB": round(results["edge_baseline_rss_bytes"] / 2**20),
                "edge s/epoch": round(stages["edge"], 2),
                "encode s/epoch": round(stages["encode"], 2),
                "link s/epoch": round(stages["link"], 2),
                "cloud s/epoch": round(stages["cloud"], 2),
                "wall s/epoch": round(results["seconds_per_epoch"], 2),
                "waiting for data %": round(100 * results["edge_data_share"], 1),
            }
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    reference = results["bytes_per_image"]["reference"]
    print(f"the same image as JPEG quality 90: {reference['jpeg_q90']:.0f} B, raw: {reference['raw_uint8']:.0f} B")
    stem = HERE / "results" / f"methods-{args.model}-{args.cut}"
    facts = {"images": args.images, "image_size": 64, "reference": reference, "rows": rows}
    keep_result(stem.with_suffix(".json"), facts)
    keep_csv(stem.with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
