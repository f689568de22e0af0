"""Remedies for fronts that eight edges train each for itself: what each of them is worth. CIFAR-10, a small network.

    python benchmarks/fleet_remedies.py                        # all that are not done; about 20 minutes on one core
    python benchmarks/fleet_remedies.py --only none adjusted
    python benchmarks/fleet_remedies.py --table                # from the results that are there

Data, network, divisions and steps are those of benchmarks/fleet.py, but all edges and the cloud compute in one loop
here, without frames and link. So a remedy can be tried in a minute, and those that the product does not have as well:

    adjusted      the back's loss is corrected for each edge's shares of labels (fleet.logit_adjustment)
    exit          the same at the exits, by each edge for itself
    affine, convolution, normalisation
                  an adapter for each edge at the back's entrance: scale and shift of each channel; a 1×1 convolution,
                  identity at first; batch normalisation with statistics of each edge
    start-N       fronts begin with one that was trained on other images for N epochs (model.start)
    averaged      fronts are averaged after each epoch, weighted by images, as an operator could do
    evaluated     features are sent as the front gives them in evaluation mode

An arm that is done is kept in benchmarks/results/fleet-remedies.csv and is not done again. One seed; 4000 test images
(standard error 0.8 points).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import fleet
import numpy as np
import torch
import torch.nn.functional as F
from common import HERE
from torch import Tensor, nn

from smartedge.data import DataSet, Split, batches
from smartedge.methods.front_step import edge_step
from smartedge.models.blueprint import Blueprint
from smartedge.models.network import Divided, divide, to_input
from smartedge.models.optim import apply_gradients, make_optimizer, set_learning_rate
from smartedge.types import ImageBatch

RESULTS = HERE / "results" / "fleet-remedies.csv"
CPU, CLASSES, BATCH, WINDOW, LR = torch.device("cpu"), 10, 32, 8, 2e-3
ADAPTERS = ("affine", "convolution", "normalisation")
REMEDIES = [
    "none",
    "adjusted",
    "exit",
    "adjusted exit",
    "affine",
    "convolution",
    "normalisation",
    "adjusted exit affine",
    "adjusted exit normalisation",
    "start-6",
    "start-30",
    "adjusted exit start-6",
    "adjusted start-30",
    "adjusted start-30 evaluated",
    "adjusted exit averaged",
    "adjusted exit start-6 averaged",
]
DIVISIONS = ("iid", "skewed")
ONE = ["one edge", "one edge start-6", "one edge start-30"]


class Adapter(nn.Module):
    """One adapter for each edge, of features (B, C, H, W)."""

    def __init__(self, kind: str, edges: int, channels: int) -> None:
        super().__init__()
        self.kind = kind
        shape = (edges, channels, channels) if kind == "convolution" else (edges, channels)
        self.scale = nn.Parameter(
            torch.eye(channels).repeat(edges, 1, 1) if kind == "convolution" else torch.ones(shape)
        )
        self.shift = nn.Parameter(torch.zeros(edges, channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, affine=False) for _ in range(edges))

    def forward(self, features_BCHW: Tensor, edge_B: Tensor) -> Tensor:
        """The features of images of different edges, each through its edge's adapter."""
        if self.kind == "convolution":
            adapted_BCHW = torch.einsum("bij,bjhw->bihw", self.scale[edge_B], features_BCHW)
            return adapted_BCHW + self.shift[edge_B][:, :, None, None]
        if self.kind == "normalisation":
            normal_BCHW = torch.empty_like(features_BCHW)
            for edge in edge_B.unique().tolist():
                rows, norm = edge_B == edge, self.norms[edge]
                norm.train(self.training and int(rows.sum()) > 1)
                normal_BCHW[rows] = norm(features_BCHW[rows])
            features_BCHW = normal_BCHW
        return features_BCHW * self.scale[edge_B][:, :, None, None] + self.shift[edge_B][:, :, None, None]


@dataclass
class Edge:
    """One edge: its network, its images, and how far it is."""

    data: DataSet
    parts: Divided
    optimizer: torch.optim.Optimizer
    log_shares_K: Tensor
    step: int = 0
    epoch: Iterator[ImageBatch] = field(default_factory=lambda: iter(()))

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.data.splits["train"]) // BATCH


def training(split: Split, epoch: int, seed: int) -> Iterator[ImageBatch]:
    """The training batches of an epoch."""
    return iter(batches(split, BATCH, seed=seed, epoch=epoch, shuffle=True, augment="flip", drop_last=True))


def optimizer_of(*modules: nn.Module) -> torch.optim.Optimizer:
    """As in a run with the settings of benchmarks/fleet.py."""
    return make_optimizer(modules, name="adamw", lr=LR, weight_decay=0.05, momentum=0.9)


def started(data: DataSet, blueprint: Blueprint, epochs: int, seed: int) -> Divided:
    """Front and exit that one edge trained on the public images."""
    assert data.audit is not None
    parts = divide(blueprint)
    optimizer, steps = optimizer_of(parts.front, parts.task_exit), len(data.audit) // BATCH
    for epoch in range(epochs):
        for number, batch in enumerate(training(data.audit, epoch, seed)):
            set_learning_rate(optimizer, peak=LR, step=epoch * steps + number, steps=steps * epochs)
            parts.front.train()
            parts.task_exit.train()
            edge_step(parts.front, parts.task_exit, optimizer, to_input(batch.images_BCHW, CPU), batch.labels, "single")
    return parts


def average(edges: Sequence[Edge]) -> None:
    """Give all edges the mean of their fronts and exits, weighted by images."""
    shares = np.array([edge.steps for edge in edges]) / sum(edge.steps for edge in edges)
    for name in ("front", "task_exit"):
        states = [getattr(edge.parts, name).state_dict() for edge in edges]
        mean = {
            key: sum(float(share) * state[key].float() for share, state in zip(shares, states, strict=True)).to(tensor)
            for key, tensor in states[0].items()
        }
        for edge in edges:
            getattr(edge.parts, name).load_state_dict(mean)


def features_of(edge: Edge, remedies: Sequence[str]) -> tuple[Tensor, Tensor]:
    """One step of an edge: features and labels that it sends."""
    batch, parts = next(edge.epoch), edge.parts
    set_learning_rate(edge.optimizer, peak=LR, step=edge.step, steps=edge.steps * fleet.EPOCHS)
    edge.step += 1
    inputs = to_input(batch.images_BCHW, CPU)
    evaluated_BF = None
    if "evaluated" in remedies:
        parts.front.eval()
        with torch.no_grad():
            evaluated_BF = parts.front(inputs)
    parts.front.train()
    parts.task_exit.train()
    features_BF = parts.front(inputs)
    logits_BK = parts.task_exit(features_BF) + ("exit" in remedies) * edge.log_shares_K
    F.cross_entropy(logits_BK, batch.labels).backward()
    apply_gradients(edge.optimizer, clip_norm=5.0)
    return (features_BF.detach() if evaluated_BF is None else evaluated_BF), batch.labels


def run(name: str, division: str, data: DataSet, seed: int = 0) -> float:
    """Train with some remedies; the accuracy of the back on all test images."""
    remedies = name.split()
    blueprint = fleet.settings("own", fleet.EDGES, None, None, seed).division(CLASSES)
    count = 1 if name.startswith("one edge") else fleet.EDGES
    begin = next((int(word[6:]) for word in remedies if word.startswith("start-")), 0)
    start = started(data, blueprint, begin, seed) if begin else None
    edges = []
    for part in fleet.parts_of(data, count, division, seed):
        parts = divide(blueprint)
        if start is not None:
            parts.front.load_state_dict(start.front.state_dict())
            parts.task_exit.load_state_dict(start.task_exit.state_dict())
        counts = np.bincount(part.splits["train"].labels.numpy(), minlength=CLASSES) + 1.0
        shares = torch.tensor(np.log(counts / counts.sum()), dtype=torch.float32)
        edges.append(Edge(part, parts, optimizer_of(parts.front, parts.task_exit), shares))
    back = edges[0].parts.back
    kind = next((word for word in remedies if word in ADAPTERS), None)
    adapter = None if kind is None else Adapter(kind, count, edges[0].parts.feature_shape[0])
    optimizer = optimizer_of(back, *([] if adapter is None else [adapter]))
    shares_EK = torch.stack([edge.log_shares_K for edge in edges])
    generator, step, steps = torch.Generator().manual_seed(5), 0, sum(edge.steps for edge in edges) * fleet.EPOCHS
    for epoch in range(fleet.EPOCHS):
        for edge in edges:
            edge.epoch = training(edge.data.splits["train"], epoch, seed)
        order = sorted(((i + 0.5) / edge.steps, k) for k, edge in enumerate(edges) for i in range(edge.steps))
        for begin_of in range(0, len(order), WINDOW):
            senders = [sender for _, sender in order[begin_of : begin_of + WINDOW]]
            sent = [features_of(edges[sender], remedies) for sender in senders]
            features_NF, labels_N = (torch.cat(tensors) for tensors in zip(*sent, strict=True))
            edge_N = torch.cat([torch.full((BATCH,), sender) for sender in senders])
            mixed = torch.randperm(len(labels_N), generator=generator).numpy()
            for rows in map(torch.from_numpy, np.array_split(mixed, len(senders))):
                set_learning_rate(optimizer, peak=LR, step=step, steps=steps)
                step += 1
                back.train()
                entering_BF = features_NF[rows]
                if adapter is not None:
                    entering_BF = adapter.train()(entering_BF, edge_N[rows])
                logits_BK = back(entering_BF) + ("adjusted" in remedies) * shares_EK[edge_N[rows]]
                F.cross_entropy(logits_BK, labels_N[rows]).backward()
                apply_gradients(optimizer, clip_norm=5.0)
        if "averaged" in remedies and epoch + 1 < fleet.EPOCHS:
            average(edges)
    return accuracy(edges, back, adapter, seed)


@torch.no_grad()
def accuracy(edges: Sequence[Edge], back: nn.Module, adapter: Adapter | None, seed: int) -> float:
    """Of the back, each edge's test images through its own front."""
    right = images = 0
    back.eval()
    for number, edge in enumerate(edges):
        edge.parts.front.eval()
        for batch in batches(edge.data.splits["test"], 250, seed=seed, epoch=0, shuffle=False, augment="none"):
            features_BF = edge.parts.front(to_input(batch.images_BCHW, CPU))
            if adapter is not None:
                features_BF = adapter.eval()(features_BF, torch.full((len(features_BF),), number))
            right += int((back(features_BF).argmax(dim=1) == batch.labels).sum())
            images += len(batch.labels)
    return right / images


def known() -> dict[tuple[str, str], float]:
    """(remedies, division) → accuracy, of the arms that are done."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8") as file:
        return {(row["remedies"], row["division"]): float(row["accuracy"]) for row in csv.DictReader(file)}


def table() -> None:
    """Print what is there, per cent of the test images."""
    found = known()
    print(f"{'remedies':<34}{'at random':>12}{'skewed':>12}")
    for name in [*ONE, *REMEDIES]:
        figures = [found.get((name, division)) for division in DIVISIONS]
        if any(figure is not None for figure in figures):
            print(f"{name:<34}" + "".join(f"{'' if f is None else f'{100 * f:.1f}':>12}" for f in figures))


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*ONE, *REMEDIES], default=[*ONE, *REMEDIES])
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not args.table:
        data = fleet.whole_data()
        for name in args.only:
            for division in DIVISIONS[:1] if name in ONE else DIVISIONS:
                if (name, division) in known():
                    continue
                new = not RESULTS.exists()
                found = run(name, division, data)
                with RESULTS.open("a", encoding="utf-8", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    if new:
                        writer.writerow(["remedies", "division", "seed", "accuracy"])
                    writer.writerow([name, division, 0, f"{found:.5f}"])
                print(f"{name}, {division}: {100 * found:.1f} %", flush=True)
    table()


if __name__ == "__main__":
    main(sys.argv[1:])
