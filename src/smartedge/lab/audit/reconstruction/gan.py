"""Reconstruction by a GAN: the decoder goes on as the generator against a critic of patches.

Mean errors blur whatever the release leaves open; a critic that compares with real images makes the decoder commit
itself. The generator starts from the trained decoder and gets no noise of its own; the critic sees each image beside
the trained decoder's image of the same release, as pix2pix shows it the condition (Isola et al. 2017), and both are
trained with the hinge loss plus the mean absolute error. Of all epochs, and the decoder that it started from, the one
counts whose images of the attacker's own val images are nearest to the originals, by a perceptual distance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smartedge.lab.audit.evidence import Evidence
from smartedge.lab.audit.reconstruction.decoder import fresh_pairs, reconstruct_images
from smartedge.lab.audit.reconstruction.fitting import Fit, Pace, Report
from smartedge.lab.audit.reconstruction.networks import Decoder, PatchCritic
from smartedge.lab.audit.reconstruction.pixels import to_image

__all__ = ["train_gan"]

_EPOCHS = 5
_LEAST_STEPS = 1500
_STEP = 8  # images in a step
_LR = 2e-4
_BETAS = (0.5, 0.9)
_FIDELITY = 200.0  # of the mean absolute error of images in [0, 1]: pix2pix's 100 for images in [-1, 1]
_JUDGED = 256  # val images that choose between epochs

Distance = Callable[[Tensor, Tensor], Tensor]  # images and reconstructions in [0, 1] → (B,)


def train_gan(
    evidence: Evidence, decoder: Decoder, distance: Distance, *, seconds: float, seed: int, report: Report
) -> tuple[Decoder, Fit]:
    """Go on from a trained decoder, which is left as it is.

    Args:
        evidence: the attacker's images and the law of the releases.
        decoder: where generator and condition come from.
        distance: what chooses between epochs.
        seconds: at most.
        seed: of the critic, the order and the noise.
        report: takes progress.

    Returns:
        The generator, and how the training went: ``score`` is the distance that the one chosen has gained on the
        decoder, 0 where none came nearer than the decoder itself (which is then what is returned).
    """
    generator = torch.Generator().manual_seed(seed)
    plain = copy.deepcopy(decoder).eval().requires_grad_(False)
    painter = copy.deepcopy(decoder).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = PatchCritic()
    critic.to(evidence.device)
    paint = torch.optim.Adam(painter.parameters(), lr=_LR, betas=_BETAS)
    judge = torch.optim.Adam(critic.parameters(), lr=2 * _LR, betas=_BETAS)
    train = evidence.train
    batches = max(1, len(train) // evidence.batch_size)
    per_epoch = batches * -(-min(len(train), evidence.batch_size) // _STEP)
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // per_epoch))
    pace = Pace(per_epoch * epochs, seconds)
    val = evidence.val
    released_NF, originals_NCHW = fresh_pairs(evidence, val, torch.arange(min(_JUDGED, len(val))), generator)

    def apart(generator_network: Decoder) -> float:
        return float(distance(originals_NCHW, to_image(reconstruct_images(generator_network, released_NF))).mean())

    start = nearest = apart(plain)
    best = copy.deepcopy(plain.state_dict())
    step = 0
    while pace.at(step) < 1:
        painter.train()
        for rows in torch.randperm(len(train), generator=generator).split(evidence.batch_size)[:batches]:
            if pace.at(step) >= 1:
                break
            frame = [tensor.to(evidence.device) for tensor in fresh_pairs(evidence, train, rows, generator)]
            for features_BF, images_BCHW in zip(*(tensor.split(_STEP) for tensor in frame), strict=True):
                for optimizer, rate in ((paint, _LR), (judge, 2 * _LR)):
                    for group in optimizer.param_groups:
                        group["lr"] = rate * min(1.0, 2 - 2 * pace.at(step))  # constant, then down to zero
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
                step += 1
            report(step, pace.steps, "")
        if (reached := apart(painter)) < nearest:
            nearest, best = reached, copy.deepcopy(painter.state_dict())
    report(pace.steps, pace.steps, f"{step / per_epoch:.1f} epochs")
    painter.load_state_dict(best)
    return painter.eval(), Fit(step / per_epoch, epochs, start - nearest)
