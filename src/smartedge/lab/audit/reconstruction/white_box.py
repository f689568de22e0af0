"""Reconstruction by optimisation: searches the image whose features match the release. The front's weights are known.

For a release z of an unknown image, it minimises over images x

    mismatch(x, z) + tv · total variation(x) + prior · mean squared distance to the decoder's image of z

(Mahendran & Vedaldi 2015; the learned prior is from Dosovitskiy & Brox 2016). The mismatch depends on the mechanism:

- Gaussian noise, or none: the mean squared distance between ``bound(front(x))`` and z, in units of the features'
  variance. Up to a factor, this is the negative log-likelihood of Gaussian noise.
- Laplace noise: the mean absolute distance.
- Codewords: ``−log Σ_k p_k(x) · P(z | codeword k)``, with the front's probabilities p and the mechanism's channel P.

The weights ``tv`` and ``prior`` are chosen on the attacker's own val images, whose originals it has. Each image has
several starts; the result with the lowest objective counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from smartedge.lab.audit.reconstruction.decoder import reconstruct_images
from smartedge.lab.audit.reconstruction.measures import psnr
from smartedge.lab.audit.reconstruction.networks import Decoder
from smartedge.lab.audit.reconstruction.pixels import prepare, to_bytes, to_image
from smartedge.lab.audit.reconstruction.recipe import Report
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.methods.differentiable import differentiable
from smartedge.methods.loop import Deadline, Progress, cosine, fit
from smartedge.models.codebook import Encode
from smartedge.models.optim import Adam, in_one_pass

__all__ = ["STEPS", "Limits", "Weights", "choose_weights", "invert", "total_variation"]

STEPS = 300
_TUNING_STEPS = 120
_LR = 0.1  # learning rate of Adam on the logits of the pixels
_TUNED_ON = 16  # val images
_SAMPLE = 512  # train images that give the mean image and the variance of the features
_EDGE = 0.02  # the mean image and the decoder's are moved this far into (0, 1), where the logit is finite
_NOISE = 0.5  # standard deviation of the logits of a random start

Mismatch = Callable[[Tensor, Tensor], Tensor]  # images (B, 3, H, W), releases (B, *F) → (B,)


@dataclass(frozen=True)
class Weights:
    """The weights of the objective's terms, except the mismatch."""

    tv: float
    prior: float  # 0: the decoder is not used, neither as a start nor in the objective


@dataclass(frozen=True)
class Limits:
    """How long an optimisation may take.

    Attributes:
        seconds: time limit.
        steps: largest number of steps of Adam for each start.
        starts: 1 to 3. The first start is the decoder's image where there is a prior, otherwise the mean image of the
            attacker's images. The others are the mean image plus noise.
    """

    seconds: float
    steps: int
    starts: int = 2


_CHOICES = (
    Weights(1e-3, 0.0),
    Weights(1e-2, 0.0),
    Weights(1e-1, 0.0),
    Weights(1e-3, 0.3),
    Weights(1e-2, 3.0),
    Weights(1e-1, 30.0),
    Weights(3e-1, 100.0),
)


def total_variation(images_BCHW: Tensor) -> Tensor:
    """Mean absolute difference of vertical neighbours plus that of horizontal ones, (B,) (Rudin et al. 1992)."""
    down = (images_BCHW[..., 1:, :] - images_BCHW[..., :-1, :]).abs().flatten(1).mean(dim=1)
    right = (images_BCHW[..., 1:] - images_BCHW[..., :-1]).abs().flatten(1).mean(dim=1)
    return down + right


def choose_weights(
    evidence: RunEvidence, decoder: Decoder | None, *, seconds: float, seed: int, report: Report
) -> Weights:
    """The weights with the highest mean PSNR on a few of the attacker's own val images, released afresh."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(evidence.val), generator=generator)[:_TUNED_ON]
    released_BF = evidence.draw(evidence.val, generator, rows, view=0)
    originals_BCHW = to_image(evidence.images(evidence.val.split, rows))
    choices = [weights for weights in _CHOICES if decoder is not None or weights.prior == 0]
    reached = []
    for number, weights in enumerate(choices):
        images, _ = invert(
            evidence,
            released_BF,
            decoder,
            weights,
            Limits(seconds / len(choices), _TUNING_STEPS, starts=1),
            seed=seed,
            report=lambda *_: None,
        )
        reached.append(float(psnr(originals_BCHW, to_image(images)).mean()))
        report(number + 1, len(choices), "")
    return choices[max(range(len(choices)), key=reached.__getitem__)]


def invert(
    evidence: RunEvidence,
    released_NF: Tensor,
    decoder: Decoder | None,
    weights: Weights,
    effort: Limits,
    *,
    seed: int,
    report: Report,
) -> tuple[Tensor, float]:
    """Reconstruct every release separately. They are computed in one batch.

    Args:
        evidence: front, mechanism, and the attacker's own images.
        released_NF: float32 (N, *F).
        decoder: the learned prior; needed where ``weights.prior`` is not 0.
        weights: weights of the objective.
        effort: how long it may take.
        seed: seed of the random starts.
        report: takes progress.

    Returns:
        uint8 (N, 3, H, W), and the share of the planned steps that were done.
    """
    starts, steps, seconds = effort.starts, effort.steps, effort.seconds
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(evidence.train), generator=generator)[:_SAMPLE]
    mean_CHW = to_image(evidence.images(evidence.train.split, sample)).mean(dim=0)
    prior_NCHW = None
    if weights.prior and decoder is not None:
        prior_NCHW = to_image(reconstruct_images(decoder, released_NF)).to(evidence.device)
    released_NF, mean_CHW = released_NF.to(evidence.device), mean_CHW.to(evidence.device)
    count = len(released_NF)
    base_NCHW = mean_CHW.expand(count, *mean_CHW.shape)
    first_NCHW = base_NCHW if prior_NCHW is None else prior_NCHW
    logits = [first_NCHW.clamp(_EDGE, 1 - _EDGE).logit()]
    for _ in range(starts - 1):
        mean = base_NCHW.clamp(_EDGE, 1 - _EDGE).logit()
        logits.append(mean + _NOISE * torch.randn(mean.shape, generator=generator).to(mean.device))
    best_NCHW, best_N = torch.empty_like(first_NCHW), torch.full((count,), math.inf, device=evidence.device)
    done = 0.0
    with _mismatch_of(evidence, sample, generator) as mismatch:

        def objective(images_NCHW: Tensor) -> Tensor:
            value_N = mismatch(images_NCHW, released_NF) + weights.tv * total_variation(images_NCHW)
            if prior_NCHW is not None:
                value_N = value_N + weights.prior * (images_NCHW - prior_NCHW).square().flatten(1).mean(dim=1)
            return value_N

        for number, start_NCHW in enumerate(logits):
            progress = Progress(1, steps, deadline=Deadline(seconds / starts))

            def watch(progress: Progress, before: int = number * steps) -> None:
                report(before + progress.step, starts * steps, "")

            final_NCHW = _descend(objective, start_NCHW, progress, watch)
            done += progress.step / steps / starts
            with torch.no_grad():
                value_N = objective(final_NCHW)
            better_N = value_N < best_N
            best_NCHW[better_N], best_N[better_N] = final_NCHW[better_N], value_N[better_N]
    report(steps * starts, steps * starts, f"{done:.0%} of the steps")
    return to_bytes(best_NCHW).cpu(), done


def _descend(
    objective: Callable[[Tensor], Tensor], start_NCHW: Tensor, progress: Progress, report: Callable[[Progress], None]
) -> Tensor:
    """Minimise with Adam on the pixels' logits, with a cosine rate that ends at zero; returns images."""
    logits_NCHW = start_NCHW.clone().requires_grad_(True)
    optimizer = in_one_pass(Adam([logits_NCHW], lr=_LR))

    def turns(epoch: int) -> Generator[int, None, None]:
        yield from range(progress.steps)

    def step(turn: int, progress: Progress) -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(logits_NCHW.sigmoid()).sum().backward()
        optimizer.step()

    fit(step, turns, progress, rates=cosine(optimizer, _LR), report=report)
    return logits_NCHW.detach().sigmoid()


@contextmanager
def _mismatch_of(evidence: RunEvidence, sample: Tensor, generator: torch.Generator) -> Iterator[Mismatch]:
    """The mismatch between images and releases. Inside the block, a codebook gives probabilities."""
    mechanism, front = evidence.mechanism, evidence.front
    twin = differentiable(mechanism)
    if twin.channel is not None and twin.outcomes is not None:
        laws = (twin.channel, twin.outcomes) if evidence.noisy else (torch.eye(len(twin.channel)),) * 2
        channel_KO, outcomes_OK = (law.to(evidence.device) for law in laws)

        def unlikely(images_BCHW: Tensor, released_BK: Tensor) -> Tensor:
            outcome_B = torch.cdist(released_BK.float(), outcomes_OK).argmin(dim=1)  # a codec may have moved it
            shares_BK: Tensor = front(prepare(images_BCHW))
            likelihood_B = (shares_BK * channel_KO[:, outcome_B].T).sum(dim=1)
            return -likelihood_B.clamp(min=1e-9).log()

        with _soft([module for module in front.modules() if isinstance(module, Encode)]):
            yield unlikely
        return
    own_NF = evidence.draw(evidence.train, generator, sample, view=0)
    variance = max(float(own_NF.var(dim=0, correction=0).mean()), 1e-12)

    def apart(images_BCHW: Tensor, released_BF: Tensor) -> Tensor:
        gap_BF = twin.bound(front(prepare(images_BCHW)).float()) - released_BF
        if mechanism.noise_norm == 1 and evidence.noisy:
            return gap_BF.abs().flatten(1).mean(dim=1) / math.sqrt(variance)
        return gap_BF.square().flatten(1).mean(dim=1) / variance

    yield apart


@contextmanager
def _soft(encoders: Sequence[Encode]) -> Iterator[None]:
    """Codebooks give probabilities instead of one codeword; their normalisation stays as in evaluation."""
    before = [encoder.training for encoder in encoders]
    for encoder in encoders:
        encoder.training = True  # of itself, not of what is inside it
    try:
        yield
    finally:
        for encoder, was in zip(encoders, before, strict=True):
            encoder.training = was
