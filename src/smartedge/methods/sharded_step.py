"""One update in the cloud that is computed in parts, which several workers may share.

The images of a step are divided into shards. Each shard has a forward and a backward pass of its own. So batch
normalisation uses the mean and variance of the shard (ghost batch normalisation: Hoffer et al. 2017, section 5). What
the shards change is added in their order. A sum of floating-point numbers depends on the order of the terms. Here it
depends on the number of shards alone. So the new weights are the same bit for bit, whoever computed which shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import torch
from torch import Tensor, nn

from smartedge.methods.back_step import forward_loss
from smartedge.methods.options import PLAIN, StepOptions
from smartedge.metrics import kind_of
from smartedge.models.entrances import Entering
from smartedge.models.optim import apply_gradients, laid_out_like
from smartedge.runs.seeds import derive_seed

__all__ = ["Shard", "ShardResult", "apply_changes", "blank_term", "run_shards", "shard_sizes", "shard_slices"]

_FEWEST = 2  # images in a shard: batch normalisation needs two


@dataclass(frozen=True)
class Shard:
    """The images of one shard of a step, on the device of the back."""

    inputs_BF: Tensor | Entering  # float32 (B, *F), or what a back of several edges takes
    labels: Tensor  # int64 (B,) or float32 (B, K)


@dataclass(frozen=True)
class ShardResult:
    """The results of the passes of one shard."""

    logits_BK: Tensor  # detached, float32
    loss: float  # mean over the shard, before the update


def shard_sizes(images: int, shards: int) -> list[int]:
    """How many images of a step each shard gets. The numbers differ by one at most.

    Where there are fewer than two images for each shard, the last shards get none.
    """
    used = max(1, min(shards, images // _FEWEST))
    each, more = divmod(images, used)
    return [each + (shard < more) for shard in range(used)] + [0] * (shards - used)


def shard_slices(images: int, shards: int) -> list[slice]:
    """Which images of a step each shard gets."""
    ends = list(accumulate(shard_sizes(images, shards)))
    return [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def run_shards(
    back: nn.Module,
    shards: Mapping[int, Shard],
    images: int,
    *,
    label_epsilon: float | None = None,
    options: StepOptions = PLAIN,
) -> tuple[dict[int, ShardResult], list[list[Tensor]]]:
    """The forward and backward passes of some shards of a step. The back stays as it is.

    Random numbers, as those of dropout, come from torch's global generator. Every worker must begin with the same state
    of it. Each shard then has numbers of its own.

    Args:
        back: the part after the cut, in training mode.
        shards: number of the shard in the step, from 0 → its images. In order, without a gap.
        images: how many images the whole step has.
        label_epsilon: see :func:`~smartedge.methods.back_step.cloud_step`.
        options: how the update is computed.

    Returns:
        The result of each shard, and the terms to be added in their order. A term is a list of tensors:

        - the gradient of each parameter, times the shard's share of the images;
        - for each parameter 1 where it has a gradient, else 0;
        - the change of each floating-point buffer, such as a running mean, times the shard's share of the images;
        - the change of each other buffer, such as a counter. Only the first shard has it.

        There is one term for each shard. But those from the first shard of the step on are added at once, which saves
        memory.
    """
    seed = int(torch.randint(2**62, ()))
    drawn = torch.get_rng_state()
    before = {name: buffer.clone() for name, buffer in back.named_buffers()}
    results: dict[int, ShardResult] = {}
    terms: list[list[Tensor]] = []
    for number, shard in shards.items():
        torch.manual_seed(derive_seed(seed, number))
        share = len(shard.labels) / images
        kind = kind_of(shard.labels)
        logits_BK, loss = forward_loss(back, shard.inputs_BF, shard.labels, kind, label_epsilon, options)
        (loss * share).backward()
        term = _changes(back, before, share, first=number == 0)
        if terms and 0 in shards:
            torch._foreach_add_(terms[0], term)
        else:
            terms.append(term)
        results[number] = ShardResult(logits_BK.detach().float(), loss.item())
        back.zero_grad(set_to_none=True)
        for name, buffer in back.named_buffers():
            buffer.copy_(before[name])
    torch.set_rng_state(drawn)
    return results, terms


@torch.no_grad()
def _changes(back: nn.Module, before: Mapping[str, Tensor], share: float, *, first: bool) -> list[Tensor]:
    parameters, dtype = _trained(back)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    known = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
    changes = [tensor.to(dtype) for tensor in (*gradients, known)]
    for name, buffer in back.named_buffers():
        weight = share if buffer.is_floating_point() else float(first)
        changes.append((buffer.to(dtype) - before[name].to(dtype)) * weight)
    return changes


@torch.no_grad()
def blank_term(back: nn.Module) -> list[Tensor]:
    """A term of :func:`run_shards` that is zero."""
    parameters, dtype = _trained(back)
    tensors = [*parameters, torch.empty(len(parameters), device=parameters[0].device), *back.buffers()]
    return [torch.zeros_like(tensor, dtype=dtype) for tensor in tensors]


@torch.no_grad()
def apply_changes(
    back: nn.Module, optimizer: torch.optim.Optimizer, changes: Sequence[Tensor], *, options: StepOptions
) -> None:
    """One update of the back.

    Args:
        back: as :func:`run_shards` left it.
        optimizer: over its parameters.
        changes: the sum of the terms of all shards of a step, in their order.
        options: how the update is computed.
    """
    parameters, dtype = _trained(back)
    has_gradient = changes[len(parameters)].tolist()
    for parameter, gradient, has in zip(parameters, changes[: len(parameters)], has_gradient, strict=True):
        # What workers exchanged is in no memory format. The norm of all gradients adds them as they lie in memory.
        # So its last bit would tell how many workers there are.
        parameter.grad = laid_out_like(parameter, gradient.to(parameter.dtype)) if has else None
    for buffer, change in zip(back.buffers(), changes[len(parameters) + 1 :], strict=True):
        buffer.copy_((buffer.to(dtype) + change).to(buffer.dtype))
    apply_gradients(optimizer, clip_norm=options.clip_norm)


def _trained(back: nn.Module) -> tuple[list[nn.Parameter], torch.dtype]:
    """The parameters that are trained, and the dtype in which changes are added: float32, or a wider one of theirs."""
    parameters = [p for p in back.parameters() if p.requires_grad]
    return parameters, reduce(torch.promote_types, (p.dtype for p in parameters), torch.float32)
