"""The cloud's figures of each edge, for ``cloud/fleet.json``."""

from __future__ import annotations

import torch

from smartedge import metrics
from smartedge.artifacts.fleet_run import EdgeFigures, FleetFigures
from smartedge.artifacts.results import Figures
from smartedge.cloud.handover import Handover
from smartedge.cloud.order.influence import Influence
from smartedge.cloud.store.feature_log import cut_of
from smartedge.cloud.trainer import BackTrainer
from smartedge.runs.checkpoint import load_weights

__all__ = ["figures_of_edges"]


def figures_of_edges(handover: Handover, trainer: BackTrainer, influence: Influence) -> FleetFigures:
    """The figures of all edges that have sent a frame.

    Args:
        handover: knows the edges.
        trainer: its test predictions are divided by edge, once it has finished.
        influence: losses and features of the edges.
    """
    distances, drifts = influence.distances(), influence.drifts()
    tests = _test_figures(trainer)
    edges = {}
    for name, intake in sorted(handover.intakes.items()):
        learned = handover.learned.get(name, 0)
        if trainer.finished:
            learned = intake.next_seq
        waiting, failed = intake.next_seq - learned, handover.quarantined.get(name)
        if failed is not None:  # nothing of it was used from this frame on
            learned = min(learned, failed)
        edges[name] = EdgeFigures(
            cut=cut_of(intake.streams[0]),
            frames=intake.next_seq,
            images=intake.images,
            bytes=0 if intake.log is None else intake.log.total_bytes,
            learned=learned,
            lag=waiting,
            gaps=0 if intake.log is None else sum(end - first for first, end in intake.log.gaps),
            refused=intake.refused,
            closed=intake.sent_all,
            quarantined=failed,
            capped=name in influence.capped,
            loss=influence.loss(name),
            outlier=distances.get(name),
            drift=drifts.get(name),
            test=tests.get(name),
        )
    config = trainer.config
    budget = config.dp.epsilon if config.dp.granularity != "element" else None
    return FleetFigures(
        complete=handover.complete and trainer.finished,
        model=config.model.name,
        schedule=config.schedule,
        epsilon=budget,
        delta=None if budget is None else config.dp.delta,
        label_epsilon=config.dp.label_epsilon,
        jain=_jain([figures.learned / max(1, _announced(handover, name)) for name, figures in edges.items()]),
        edges=edges,
    )


def _announced(handover: Handover, edge: str) -> int:
    """How many frames the edge will have sent in the end, as far as its streams say."""
    intake = handover.intakes[edge]
    return max((header.end_seq for header in intake.streams), default=0)


def _jain(shares: list[float]) -> float | None:
    """Jain, Chiu and Hawe 1984: (sum of x)² ÷ (n · sum of x²)."""
    squares = sum(share**2 for share in shares)
    return None if squares == 0 else sum(shares) ** 2 / (len(shares) * squares)


def _test_figures(trainer: BackTrainer) -> dict[str, Figures]:
    """Edge → figures on the test images that it sent. The predictions are in the order of the edges."""
    if not trainer.finished or not trainer.test_images:
        return {}
    found = load_weights(trainer.folder / "predictions.safetensors")
    parts = zip(*(tensor.split(list(trainer.test_images.values())) for tensor in found.values()), strict=True)
    figures = {}
    for edge, part in zip(trainer.test_images, parts, strict=True):
        of = dict(zip(found, part, strict=True))
        labels, scores = of["labels"], of["scores"]
        kind = metrics.kind_of(labels)
        true = torch.where(labels == 1, scores, 1 - scores) if kind == "multi" else scores.gather(1, labels[:, None])
        loss = float(-torch.log(true.clamp_min(1e-12))[labels.isfinite() if kind == "multi" else ...].mean())
        figures[edge] = Figures.model_validate({"loss": loss, **metrics.evaluate(labels.numpy(), scores.numpy(), kind)})
    return figures
