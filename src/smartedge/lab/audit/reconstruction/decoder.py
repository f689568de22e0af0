"""Reconstruction by a trained decoder: from the release of an image to the image.

The attacker trains it on its own images. Every epoch has a fresh release (view, noise, codec) of each image, so the
decoder learns the distribution of the noise and not one draw of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smartedge.lab.audit.reconstruction.measures import psnr
from smartedge.lab.audit.reconstruction.networks import Decoder
from smartedge.lab.audit.reconstruction.pixels import to_bytes, to_image
from smartedge.lab.audit.reconstruction.recipe import Fitted, Recipe, Report, fit_best
from smartedge.lab.audit.run_evidence import OwnImages, RunEvidence

__all__ = ["fresh_pairs", "new_decoder", "reconstruct_images", "train_decoder"]

_EPOCHS = 10
_STEP = 8  # images in a step
_LEAST_STEPS = 5000  # a small data set gets more epochs
_LR = 1e-3
_WEIGHT_DECAY = 0.01
_JUDGED = 512  # val images that choose between epochs
_SAMPLE = 512  # train images from which the scale of the features is taken
_CHUNK = 256


def new_decoder(evidence: RunEvidence, *, seed: int) -> Decoder:
    """An untrained decoder for the features of this evidence, on its device. Keeps the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = Decoder(evidence.feature_shape, evidence.config.data.image_size, evidence.layout)
    decoder.to(device=evidence.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return decoder


def fresh_pairs(
    evidence: RunEvidence, auxiliary: OwnImages, rows: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Fresh releases (B, *F) of the attacker's images at ``rows``, and the images. Either all are mirrored or none."""
    view = int(torch.randint(len(auxiliary.views_VNF), (), generator=generator))
    images_BCHW = to_image(evidence.images(auxiliary.split, rows))
    return evidence.draw(auxiliary, generator, rows, view=view), images_BCHW.flip(-1) if view else images_BCHW


def train_decoder(evidence: RunEvidence, *, seconds: float, seed: int, report: Report) -> tuple[Decoder, Fitted]:
    """Train with the mean absolute error; keep the epoch with the highest PSNR on the attacker's val images."""
    decoder = new_decoder(evidence, seed=seed)
    train, val = evidence.train, evidence.val
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(train), generator=generator)[:_SAMPLE]
    decoder.fit_scale(evidence.draw(train, generator, sample))
    judged = torch.arange(min(_JUDGED, len(val)))
    released_NF, originals_NCHW = fresh_pairs(evidence, val, judged, generator)

    def loss(features_BF: Tensor, images_BCHW: Tensor) -> Tensor:
        with evidence.autocast():
            made_BCHW: Tensor = decoder(features_BF)
            return (made_BCHW - images_BCHW).abs().mean()

    def score() -> float:
        return float(psnr(originals_NCHW, to_image(reconstruct_images(decoder, released_NF))).mean())

    recipe = Recipe(
        rows=len(train),
        batch_size=evidence.batch_size,
        step_size=_STEP,
        epochs=max(_EPOCHS, -(-_LEAST_STEPS * _STEP // len(train))),
        seconds=seconds,
        lr=_LR,
        weight_decay=_WEIGHT_DECAY,
        order=train.order,
    )
    fitted = fit_best(
        decoder,
        recipe,
        examples=lambda rows: fresh_pairs(evidence, train, rows, generator),
        loss=loss,
        score=score,
        generator=generator,
        report=report,
    )
    return decoder, fitted


@torch.no_grad()
def reconstruct_images(decoder: Decoder, released_NF: Tensor) -> Tensor:
    """The images that the decoder makes from releases (N, *F): uint8 (N, 3, H, W), on the CPU."""
    decoder.eval()
    device = next(decoder.parameters()).device
    return torch.cat([to_bytes(decoder(part.float().to(device))).cpu() for part in released_NF.split(_CHUNK)])
