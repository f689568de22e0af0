"""Send features to a cloud from a program that uses nothing of smartedge: only gRPC and numpy.

    smartedge cloud run.yaml --listen 127.0.0.1:8815
    python examples/plain_sender.py 127.0.0.1:8815 settings.json

Its features are random numbers. ``settings.json`` has what both sides must agree on; on the cloud's machine, in Python:
``json.dumps(smartedge.load_config("run.yaml").agreement())``. docs/wire-protocol.md explains every byte. The two
messages of link.proto that are sent are written by hand; code that protoc generates does the same.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np

IMAGES, OUTPUTS = 4, 2  # in a frame; classes


def field(number: int, value: bytes) -> bytes:
    """A field of a message that holds bytes or another message: number, length, value."""
    length, rest = b"", len(value)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + value


def messages(header: dict[str, object], shape: list[int]) -> Iterator[bytes]:
    """A stream: its header, then its frames."""
    yield field(1, json.dumps(header).encode())
    first, frames = int(str(header["first_seq"])), int(str(header["frames"]))
    for seq in range(first, first + frames):
        ids = np.arange(IMAGES, dtype="<i4")
        labels = (ids % OUTPUTS).astype("u1")
        head = struct.pack("<IH", seq, IMAGES - 1) + ids.tobytes() + labels.tobytes()
        payload = np.random.default_rng(seq).normal(size=(IMAGES, *shape)).astype("<f4").tobytes()
        yield field(2, field(1, head) + field(2, payload))  # longer payloads than 1 MiB go in parts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cloud", help="HOST:PORT")
    parser.add_argument("settings", type=Path)
    parser.add_argument("--shape", default="256,2,2", help="of the features of one image")
    parser.add_argument("--frames", type=int, default=2, help="of the training stream")
    args = parser.parse_args()
    shape = list(map(int, args.shape.split(",")))
    first = 0
    with grpc.insecure_channel(args.cloud) as channel:  # with TLS: grpc.secure_channel
        call = channel.stream_stream("/smartedge.link.v1.Link/Send")
        for split, frames in (("train", args.frames), ("val", 1), ("test", 1)):
            header = {
                "protocol": 4, "run": "plain", "agreement": args.settings.read_text(), "codec": "float32",
                "feature_shape": shape, "feature_dtype": "float32", "task_kind": "single", "outputs": OUTPUTS,
                "labels": True, "blanks": False, "answer_shape": None, "batch_size": IMAGES, "epoch": 1, "split": split,
                "first_seq": first, "frames": frames, "joined_frames": 1, "train_steps": args.frames,
            }  # fmt: skip
            replies = call(messages(header, shape), metadata=[])  # or [("authorization", "Bearer TOKEN")]
            for reply in replies:  # the last one comes when every frame is durable
                print(f"{split}: confirmed, {reply.hex()}")
            first += frames


if __name__ == "__main__":
    main()
