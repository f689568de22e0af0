"""Hierarchical training in a loop of your own: the edge's and the cloud's steps are plain functions.

    python examples/own_loop.py

Everything happens in one process here; in between stands whatever carries bytes from your device to your server.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import smartedge
from smartedge.codec import get_codec
from smartedge.data import batches, open_dataset


def network() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.BatchNorm2d(128), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2)),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    limit = {"train": args.images, "val": 100, "test": 200}
    data = open_dataset("drawn", "mouth_open", image_size=48, limit=limit)

    front, back = smartedge.cut(network(), at="0", input_shape=(3, 48, 48))
    task_exit = smartedge.TaskExit((32, 24, 24), data.task.outputs, width=32, depth=2)
    on_edge = torch.optim.AdamW([*front.parameters(), *task_exit.parameters()], lr=2e-3)
    in_cloud = torch.optim.AdamW(back.parameters(), lr=2e-3)
    codec = get_codec("uint8")

    for epoch in range(args.epochs):
        with batches(data.splits["train"], 50, seed=0, epoch=epoch, shuffle=True, augment="flip") as loader:
            for batch in loader:
                inputs = batch.images_BCHW.float() / 127.5 - 1
                edge = smartedge.edge_step(front.train(), task_exit.train(), on_edge, inputs, batch.labels, "single")

                payload, side = codec.encode(edge.features_BF)  # these bytes go to the cloud; nothing comes back
                features = codec.decode(
                    payload, side, batch=len(inputs), feature_shape=(32, 24, 24), dtype=torch.float32
                )
                cloud = smartedge.cloud_step(back.train(), in_cloud, features, batch.labels, "single")
        print(f"epoch {epoch + 1}: loss at the exit {edge.loss:.3f}, at the back {cloud.loss:.3f}")

    right = {"exit": 0, "back": 0}
    with batches(data.splits["test"], 50, seed=0, epoch=0, shuffle=False) as loader:
        for batch in loader:
            inputs = batch.images_BCHW.float() / 127.5 - 1
            features, logits = smartedge.edge_forward(front.eval(), task_exit.eval(), inputs)
            right["exit"] += int((logits.argmax(1) == batch.labels).sum())
            right["back"] += int((smartedge.cloud_forward(back.eval(), features).argmax(1) == batch.labels).sum())
    print(", ".join(f"{head}: {100 * count / limit['test']:.1f} % right" for head, count in right.items()))


if __name__ == "__main__":
    main()
