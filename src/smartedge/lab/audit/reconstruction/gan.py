"""Reconstruction by a GAN: the decoder goes on as the generator against a critic of patches.

A decoder trained with a mean error gives blurred images. A critic that compares them with real images makes them sharp.
The generator starts from the trained decoder and has no noise input. The critic sees each image together with the
trained decoder's image of the same release, as in pix2pix (Isola et al. 2017). The loss is the hinge loss plus the mean
absolute error. The result is the epoch, or the decoder at the start, with the smallest perceptual distance on the
attacker's own val images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smartedge.lab.audit.reconstruction.decoder import fresh_pairs, reconstruct_images
from smartedge.lab.audit.reconstruction.networks import Decoder, PatchCritic
from smartedge.lab.audit.reconstruction.pixels import to_image
from smartedge.lab.audit.reconstruction.recipe import Fitted, Recipe, Report
from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.methods.loop import Best, Progress, fit
from smartedge.models.optim import Adam, in_one_pass

__all__ = ["train_gan"]

_EPOCHS = 5
_LEAST_STEPS = 1500
_STEP = 8  # images in a step
_LR = 2e-4
_BETAS = (0.5, 0.9)
_FIDELITY = 200.0  # weight of the mean absolute error of images in [0, 1]; pix2pix has 100 for images in [-1, 1]
_JUDGED = 256  # val images that choose between epochs

Distance = Callable[[Tensor, Tensor], Tensor]  # images and reconstructions in [0, 1] → (B,)


def train_gan(
    evidence: RunEvidence, decoder: Decoder, distance: Distance, *, seconds: float, seed: int, report: Report
) -> tuple[Decoder, Fitted]:
    """Train a GAN from a trained decoder, which is not changed.

    Args:
        evidence: the attacker's images and the law of the releases.
        decoder: the start of the generator, and the condition of the critic.
        distance: chooses the best epoch.
        seconds: time limit.
        seed: seed of the critic, the order and the noise.
        report: takes progress.

    Returns:
        The generator, and how the training went. ``score`` says by how much its distance is smaller than the decoder's.
        It is 0 where no epoch was better; the generator then equals the decoder.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = copy.deepcopy(decoder).eval().requires_grad_(False)
    painter = copy.deepcopy(decoder).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = PatchCritic(decoder.image_size.channels)
    critic.to(evidence.device)
    paint = in_one_pass(Adam(painter.parameters(), lr=_LR, betas=_BETAS))
    judge = in_one_pass(Adam(critic.parameters(), lr=2 * _LR, betas=_BETAS))
    train, val = evidence.train, evidence.val
    steps = max(1, len(train) // evidence.batch_size) * -(-min(len(train), evidence.batch_size) // _STEP)
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // steps))
    recipe = Recipe(len(train), evidence.batch_size, _STEP, epochs, seconds, _LR, order=train.order)
    progress = recipe.progress()
    released_NF, originals_NCHW = fresh_pairs(evidence, val, torch.arange(min(_JUDGED, len(val))), generator)

    def gain() -> float:
        found_NCHW = to_image(reconstruct_images(painter, released_NF))
        return start - float(distance(originals_NCHW, found_NCHW).mean())

    def rates(progress: Progress) -> None:
        for optimizer, rate in ((paint, _LR), (judge, 2 * _LR)):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, 2 - 2 * progress.share)  # constant, then down to zero

    def step(part: tuple[Tensor, ...], progress: Progress) -> None:
        features_BF, images_BCHW = part
        with evidence.autocast():
            with torch.no_grad():
                plain_BCHW = plain(features_BF)
            painted_BCHW = painter(features_BF)
            real, fake = critic(images_BCHW, plain_BCHW), critic(painted_BCHW.detach(), plain_BCHW)
            told_apart = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        judge.zero_grad(set_to_none=True)
        told_apart.backward()
        judge.step()
        with evidence.autocast():
            fidelity = (painted_BCHW - images_BCHW).abs().mean()
            blamed = _FIDELITY * fidelity - critic(painted_BCHW, plain_BCHW).mean()
        paint.zero_grad(set_to_none=True)
        blamed.backward()
        paint.step()

    def after_epoch(progress: Progress) -> None:
        best.offer(gain())
        painter.train()

    start = float(distance(originals_NCHW, to_image(reconstruct_images(plain, released_NF))).mean())
    best = Best(painter, 0.0)  # the decoder itself gains nothing
    fit(
        step,
        recipe.parts(lambda rows: fresh_pairs(evidence, train, rows, generator), generator, evidence.device),
        progress,
        rates=rates,
        report=lambda progress: report(progress.step, progress.steps, ""),
        after_epoch=after_epoch,
    )
    best.restore()
    fitted = Fitted.of(progress, best.score)
    report(progress.steps, progress.steps, f"{fitted.epochs:.1f} epochs")
    return painter, fitted
