"""Images of a camera, coded against the image before: bytes with and without ``codec.reference: previous``.

    python benchmarks/sequence.py

The pictures are made by this program: a drawn face moves before a background, half a pixel to two pixels from one
picture to the next, turns back at the edges, and the sensor adds noise of two grey levels. After 32 to 96 pictures a
new scene begins: other face, other background, other direction. In the second film the camera turns as well, so that
all of the picture moves; in the third, *no film*, each picture has a scene of its own.

First, two runs of ``freeze-and-log`` (ResNet-18 cut at ``layer1``, 64x64, an 8x4x4 bottleneck, ``uint4``, the exit
learns ``smile``), without the reference and with it: bytes of a training image with headers, ids and labels, and the
accuracy of the back. Then frames of 64 pictures of other scenes, by the front of that run: payload and side. For
``uintN`` what is decoded is equal, which is checked. For ``learned-N`` the target is lowered with the reference until
the error would be larger than without. Noise stands for a private release: Gaussian, with the standard deviation of the
features. Times are processor time of this process.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, keep_result, show_table, train_in_own_process
from numpy.typing import NDArray

from smartedge.codec import Codec, get_codec, reconstruction_error
from smartedge.codec.learned import LearnedCodec
from smartedge.codec.sequence import PREVIOUS
from smartedge.config import Config, load_config
from smartedge.data.drawn.faces import draw
from smartedge.data.layouts.in_python import keep_given
from smartedge.models.network import divide, to_input
from smartedge.runs.checkpoint import load_weights
from smartedge.types import Features

RESULTS = HERE / "results"
SIDE, FACE, FRAME = 64, 48, 64
SMILE = 0  # its column among the attributes
FILMS = ("face moves", "camera turns", "no film")
PICTURES = {"train": 1536, "val": 64, "test": 512}
BOTTLENECK = "8x4x4"
SENSOR = 2.0  # standard deviation, grey levels


def film(kind: str, count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures uint8 (N, 64, 64, 3), and whether the face smiles."""
    rng = np.random.default_rng(seed)
    pictures, smiles, scene = list[NDArray[np.uint8]](), list[int](), 0
    while len(pictures) < count:
        own = np.array([1000 * seed + scene])
        (face,), (flags,) = draw(own, image_size=FACE)
        (place,), _ = draw(own + 10**6, image_size=2 * SIDE)
        length = 1 if kind == "no film" else int(rng.integers(32, 97))
        ways = walk(length, SIDE - FACE, rng), walk(length, SIDE, rng)
        for at, turned in zip(*ways, strict=True):
            row, column = turned if kind == "camera turns" else (SIDE // 2, SIDE // 2)
            picture = place[row : row + SIDE, column : column + SIDE].astype(np.float64)
            picture[at[0] : at[0] + FACE, at[1] : at[1] + FACE] = face
            picture += SENSOR * rng.standard_normal(picture.shape)
            pictures.append(picture.round().clip(0, 255).astype(np.uint8))
            smiles.append(int(flags[SMILE]))
        scene += 1
    return np.stack(pictures[:count]), np.array(smiles[:count])


def walk(length: int, room: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places (N, 2) from 0 to ``room``, along a straight way that turns back at the ends."""
    speed = rng.uniform(0.5, 2, 2) * rng.choice([-1, 1], 2)
    way = rng.uniform(0, 2 * room, 2) + speed * np.arange(length)[:, None]
    places: NDArray[np.int64] = np.abs((way % (2 * room)) - room).round().astype(np.int64)
    return places


def settings(codec: str, data: Path, work: Path) -> Config:
    return load_config(
        {
            "run_dir": str(work / f"{BOTTLENECK}-{codec}"),
            "data": {"path": str(data), "desired": "smile", "image_size": SIDE},
            "model": {"name": "resnet18", "cut": "layer1", "bottleneck": BOTTLENECK, "small_input": False},
            "codec": {"name": codec},
            "schedule": "freeze-and-log",
            "epochs": 1,
            "train": {"batch_size": FRAME, "front_epochs": 2},
            "hardware": {"edge_device": "cpu", "cloud_device": "cpu", "threads": 1},
        }
    )


def features_of(config: Config, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the front of a run makes of pictures (N, 64, 64, 3)."""
    front = divide(config.division(2)).front.eval()
    front.load_state_dict(load_weights(config.run_dir / "edge" / "front.safetensors"))
    images_BCHW = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        parts = [front(to_input(part, torch.device("cpu"))) for part in images_BCHW.split(FRAME)]
    return np.concatenate([part.numpy() for part in parts])


def coded(what: dict[str, str], name: str, features_BF: NDArray[np.float32]) -> dict[str, Any]:
    """A codec without the reference and with it, over all frames."""
    frames_BF = np.split(features_BF, len(features_BF) // FRAME)
    alone = get_codec(name)
    by_previous = [equal(alone, frame_BF) for frame_BF in frames_BF]
    bytes_alone, bytes_previous = (
        sum(reconstruction_error(codec, frame)["bytes"] for codec, frame in zip(codecs, frames_BF, strict=True))
        for codecs in ([alone] * len(frames_BF), by_previous)
    )
    return {
        **what,
        "codec": name,
        "B/image": round(bytes_alone / len(features_BF), 1),
        "with previous": round(bytes_previous / len(features_BF), 1),
        "ratio": f"{bytes_previous / bytes_alone:.2f}",
        "encode us/image": microseconds(alone, frames_BF),
        "with previous us/image": microseconds(by_previous[0], frames_BF),
    }


def equal(alone: Codec, frame_BF: NDArray[np.float32]) -> Codec:
    """The codec with the reference that loses no more of a frame than ``alone``."""
    if not isinstance(alone, LearnedCodec):
        found = get_codec(alone.name + PREVIOUS)
        assert np.array_equal(after(found, frame_BF), after(alone, frame_BF))
        return found
    most = reconstruction_error(alone, frame_BF)["rmse"]
    target = alone.target
    while target > 16:
        finer = reconstruction_error(LearnedCodec(target - 1, previous=True), frame_BF)["rmse"]
        if finer > most:
            break
        target -= 1
    # Where not even the same target is enough, the marks do not fit: one bit an image.
    while reconstruction_error(LearnedCodec(target, previous=True), frame_BF)["rmse"] > most:
        target += 1
    return LearnedCodec(target, previous=True)


def after(codec: Codec, frame_BF: Features) -> Features:
    payload, side = codec.encode(frame_BF)
    shape = frame_BF.shape
    return codec.decode(payload, side, batch=shape[0], feature_shape=shape[1:], dtype=frame_BF.dtype)


def microseconds(codec: Codec, frames_BF: list[NDArray[np.float32]]) -> float:
    """Median processor time per image of encoding."""
    seconds = []
    for frame_BF in frames_BF * 3:
        begun = time.process_time()
        codec.encode(frame_BF)
        seconds.append(time.process_time() - begun)
    return round(statistics.median(seconds) / FRAME * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/sequence"), help="pictures and run directories")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = args.work / "face-moves"
    if not (data / "test.parquet").exists():
        shutil.rmtree(data, ignore_errors=True)
        numbered = enumerate(PICTURES.items())
        keep_given({split: film("face moves", size, seed) for seed, (split, size) in numbered}, data, ["smile"])
    runs = [
        train_in_own_process(settings(codec, data, args.work).model_dump(mode="json"))
        for codec in ("uint4", "uint4" + PREVIOUS)
    ]
    sent = [
        {
            "codec": codec,
            "B/image": round(found["bytes_per_image"]["up"], 1),
            "counted": found["bytes_per_image"]["source"],
            "accuracy of the back %": f"{100 * found['test']['back']['balanced_accuracy']:.1f}",
        }
        for codec, found in zip(("uint4", "uint4" + PREVIOUS), runs, strict=True)
    ]
    show_table("a run of freeze-and-log", sent, RESULTS / "sequence-runs.csv")
    rows = []
    for kind in FILMS:
        pictures, _ = film(kind, PICTURES["test"], seed=len(PICTURES))
        features_BF = features_of(settings("uint4", data, args.work), pictures)
        numbers = math.prod(features_BF.shape[1:])
        noise_BF = np.random.default_rng(0).standard_normal(features_BF.shape, np.float32)
        noised_BF = features_BF + features_BF.std() * noise_BF
        for noise, released_BF in (("none", features_BF), ("as large as the features", noised_BF)):
            names = ("uint8", "uint4", "uint2", f"learned-{numbers // 2}", f"learned-{numbers // 4}")
            rows += [coded({"film": kind, "noise": noise}, name, released_BF) for name in names]
    show_table("frames of 64 pictures", rows, RESULTS / "sequence.csv")
    keep_result(RESULTS / "sequence.json", {"runs": sent, "frames": rows})


if __name__ == "__main__":
    main()
