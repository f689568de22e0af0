"""How a data set of very many records opens, and what memory training on it takes.

    python benchmarks/records.py --records 1000000 --work FOLDER
    python benchmarks/records.py --records 1000000 --kind tar --work FOLDER
    python benchmarks/records.py --records 10000000 --stream --work FOLDER
    python benchmarks/records.py --large-rows --work FOLDER

Records are images of 8x8 in PPM with one of ten classes, in files of 100 000. Each step runs in a process of its own:
*first* opens the data set and decodes it; *second* opens it again; *train* goes through the shuffled training images in
batches of 256 with a linear model, at most ``--batches`` of them. Memory is the resident set, in MiB, beyond what the
imports take: when the data set is open, and during training, sampled twenty times, from the second sample on.

``--stream`` keeps no decoded images (``data.cache_bytes: 0``). Its *first* step can be interrupted: it goes on when
the command is given again.

``--large-rows`` measures what a Parquet file of 256 images of 1.9 MB takes to decode: once as pyarrow writes it by
default, which is one page, and once with a page for each image (``write_batch_size=1``).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import HERE, keep_result

SHARD = 100_000
OPEN = """
import gc, json, sys, time
from pathlib import Path
import numpy as np, torch
from smartedge.data import batches, open_dataset
from smartedge.runs.machine import peak_rss_bytes, rss_bytes

torch.set_num_threads(1)
start, began = rss_bytes(), time.perf_counter()
cache_dir, cache_bytes = Path(sys.argv[3]), json.loads(sys.argv[4])
data = open_dataset(sys.argv[1], sys.argv[2], image_size=8, cache_dir=cache_dir, cache_bytes=cache_bytes)
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
    steps = min(len(all_batches), int(sys.argv[5]))
    for number, batch in zip(range(steps), all_batches):
        loss = torch.nn.functional.cross_entropy(model(batch.images_BCHW.flatten(1) / 255), batch.labels)
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        if number % max(1, steps // 20) == 0:
            samples.append((rss_bytes() - start) / 2**20)
found["train_seconds"] = round(time.perf_counter() - began, 1)
found["train_batches"] = steps
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


LARGE, SIDE = 256, 800  # images, and their side: 800x800 of noise in PPM are 1.92 MB


def write_large(file: Path, write_batch_size: int) -> None:
    """A Parquet file of large images of noise. ``write_batch_size`` rows at least are a page."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    schema = pa.schema([("image", pa.binary()), ("cls", pa.int64())])
    header = f"P6 {SIDE} {SIDE} 255\n".encode()
    images = [header + rng.bytes(SIDE * SIDE * 3) for _ in range(LARGE)]
    pq.write_table(
        pa.table({"image": images, "cls": np.arange(LARGE) % 2}, schema), file, write_batch_size=write_batch_size
    )


def step(code: str, *arguments: str) -> dict[str, float]:
    """What code that was run in a process of its own found."""
    call = [sys.executable, "-c", code + "print(json.dumps(found))", *arguments]
    found: dict[str, float] = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    return found


def large_rows(work: Path) -> None:
    """Measure both files, and keep the figures."""
    steps = {}
    for name, rows in (("one page", 1024), ("a page for each image", 1)):  # 1024 is pyarrow's default
        file = work / name.replace(" ", "-") / "train.parquet"
        writer = get_context("spawn").Process(target=write_large, args=(file, rows))  # else its peak counts for ours
        writer.start()
        writer.join()
        steps[name] = step(OPEN, str(file), "cls", str(file.parent / "cache"), "null")
        print(name, steps[name], flush=True)
    kept = {"images": LARGE, "bytes": 3 * SIDE**2, "steps": steps}
    keep_result(HERE / "results" / "records-large-rows.json", kept, "--large-rows --work FOLDER")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=["parquet", "tar"], default="parquet")
    parser.add_argument("--work", type=Path, default=Path("runs/records"), help="data set and decoded images (large)")
    parser.add_argument("--large-rows", action="store_true", help="measure large images in Parquet instead")
    parser.add_argument("--opened", action="store_true", help="it was opened before: leave the first step out")
    parser.add_argument("--stream", action="store_true", help="keep no decoded images")
    parser.add_argument("--batches", type=int, default=20_000, help="train on so many at most")
    args = parser.parse_args()
    if args.large_rows:
        large_rows(args.work)
        return
    folder = args.work / f"{args.kind}-{args.records}"
    write(folder, args.kind, args.records)
    steps = {}
    for name, code in (("first", OPEN), ("second", OPEN), ("train", OPEN + TRAIN))[args.opened :]:
        steps[name] = step(
            code, str(folder), "cls", str(args.work / "cache"), "0" if args.stream else "null", str(args.batches)
        )
        print(name, steps[name], flush=True)
    streamed = " --stream" if args.stream else ""
    opened = " --opened" if args.opened else ""
    arguments = f"--records {args.records} --kind {args.kind}{streamed}{opened} --batches {args.batches} --work FOLDER"
    file = HERE / "results" / f"records-{args.kind}-{args.records}{streamed.replace(' --', '-')}.json"
    keep_result(file, {"records": args.records, "kind": args.kind, "steps": steps}, arguments)


if __name__ == "__main__":
    main()
