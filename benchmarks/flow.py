"""A reconstruction attacker with a strong learned prior: flow matching in pixels, with a release as the condition.

A network learns the velocity that carries noise to images (Lipman et al., "Flow Matching for Generative Modeling",
2023; Liu et al., "Flow Straight and Fast", 2023). Between an image x and normal noise n it sees
``x_t = (1 − t) x + t n`` and predicts ``n − x``. It also sees the release, which is left out for a part of the images.
So one network draws both from the images that fit a release, and from all images: what the prior makes without it.

A drawn image is sharp where the release tells nothing, so it may differ much from the original. The mean of several
draws is what is known for sure.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.lab.audit.reconstruction.decoder import fresh_pairs
from smartedge.lab.audit.reconstruction.pixels import to_bytes
from smartedge.lab.audit.reconstruction.recipe import Fitted, Recipe, Report, fit_best
from smartedge.lab.audit.run_evidence import RunEvidence

__all__ = ["Flow", "draw_images", "train_flow"]

_WIDTHS = (64, 128, 256)  # of each resolution, from that of the images to a quarter
_CODE = 256
_DROPPED = 0.15  # share of the images whose release is left out
_LR, _WEIGHT_DECAY = 5e-4, 0.01
_BATCH = 128
_JUDGED = 512  # val images that choose the epoch
_SAMPLE = 512  # train images from which the scale of the features is taken
_CHUNK = 256


class Flow(nn.Module):
    """(B, 3, H, W) at times t (B,), and releases (B, *F) → velocities (B, 3, H, W). H and W are multiples of 4.

    A U-Net of residual blocks. Time and release together scale and shift each block's normalised channels. A release
    that is a map is also added to the first channels, enlarged to the image, so that positions are kept.
    """

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(feature_shape))
        self.register_buffer("scale", torch.ones(feature_shape))
        first = _WIDTHS[0]
        self.is_map = len(feature_shape) == 3 and feature_shape[1] > 1
        self.place = nn.Conv2d(feature_shape[0], first, 1) if self.is_map else None
        pooled = feature_shape[0] * 16 if self.is_map else math.prod(feature_shape)
        self.told = nn.Sequential(nn.Linear(pooled, _CODE), nn.SiLU(), nn.Linear(_CODE, _CODE))
        self.untold = nn.Parameter(torch.zeros(_CODE))
        self.clock = nn.Sequential(nn.Linear(128, _CODE), nn.SiLU(), nn.Linear(_CODE, _CODE))
        self.start = nn.Conv2d(3, first, 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, width in enumerate(_WIDTHS):
            wider = _WIDTHS[max(0, level - 1)]  # the width at twice the resolution
            attend = level == len(_WIDTHS) - 1
            self.down.append(nn.ModuleList([_Block(wider, width, attend), _Block(width, width, attend)]))
            self.up.insert(0, nn.ModuleList([_Block(2 * width, width, attend), _Block(width, wider, attend)]))
        self.middle = nn.ModuleList([_Block(_WIDTHS[-1], _WIDTHS[-1], True) for _ in range(2)])
        self.end = nn.Sequential(nn.GroupNorm(8, first), nn.SiLU(), nn.Conv2d(first, 3, 3, padding=1))
        nn.init.zeros_(self.end[-1].weight)  # type: ignore[arg-type]

    def fit_scale(self, features_NF: Tensor) -> None:
        """Take centre and scale from a sample of releases (N, *F)."""
        self.get_buffer("centre").copy_(features_NF.mean(dim=0))
        spread = features_NF.std(dim=0, correction=0)
        self.get_buffer("scale").copy_(1 / spread.clamp(min=max(1e-6, 0.05 * float(spread.mean()))))

    def forward(self, x_BCHW: Tensor, times_B: Tensor, features_BF: Tensor, told_B: Tensor) -> Tensor:
        """Velocities. ``told_B`` says for which images the release is seen."""
        seen_BF = (features_BF - self.get_buffer("centre")) * self.get_buffer("scale")
        pooled_BF = F.adaptive_avg_pool2d(seen_BF, 4) if self.is_map else seen_BF
        release_BD = torch.where(told_B[:, None], self.told(pooled_BF.flatten(1)), self.untold)
        code_BD = F.silu(self.clock(_waves(times_B)) + release_BD)
        hidden = self.start(x_BCHW)
        if self.place is not None:
            map_BCHW = F.interpolate(self.place(seen_BF), size=hidden.shape[-2:], mode="bilinear")
            hidden = hidden + map_BCHW * told_B[:, None, None, None]
        kept = []
        for level, blocks in enumerate(self.down):
            if level:
                hidden = F.avg_pool2d(hidden, 2)
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden, code_BD)
            kept.append(hidden)
        for block in self.middle:
            hidden = block(hidden, code_BD)
        for level, blocks in enumerate(self.up):
            if level:
                hidden = F.interpolate(hidden, scale_factor=2, mode="nearest")
            hidden = torch.cat([hidden, kept.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden, code_BD)
        velocity_BCHW: Tensor = self.end(hidden)
        return velocity_BCHW


class _Block(nn.Module):
    """Two convolutions around a code's scale and shift, a shortcut, and attention where it is wanted."""

    def __init__(self, inputs: int, width: int, attend: bool) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, width, 3, padding=1))
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.code = nn.Linear(_CODE, 2 * width)
        self.after = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        nn.init.zeros_(self.after.weight)
        self.attention = _Attention(width) if attend else nn.Identity()

    def forward(self, x_BCHW: Tensor, code_BD: Tensor) -> Tensor:
        scale_BC, shift_BC = self.code(code_BD)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm(self.before(x_BCHW)) * (1 + scale_BC) + shift_BC
        changed_BCHW: Tensor = self.attention(self.shortcut(x_BCHW) + self.after(F.silu(hidden)))
        return changed_BCHW


class _Attention(nn.Module):
    """x + what each position takes from all others, by four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.mix = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = self.ask(self.norm(x_BCHW)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed_BCHW: Tensor = self.mix(seen.transpose(1, 2).unflatten(2, x_BCHW.shape[-2:]))
        return x_BCHW + mixed_BCHW


def _waves(times_B: Tensor) -> Tensor:
    """Sines and cosines of times from 0 to 1, (B, 128)."""
    rates_D = torch.exp(torch.linspace(0, math.log(1000), 64, device=times_B.device))
    angles_BD = times_B[:, None] * rates_D
    return torch.cat([angles_BD.sin(), angles_BD.cos()], dim=1)


def train_flow(evidence: RunEvidence, *, epochs: int, seconds: float, seed: int, report: Report) -> tuple[Flow, Fitted]:
    """Train on the attacker's images with fresh releases; keep the epoch that is best on its val images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = Flow(evidence.feature_shape)
    flow.to(device=evidence.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train, val, device = evidence.train, evidence.val, evidence.device
    generator = torch.Generator().manual_seed(seed)
    on_device = torch.Generator(device).manual_seed(seed)
    sample = torch.randperm(len(train), generator=generator)[:_SAMPLE]
    flow.fit_scale(evidence.draw(train, generator, sample))

    def drawn(images_BCHW: Tensor, dropped: float) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, times with most of them in the middle (logit-normal), and for which images the release is seen."""
        noise_BCHW = torch.randn(images_BCHW.shape, generator=on_device, device=device)
        times_B = torch.randn(len(images_BCHW), generator=on_device, device=device).sigmoid()
        return noise_BCHW, times_B, torch.rand(len(images_BCHW), generator=on_device, device=device) >= dropped

    def loss(features_BF: Tensor, images_BCHW: Tensor, *given: Tensor) -> Tensor:
        noise_BCHW, times_B, told_B = given or drawn(images_BCHW, _DROPPED)
        at = times_B[:, None, None, None]
        clean_BCHW = images_BCHW * 2 - 1
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            velocity_BCHW = flow(torch.lerp(clean_BCHW, noise_BCHW, at), times_B, features_BF, told_B)
        return F.mse_loss(velocity_BCHW.float(), noise_BCHW - clean_BCHW)

    judged = torch.arange(min(_JUDGED, len(val)))
    val_pair = fresh_pairs(evidence, val, judged, generator)
    at_val = [part.to(device) for part in (*val_pair, *drawn(val_pair[1], 0.0))]

    def score() -> float:
        with torch.no_grad():
            parts = zip(*(part.split(_CHUNK) for part in at_val), strict=True)
            return -sum(float(loss(*part)) * len(part[0]) for part in parts) / len(judged)

    fitted = fit_best(
        flow,
        Recipe(len(train), _BATCH, _BATCH, epochs, seconds, _LR, _WEIGHT_DECAY),
        examples=lambda rows: fresh_pairs(evidence, train, rows, generator),
        loss=loss,
        score=score,
        generator=generator,
        report=report,
    )
    return flow, fitted


@torch.no_grad()
def draw_images(flow: Flow, released_NF: Tensor, size: tuple[int, int], *, told: bool, steps: int, seed: int) -> Tensor:
    """An image for each release (N, *F), uint8 (N, 3, H, W): Heun's method from noise to image.

    Args:
        flow: trained.
        released_NF: the releases.
        size: H and W.
        told: whether the releases are seen.
        steps: of Heun's method; each asks the network twice.
        seed: of the noise.
    """
    flow.eval()
    device = next(flow.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    made = []
    for part in released_NF.split(_CHUNK):
        features_BF, told_B = part.float().to(device), torch.full((len(part),), told, device=device)
        x_BCHW = torch.randn((len(part), 3, *size), generator=generator).to(device)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)

        def velocity(x_BCHW: Tensor, time: float, features_BF: Tensor = features_BF, told_B: Tensor = told_B) -> Tensor:
            times_B = torch.full((len(x_BCHW),), time, device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                found: Tensor = flow(x_BCHW, times_B, features_BF, told_B)
            return found.float()

        for step in range(steps):
            now, then = 1 - step / steps, 1 - (step + 1) / steps
            slope = velocity(x_BCHW, now)
            guess = x_BCHW + (then - now) * slope
            if then > 0:
                slope = (slope + velocity(guess, then)) / 2
            x_BCHW = x_BCHW + (then - now) * slope
        made.append(to_bytes((x_BCHW + 1) / 2).cpu())
    return torch.cat(made)
