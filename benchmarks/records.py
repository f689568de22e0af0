"""How a data set of very many records opens, and what memory training on it takes.

    python benchmarks/records.py --records 1000000 --work FOLDER
    python benchmarks/records.py --records 1000000 --kind tar --work FOLDER

Records are images of 8x8 in PPM with one of ten classes, in files of 100 000. Each step runs in a process of its own:
*first* opens the data set and decodes it; *second* opens it again; *train* goes through the shuffled training images in
batches of 256 with a linear model. Memory is the resident set, in MiB, beyond what the imports take: when the data set
is open, and during training, sampled each twentieth of an epoch, from the second sample on.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import HERE, provenance

from smartedge.files import write_atomically

SHARD = 100_000
OPEN = """
import gc, json, sys, time
from pathlib import Path
import numpy as np, torch
from smartedge.data import batches, open_dataset
from smartedge.runs.machine import peak_rss_bytes, rss_bytes

torch.set_num_threads(1)
start, began = rss_bytes(), time.perf_counter()
data = open_dataset(sys.argv[1], sys.argv[2], image_size=8, cache_dir=Path(sys.argv[3]), cache_bytes=None)
seconds = time.perf_counter() - began
gc.collect()
open_mib, peak_mib = ((size() - start) / 2**20 for size in (rss_bytes, peak_rss_bytes))
found = {"seconds": round(seconds, 2), "open_mib": round(open_mib, 1), "peak_mib": round(peak_mib, 1)}
"""
TRAIN = """
model = torch.nn.Linear(192, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
train, samples, began = data.splits["train"], [], time.perf_counter()
with batches(train, 256, seed=0, epoch=0, shuffle=True) as all_batches:
    for number, batch in enumerate(all_batches):
        loss = torch.nn.functional.cross_entropy(model(batch.images_BCHW.flatten(1) / 255), batch.labels)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        if number % max(1, len(all_batches) // 20) == 0:
            samples.append((rss_bytes() - start) / 2**20)
found["train_seconds"] = round(time.perf_counter() - began, 1)
found["train_least_mib"], found["train_most_mib"] = round(min(samples[1:]), 1), round(max(samples[1:]), 1)
"""


def write(folder: Path, kind: str, records: int) -> None:
    """Write the files that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-records // SHARD)):
        file = folder / f"train-{number:06d}.{kind}"
        if file.exists():
            continue
        rng = np.random.default_rng(number)
        count = min(SHARD, records - number * SHARD)
        pixels = rng.integers(256, size=(count, 192), dtype=np.uint8)
        labels = rng.integers(10, size=count)
        images = [b"P6 8 8 255\n" + each.tobytes() for each in pixels]
        half = file.with_suffix(".half")
        if kind == "parquet":
            pq.write_table(pa.table({"image": images, "cls": labels}), half, row_group_size=10_000)
        else:
            with tarfile.open(half, "w") as tar:
                for place, (image, label) in enumerate(zip(images, labels, strict=True)):
                    for ending, content in (("ppm", image), ("cls", str(label).encode())):
                        entry = tarfile.TarInfo(f"{number * SHARD + place:09d}.{ending}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
        half.rename(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=["parquet", "tar"], default="parquet")
    parser.add_argument("--work", type=Path, required=True, help="where data set and decoded images are kept")
    args = parser.parse_args()
    folder = args.work / f"{args.kind}-{args.records}"
    write(folder, args.kind, args.records)
    steps = {}
    for step, code in (("first", OPEN), ("second", OPEN), ("train", OPEN + TRAIN)):
        call = [sys.executable, "-c", code + "print(json.dumps(found))", str(folder), "cls", str(args.work / "cache")]
        steps[step] = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
        print(step, steps[step], flush=True)
    arguments = f"--records {args.records} --kind {args.kind} --work FOLDER"
    kept = {**provenance(arguments), "records": args.records, "kind": args.kind, "steps": steps}
    write_atomically(HERE / "results" / f"records-{args.kind}-{args.records}.json", json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
