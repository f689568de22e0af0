"""Bytes, error and time of every codec on real feature maps; other entropy coders beside ours; what a frame adds.

    python benchmarks/codec_costs.py

Feature maps of photographs (LFW) and of drawn faces: ResNet-18 cut at layer1 at 64x64, the plain 64x16x16 map and an
8x4x4 bottleneck, each after a short training of the front on its task exit; the bottleneck also with Gaussian noise of
standard deviation 0.5, as a private release has it. One frame of 64 test images each. Seconds are the process's
processor time, so that other work on the machine does not count, the median of several runs.

The entropy coders that were compared and not chosen are measured where they are installed:
pip install zstandard constriction
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common import HERE, DropHandler, data_folder, keep_csv, keep_result

from smartedge.codec import Codec, get_codec, reconstruction_error
from smartedge.codec.bits import pack_bits
from smartedge.codec.quantise import AffineCodec, by_range, fit_ranges, quantise, saturated
from smartedge.data.opening import open_dataset
from smartedge.data.reading.loader import batches
from smartedge.methods.front_step import edge_forward, edge_step
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import divide, to_input
from smartedge.models.optim import in_one_pass
from smartedge.types import EncodedBatch, Features, Frame, StreamHeader, Task
from smartedge.wire.frame import serialise
from smartedge.wire.grpc_link import GrpcLink
from smartedge.wire.grpc_receiver import GrpcReceiver

FEATURE_CODECS = (
    "float32",
    "float16",
    "uint8",
    "uint4",
    "uint2",
    "uint1",
    *(f"topk-{percent}%" for percent in (2, 5, 10, 25)),
    *(f"tile-{kind}-{quality}" for kind in ("webp", "avif") for quality in (20, 50, 80)),
)
IMAGE_CODECS = (
    "image",
    *(f"{kind}-{quality}" for kind in ("jpeg", "webp", "avif") for quality in (20, 50, 75, 90)),
)
CPU = torch.device("cpu")
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2560, help="training images of each front")
    parser.add_argument("--learned", action="store_true", help="only the codec learned beside uint4 and uint2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.learned:
        return learned(args.images)
    rows: list[dict[str, Any]] = []
    coders: list[dict[str, Any]] = []
    edge_us: dict[str, float] = {}
    for data, path, column in (("lfw", str(data_folder("lfw-attributes")), "Smiling"), ("drawn", "drawn", "smile")):
        for cut, bottleneck in (("64x16x16", None), ("8x4x4", (8, 4, 4))):
            frames, images, edge_us[f"{data} {cut}"] = feature_maps(path, column, bottleneck, args.images)
            rows += [measured(f"{data} {cut}", name, frames[0]) for name in FEATURE_CODECS]
            coders += [row for bits in (8, 4, 2, 1) for row in entropy_coders(f"{data} {cut}", frames, bits)]
            if bottleneck is not None:
                noise = 0.5 * np.random.default_rng(0).standard_normal(frames[0].shape, np.float32)
                names = ("uint8", "uint4", "uint2", "uint1")
                rows += [measured(f"{data} {cut} with noise", name, frames[0] + noise) for name in names]
            print(f"{data} {cut}: edge step {edge_us[f'{data} {cut}']:.0f} us/image", flush=True)
        rows += [measured(f"{data} images", name, images) for name in IMAGE_CODECS]
    for words in (8, 64):
        places = torch.arange(BATCH) * 7 % words
        rows.append(measured(f"codewords of {words}", "code", torch.eye(words)[places].numpy()))
    show(rows)
    show(coders)
    overhead = [frame_overhead(name, shape, count) for name, shape in OVERHEADS for count in (64, 256)]
    show(overhead)
    stem = HERE / "results" / "codecs"
    facts = {"edge_step_us_per_image": edge_us, "codecs": rows, "entropy_coders": coders, "frames": overhead}
    keep_result(stem.with_suffix(".json"), facts)
    keep_csv(stem.with_suffix(".csv"), rows)


def learned(images: int) -> None:
    """The codec ``learned`` at the bytes of ``uint4`` and ``uint2``, and its share of the edge's time."""
    rows = []
    for bottleneck in ((8, 4, 4), (16, 8, 8)):
        what = "lfw " + "x".join(map(str, bottleneck))
        frames, _, edge_us = feature_maps(str(data_folder("lfw-attributes")), "Smiling", bottleneck, images)
        numbers = math.prod(bottleneck)
        for name in ("uint4", f"learned-{numbers // 2 + 1}", "uint2", f"learned-{numbers // 4 + 1}"):
            found = measured(what, name, frames[0])
            share = 100 * found["encode us/image"] / edge_us
            rows.append({**found, "edge step us/image": round(edge_us), "encode % of the step": round(share, 2)})
    show(rows)
    keep_result(HERE / "results" / "learned-codec.json", {"rows": rows})


def feature_maps(
    path: str, column: str, bottleneck: tuple[int, ...] | None, images: int
) -> tuple[list[Features], Features, float]:
    """Frames of 64 test images' features, the first frame's images, and the edge step's microseconds per image."""
    data = open_dataset(path, column, image_size=64, limit={"train": images, "val": BATCH, "test": 4 * BATCH})
    outputs = data.task.outputs
    parts = divide(
        Blueprint(
            "resnet18",
            at="layer1",
            outputs=outputs,
            image_size=64,
            seed=0,
            bottleneck=bottleneck,
            small_input=False,
        )
    )
    optimizer = in_one_pass(torch.optim.AdamW([*parts.front.parameters(), *parts.task_exit.parameters()], lr=1e-3))
    seconds = []
    for batch in batches(data.splits["train"], BATCH, seed=0, epoch=0, shuffle=True, augment="flip", drop_last=True):
        begun = time.process_time()
        inputs_BCHW = to_input(batch.images_BCHW, CPU)
        edge_step(parts.front, parts.task_exit, optimizer, inputs_BCHW, batch.labels, data.task.kind)
        seconds.append(time.process_time() - begun)
    parts.front.eval()
    parts.task_exit.eval()
    frames, first = [], None
    for batch in batches(data.splits["test"], BATCH, seed=0, epoch=0, shuffle=False):
        first = batch.images_BCHW.numpy() if first is None else first
        frames.append(edge_forward(parts.front, parts.task_exit, to_input(batch.images_BCHW, CPU))[0].numpy())
    assert first is not None
    return frames, first, statistics.median(seconds) / BATCH * 1e6


def measured(what: str, name: str, features_BF: Features) -> dict[str, Any]:
    codec = get_codec(name)
    stated = reconstruction_error(codec, features_BF)
    payload, side = codec.encode(features_BF)
    shape = tuple(features_BF.shape)

    def decode() -> Features:
        return codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=features_BF.dtype)

    return {
        "features": what,
        "codec": name,
        "B/image": round(stated["bytes_per_sample"], 2),
        "most B/image": round(codec.max_bytes(shape[0], shape[1:]) / shape[0], 2),
        "rmse / std": round(stated["rmse"] / float(features_BF.astype(np.float32).std(ddof=1)), 4),
        "rmse": round(stated["rmse"], 4),
        "max error": round(stated["max_abs"], 4),
        "energy kept": round(stated["energy_kept"], 4),
        "saturated": round(saturated_share(codec, features_BF), 4) if isinstance(codec, AffineCodec) else "",
        "encode us/image": microseconds(lambda: codec.encode(features_BF)),
        "decode us/image": microseconds(decode),
    }


def saturated_share(codec: AffineCodec, features_BF: Features) -> float:
    """The share of all values that lie more than half a step beyond the levels."""
    values_RN = by_range(features_BF, codec.bits)
    ranges_2R = fit_ranges(values_RN, codec.bits, codec.name)
    return float(saturated(values_RN, ranges_2R, codec.bits).sum() / values_RN.size)


def microseconds(work: Callable[[], Any], *, budget_s: float = 1.0) -> float:
    """Median processor time per image of ``work`` on one frame."""
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < 25 and sum(seconds) < budget_s):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return round(statistics.median(seconds) / BATCH * 1e6, 2)


def entropy_coders(what: str, frames: list[Features], bits: int) -> list[dict[str, Any]]:
    """The packed levels of ``AffineCodec(bits)`` under several entropy coders; the dictionary is of other frames."""
    levels_RN, _ = quantise(by_range(frames[0], bits), bits, "benchmark")
    packed = pack_bits(levels_RN, bits)
    coders: dict[str, Callable[[], int]] = {"packed alone": lambda: len(packed)}

    def arrow(data: bytes, codec: str, level: int) -> int:
        return len(pa.Codec(codec, compression_level=level).compress(data, asbytes=True))

    for level in (1, 3, 9, 19):
        coders[f"zstd {level}"] = lambda level=level: arrow(packed, "zstd", level)  # type: ignore[misc]
    if bits < 8:
        coders["zstd 1, not packed"] = lambda: arrow(levels_RN.tobytes(), "zstd", 1)
    coders["brotli 5"] = lambda: arrow(packed, "brotli", 5)
    if importlib.util.find_spec("zstandard"):
        import zstandard

        others = [pack_bits(quantise(by_range(frame, bits), bits, "benchmark")[0], bits) for frame in frames[1:]]
        samples: list[Any] = [other[start : start + 1000] for other in others for start in range(0, len(other), 1000)]
        if len(samples) > 50:
            trained = zstandard.train_dictionary(min(16384, len(b"".join(samples)) // 10), samples)
            with_dictionary = zstandard.ZstdCompressor(level=3, dict_data=trained)
            coders["zstd 3, trained dictionary"] = lambda: len(with_dictionary.compress(packed))
    if importlib.util.find_spec("constriction"):
        coders["ANS, table per channel"] = lambda: ans(levels_RN, bits)
    return [
        {
            "features": what,
            "bits": bits,
            "coder": name,
            "B/image": round(work() / BATCH, 2),
            "us/image": microseconds(work),
        }
        for name, work in coders.items()
    ]


def ans(levels_RN: np.ndarray, bits: int) -> int:
    """Bytes by constriction's ANS coder with each channel's own frequencies, which are sent as one byte a level."""
    import constriction

    coder = constriction.stream.stack.AnsCoder()
    for levels in levels_RN:
        shares = np.bincount(levels, minlength=2**bits).astype(np.float32) + 1e-3
        model = constriction.stream.model.Categorical(shares / shares.sum(), perfect=False)
        coder.encode_reverse(levels.astype(np.int32), model)
    return int(coder.get_compressed().nbytes) + len(levels_RN) * (1 << bits)


OVERHEADS = (("uint8", (8, 4, 4)), ("uint4", (8, 4, 4)), ("uint2", (8, 4, 4)), ("code", (8,)))


STREAM_FRAMES = 160  # an epoch of 10 000 images in frames of 64


def frame_overhead(name: str, shape: tuple[int, ...], count: int) -> dict[str, Any]:
    """What a frame of so many images takes at the socket, by part: one of a stream, its opening included."""
    codec = get_codec(name)
    at_socket = bytes_at_socket(codec, shape, count) / STREAM_FRAMES
    batch = encoded(codec, shape, count, 0)
    features, labels = len(batch.payload) + len(batch.side), count
    ids = 4 * count
    return {
        "codec": name,
        "features": "x".join(map(str, shape)),
        "images/frame": count,
        "features B/image": round(features / count, 2),
        "ids + labels B/image": round((ids + labels) / count, 2),
        "rest B/frame": round(at_socket - features - ids - labels),
        "at the socket B/image": round(at_socket / count, 2),
        "rest %": round(100 * (at_socket - features - ids - labels) / at_socket, 1),
        "all but features %": round(100 * (at_socket - features) / at_socket, 1),
    }


def encoded(codec: Codec, shape: tuple[int, ...], count: int, seed: int) -> EncodedBatch:
    if codec.name == "code":
        generator = torch.Generator().manual_seed(seed)
        features_BF = torch.eye(shape[0])[torch.randint(0, shape[0], (count,), generator=generator)]
    else:
        features_BF = torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed)).tanh()
    return EncodedBatch(np.arange(count), np.arange(count) % 2, *codec.encode(features_BF.numpy()))


def bytes_at_socket(codec: Codec, shape: tuple[int, ...], count: int) -> int:
    frames = STREAM_FRAMES
    header = StreamHeader.of(
        run="benchmark",
        agreement={},
        task=Task("single", ("label",), ("no", "yes")),
        codec=codec.name,
        feature_shape=shape,
        batch_size=count,
        split="train",
        frames=frames,
    )
    receiver = GrpcReceiver(DropHandler(), "127.0.0.1")
    receiver.start()
    sender = GrpcLink(f"127.0.0.1:{receiver.port}", connect_timeout_s=10)
    sender.open(header)
    for seq in range(frames):
        sender.write(serialise(Frame(seq, encoded(codec, shape, count, seq)), header))
    sender.close()
    up = sender.counters().up
    sender.disconnect()
    receiver.close()
    return up


def show(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    widths = [max(len(str(row[name])) for row in [dict(zip(names, names, strict=True)), *rows]) for name in names]
    for row in [dict(zip(names, names, strict=True)), *rows]:
        print("  ".join(str(row[name]).rjust(width) for name, width in zip(names, widths, strict=True)))
    print(flush=True)


if __name__ == "__main__":
    main()
