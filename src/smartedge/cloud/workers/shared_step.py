"""One update of the back by all workers: each computes its shards of the step, and all get the same new weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from smartedge.cloud.batches import take
from smartedge.cloud.workers.group import Group
from smartedge.methods.options import StepOptions
from smartedge.methods.sharded_step import Shard, ShardResult, apply_changes, blank_term, run_shards, shard_slices
from smartedge.models.entrances import Entering
from smartedge.models.network import to_device
from smartedge.types import FeatureBatch

__all__ = ["ShardedBatch", "SharedStep", "divided", "shared_step"]


@dataclass(frozen=True)
class ShardedBatch:
    """The images of one step that a worker needs."""

    shards: Mapping[int, FeatureBatch]  # number of the shard, in order -> its images
    images: int  # of the whole step, those of other workers too


@dataclass(frozen=True)
class SharedStep:
    """The results of one update, of all images of the step, in the order of the shards."""

    ids: NDArray[np.int64]  # (B,)
    labels: Tensor  # int64 (B,) or float32 (B, K)
    logits_BK: Tensor  # float32
    loss: float  # mean over the step, before the update


def divided(batch: FeatureBatch, shards: int, own: range) -> ShardedBatch:
    """The shards of a batch that a worker computes."""
    slices = shard_slices(len(batch.ids), shards)
    parts = {
        number: take(batch, part) for number, part in enumerate(slices) if number in own and part.start < part.stop
    }
    return ShardedBatch(parts, len(batch.ids))


def shared_step(
    back: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: ShardedBatch,
    inputs: Callable[[int, FeatureBatch], Tensor | Entering],
    group: Group,
    *,
    label_epsilon: float | None,
    options: StepOptions,
) -> SharedStep:
    """One update. All workers must call it, with equal weights and random numbers.

    Args:
        back: the part after the cut, in training mode.
        optimizer: over its parameters.
        step: the images of this worker's shards.
        inputs: number and images of a shard → what the back takes, on its device.
        group: the workers.
        label_epsilon: see :func:`~smartedge.methods.back_step.cloud_step`.
        options: how the update is computed.

    Raises:
        RuntimeError: the passes failed in a worker. All workers raise it. The back must not be used any more.
        WorkersLost: another worker has ended.
    """
    failure = ""
    found: dict[int, ShardResult] = {}
    terms: list[list[Tensor]] = []
    try:
        device = next(back.parameters()).device
        shards = {
            number: Shard(inputs(number, each), to_device(torch.from_numpy(each.labels), device))
            for number, each in step.shards.items()
        }
        found, terms = run_shards(back, shards, step.images, label_epsilon=label_epsilon, options=options)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        failure = str(error) or type(error).__name__
        terms = [blank_term(back)]  # the sum is not used
    like = terms[0] if terms else blank_term(back)
    told, changes = group.add_up(_packed(step, found, failure), terms, like)
    result = _together(told)
    apply_changes(back, optimizer, changes, options=options)
    return result


def _packed(step: ShardedBatch, found: Mapping[int, ShardResult], failure: str) -> bytes:
    """What a worker tells the others about its shards."""
    tensors = {"failure": torch.tensor(list(failure.encode()), dtype=torch.uint8)}
    for number, result in found.items():
        batch = step.shards[number]
        tensors[f"{number} ids"] = torch.from_numpy(batch.ids)
        tensors[f"{number} labels"] = torch.from_numpy(batch.labels)
        tensors[f"{number} logits"] = result.logits_BK.cpu()
        tensors[f"{number} loss"] = torch.tensor(result.loss, dtype=torch.float64)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _together(told: Sequence[bytes]) -> SharedStep:
    """The results of all shards.

    Raises:
        RuntimeError: the passes failed in a worker.
    """
    tensors: dict[str, Tensor] = {}
    for data in told:
        found = load(data)
        if failure := found.pop("failure").numpy().tobytes().decode():
            raise RuntimeError(failure)
        tensors |= found
    numbers = sorted(int(name.split()[0]) for name in tensors if name.endswith(" loss"))
    ids, labels, logits = (
        torch.cat([tensors[f"{number} {what}"] for number in numbers]) for what in ("ids", "labels", "logits")
    )
    loss = sum(tensors[f"{number} loss"].item() * len(tensors[f"{number} ids"]) for number in numbers)
    return SharedStep(ids.numpy(), labels, logits, loss / len(ids))
