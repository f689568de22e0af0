"""How the attacker trains networks on images, and picks the epoch that is best on its own val images."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smartedge.methods.loop import Best, Deadline, Progress, fit, warmup_cosine
from smartedge.models.optim import apply_gradients, make_optimizer

__all__ = ["Examples", "Fitted", "Recipe", "Report", "fit_best"]

Report = Callable[[int, int, str], None]  # steps done, steps in all, text
Examples = Callable[[Tensor], tuple[Tensor, ...]]  # positions, int64 (B,) → tensors (B, ...) of these images

_CLIP_NORM = 5.0


@dataclass(frozen=True)
class Fitted:
    """How a training went."""

    epochs: float  # passes over the images
    planned: int  # passes that were planned
    score: float  # the best score on the val images

    @classmethod
    def of(cls, progress: Progress, score: float) -> Fitted:
        """Make it from the progress of a training."""
        return cls(progress.step / progress.steps_per_epoch, progress.epochs, score)


@dataclass(frozen=True)
class Recipe:
    """The size, batches and length of a training.

    Attributes:
        rows: number of images.
        batch_size: images that are read at one time, since a frame is coded as a whole. A smaller last batch is left
            out, unless it is the only one.
        step_size: images in a step. On a CPU, many small steps learn more in the same time than few large steps.
        epochs: largest number of epochs.
        seconds: time limit, without the last score; ``math.inf``: no limit.
        lr: peak learning rate.
        weight_decay: weight decay of matrices and kernels.
        order: draws the positions of an epoch, int64 (rows,); None: any order.
    """

    rows: int
    batch_size: int
    step_size: int
    epochs: int
    seconds: float
    lr: float
    weight_decay: float = 0.0
    order: Callable[[torch.Generator], Tensor] | None = None

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return max(1, self.rows // self.batch_size)

    def progress(self) -> Progress:
        """A new progress, whose clock starts now."""
        steps = self.batches * -(-min(self.rows, self.batch_size) // self.step_size)
        return Progress(self.epochs, steps, deadline=Deadline(self.seconds))

    def parts(
        self, examples: Examples, generator: torch.Generator, device: torch.device
    ) -> Callable[[int], Generator[tuple[Tensor, ...], None, None]]:
        """The batches for :func:`smartedge.methods.loop.fit`: epoch → the examples of each step, in a new order."""

        def epoch_parts(epoch: int) -> Generator[tuple[Tensor, ...], None, None]:
            order = torch.randperm(self.rows, generator=generator) if self.order is None else self.order(generator)
            for batch in order.split(self.batch_size)[: self.batches]:
                yield from zip(*(each.to(device).split(self.step_size) for each in examples(batch)), strict=True)

        return epoch_parts


def fit_best(
    network: nn.Module,
    recipe: Recipe,
    *,
    examples: Examples,
    loss: Callable[..., Tensor],
    score: Callable[[], float],
    generator: torch.Generator,
    report: Report,
) -> Fitted:
    """Train a network with AdamW and a warm-up-cosine rate, until the epochs or the seconds end.

    Args:
        network: it has the best parameters afterwards, and is in evaluation mode.
        recipe: size, batches and length of the training.
        examples: gives the examples, which are moved to the network's device.
        loss: tensors of a step → scalar.
        score: judges the network in evaluation mode on the attacker's val images after every epoch; higher is better.
        generator: draws the order.
        report: takes progress.
    """
    device = next(network.parameters()).device
    optimizer = make_optimizer([network], name="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=0.0)
    best, progress = Best(network), recipe.progress()

    def step(part: tuple[Tensor, ...], progress: Progress) -> None:
        loss(*part).backward()
        apply_gradients(optimizer, clip_norm=_CLIP_NORM)

    def judge(progress: Progress) -> None:
        network.eval()
        best.offer(score())
        network.train()

    network.train()
    fit(
        step,
        recipe.parts(examples, generator, device),
        progress,
        rates=warmup_cosine(optimizer, recipe.lr),
        report=lambda progress: report(progress.step, progress.steps, ""),
        after_epoch=judge,
    )
    best.restore()
    fitted = Fitted.of(progress, best.score)
    report(progress.steps, progress.steps, f"{fitted.epochs:.1f} epochs")
    return fitted
