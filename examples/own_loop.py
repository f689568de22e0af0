"""Hierarchical training in a loop of your own: the edge's and the cloud's steps are plain functions.

    python examples/own_loop.py

Everything happens in one process here; in between stands whatever carries bytes from your device to your server.
Features go through the gate before they are packed. Here nothing protects them, so each release counts as ε = ∞.
"""

from __future__ import annotations

import argparse

import torch

import smartedge
from smartedge.data import batches, open_dataset
from smartedge.models.zoo.networks import build
from smartedge.types import StreamHeader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = open_dataset("drawn", "mouth_open", image_size=48, limit={"train": args.images, "val": 100, "test": 200})

    model = build("resnet18", outputs=data.task.outputs, image_size=48, small_input=False, seed=0)  # or your own
    front, back = smartedge.cut(model, at="layer1", input_shape=(3, 48, 48))
    shape = (64, 12, 12)  # of what crosses there: `smartedge cuts resnet18 --input 3x48x48 --stock` tells
    task_exit = smartedge.TaskExit(shape, data.task.outputs, width=32, depth=2)
    on_edge = torch.optim.AdamW([*front.parameters(), *task_exit.parameters()], lr=5e-4)
    in_cloud = torch.optim.AdamW(back.parameters(), lr=5e-4)
    codec = smartedge.get_codec("uint8")
    header = StreamHeader.of(  # what both sides know of all batches
        run="own loop",
        agreement={},
        task=data.task,
        codec="uint8",
        feature_shape=shape,
        batch_size=50,
        split="train",
        frames=args.epochs * args.images // 50,
    )

    for epoch in range(args.epochs):
        with batches(data.splits["train"], 50, seed=0, epoch=epoch, shuffle=True, augment="flip") as loader:
            for batch in loader:
                inputs = batch.images_BCHW.float() / 127.5 - 1
                edge = smartedge.edge_step(front.train(), task_exit.train(), on_edge, inputs, batch.labels, "single")

                released = smartedge.release(batch.ids, edge.features_BF.numpy(), batch.labels.numpy())
                sent = smartedge.pack(released, codec)  # its payload, side and labels go to the cloud

                got = smartedge.unpack(sent, header)
                features, labels = torch.from_numpy(got.features_BF), torch.from_numpy(got.labels)
                cloud = smartedge.cloud_step(back.train(), in_cloud, features, labels, "single")  # no answer
        print(f"epoch {epoch + 1}: loss at the exit {edge.loss:.3f}, at the back {cloud.loss:.3f}")

    right = {"exit": 0, "back": 0}
    with batches(data.splits["test"], 50, seed=0, epoch=0, shuffle=False) as loader:
        for batch in loader:
            inputs = batch.images_BCHW.float() / 127.5 - 1
            features, logits = smartedge.edge_forward(front.eval(), task_exit.eval(), inputs)
            right["exit"] += int((logits.argmax(1) == batch.labels).sum())
            right["back"] += int((smartedge.cloud_forward(back.eval(), features).argmax(1) == batch.labels).sum())
    print(", ".join(f"{head}: {100 * count / len(data.splits['test']):.1f} % right" for head, count in right.items()))


if __name__ == "__main__":
    main()
