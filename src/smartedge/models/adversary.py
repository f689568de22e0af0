"""Adversarial exits: heads that learn a sensitive label from what would be released, so that the front can unlearn it.

**Letters.** ``z`` what is released of an image, ``s`` its sensitive label (one of S classes), ``y`` its desired label,
``D(s | z)`` an exit's answer. ``p`` are shares in the training images. Further shape letters: ``O``, ``N`` see
:mod:`smartedge.models.seen`; ``Y`` desired classes (1 where the exit is not shown the desired label).

**What an exit learns.** Weighted cross-entropy ``E[w(s, y) · −log D(s | z, y)]``. Its minimum is
``D ∝ p(s | z, y) · w(s, y)``, so an exit that finds nothing in z answers ``t(s | y) ∝ p(s | y) · w(s, y)``. Whatever
the weights, that answer is the target to which the front must drive the exit: a term that pulls elsewhere than t would
ask the front to *write* something about s into z.

**The confusion terms.**

===============  =====================================  ==================  =======================================
``confusion``    exit sees, learns with                 so t is             the front minimises
===============  =====================================  ==================  =======================================
``minimax``      z, w(s) = 1 / (S p(s))                 (equal shares)      −weighted cross-entropy
                                                                            (Ganin & Lempitsky 2015)
``uniform``      z, w(s) = 1 / (S p(s))                 equal shares        KL(t ‖ D)
``prior``        z, w = 1                               p(s)                KL(t ‖ D)
``conditional``  z and y, w(s, y) = 1 / (S p(s | y))    equal shares        KL(t ‖ D)
===============  =====================================  ==================  =======================================

The first three want z independent of s. Where s and y correlate, that contradicts the task: z must tell y, and y tells
something about s. ``conditional`` wants z independent of s *given* y: at its optimum an attacker learns nothing about s
beyond what the desired label itself tells (the label floor), and the desired label is not fought. With weights that
balance the sensitive classes within every desired class, that is "equal shares", and rare combinations count as much
as common ones. A combination that does not occur in training has weight and target 0. KL has the target first: its
gradient by the exit's logits is ``D − t``, which does not vanish where the exit is sure of itself.

**Multi-label tasks** have too many combinations of y to count. There ``conditional`` learns without weights, the exit's
logits are those of a small head on the labels alone plus what the exit finds, and the label head's answer ``q(s | y)``,
which is trained along, is the target t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.models.exits import TaskExit, tensor_layout
from smartedge.models.seen import Seen
from smartedge.types import Task

__all__ = [
    "AdversarialExit",
    "Adversaries",
    "Balance",
    "adversary_losses",
    "balance",
    "confusion_losses",
    "hsic",
    "weight_at",
]

_WIDTH = 128  # of the convolutional and token-wise exits
_MLP_WIDTH = 256
_MLP_INPUTS = 4096  # larger maps are pooled before the fully connected exit
_BLOCKS = 3  # of the deep exit
_HEAVIEST = 20.0  # weight of a rare combination at most; the target follows, see balance()


# -- weights and targets


@dataclass(frozen=True)
class Balance:
    """Weights of an exit's loss and the answer of an exit that finds nothing, float32 (Y, S) each."""

    weights_YS: Tensor
    targets_YS: Tensor

    def rows(self, table_YS: Tensor, desired_B: Tensor | None) -> Tensor:
        """The row of each image, (B, S), or (1, S) where all have the same."""
        return table_YS if desired_B is None or len(table_YS) == 1 else table_YS[desired_B]


def balance(counts_YS: Tensor, confusion: str) -> Balance:
    """Weights and targets of one sensitive column.

    Args:
        counts_YS: how many training images have each combination of desired and sensitive class; Y is 1 where the
            exit is not shown the desired label.
        confusion: ``prior`` does not weight, the others balance the sensitive classes in each row. A weight is at most
            20; the targets are then those of the weights in force, as the module's text derives.
    """
    shares_YS = counts_YS.float() / counts_YS.sum(dim=1, keepdim=True).clamp(min=1)
    present_YS = (counts_YS > 0).float()
    if confusion == "prior":
        weights_YS = present_YS
    else:
        kinds_Y1 = present_YS.sum(dim=1, keepdim=True).clamp(min=1)
        weights_YS = (present_YS / (kinds_Y1 * shares_YS.clamp(min=1e-12))).clamp(max=_HEAVIEST)
    tilted_YS = shares_YS * weights_YS
    return Balance(weights_YS, tilted_YS / tilted_YS.sum(dim=1, keepdim=True).clamp(min=1e-12))


def adversary_losses(logits_BOS: Tensor, sensitive_B: Tensor, weights_BS: Tensor) -> Tensor:
    """Weighted cross-entropy of every image and outcome, (B, O): what an exit minimises."""
    found_BOS = F.log_softmax(logits_BOS.float(), dim=2)
    weights_B = weights_BS.expand(len(sensitive_B), -1).gather(1, sensitive_B[:, None]).squeeze(1)
    index_BO1 = sensitive_B[:, None, None].expand(*found_BOS.shape[:2], 1)
    return -weights_B[:, None] * found_BOS.gather(2, index_BO1).squeeze(2)


def confusion_losses(
    logits_BOS: Tensor, sensitive_B: Tensor, weights_BS: Tensor, targets_BS: Tensor, confusion: str
) -> Tensor:
    """What the front minimises, of every image and outcome, (B, O).

    ``minimax``: the negative of the exit's own loss. Otherwise ``KL(t ‖ D)``, 0 where the exit answers its target.

    Args:
        logits_BOS: an exit's answers.
        sensitive_B: int64 sensitive labels; only ``minimax`` looks at them.
        weights_BS: of the exit's loss, or (1, S).
        targets_BS: rows of t, or (1, S).
        confusion: one of the four terms.
    """
    if confusion == "minimax":
        return -adversary_losses(logits_BOS, sensitive_B, weights_BS)
    found_BOS = F.log_softmax(logits_BOS.float(), dim=2)
    targets_B1S = targets_BS[:, None, :]
    return (torch.xlogy(targets_B1S, targets_B1S) - targets_B1S * found_BOS).sum(dim=2)


def weight_at(step: int, steps: int, *, weight: float, warmup: float) -> float:
    """λ at a step (counted from 0) of the front's ``steps``: from 0 to ``weight`` over the share ``warmup``."""
    rising = warmup * steps
    return weight if step >= rising else weight * step / rising


def hsic(similarities_BB: Tensor, sensitive_B: Tensor, groups_B: Tensor | None = None) -> Tensor:
    """Kernel dependence of what is released on the sensitive label: ``tr(K H L H) / (m − 1)²``, a scalar ≥ 0.

    The biased estimator of Gretton et al. 2005 (eq. 9), with ``L`` the kernel that compares labels for equality and
    ``H = I − 1/m``. It is 0 for an infinite sample only where the two are independent (the kernel on z is
    characteristic).

    Args:
        similarities_BB: K, see :meth:`smartedge.models.seen.Seen.similarities`.
        sensitive_B: int64 labels.
        groups_B: int64; then dependence *within* each group (a desired class), averaged with the groups' sizes as
            weights. Groups of fewer than 4 images, or of one sensitive class, have nothing to say and count as 0.
    """
    total = similarities_BB.new_zeros(())
    groups = [None] if groups_B is None else [int(group) for group in groups_B.unique()]
    for group in groups:
        rows = torch.arange(len(sensitive_B), device=sensitive_B.device)
        rows = rows if group is None else rows[groups_B == group]
        size = len(rows)
        if size < 4:
            continue
        kernel_mm = similarities_BB[rows][:, rows]
        same_mm = (sensitive_B[rows, None] == sensitive_B[None, rows]).float()
        centred_mm = same_mm - same_mm.mean(dim=0, keepdim=True)
        centred_mm = centred_mm - centred_mm.mean(dim=1, keepdim=True)
        # tr(K H L H) = sum of K * (H L H), both symmetric.
        total = total + size / len(sensitive_B) * (kernel_mm * centred_mm).sum() / (size - 1) ** 2
    return total


# -- the exits


class AdversarialExit(nn.Module):
    """A head (B, *F) → logits of a sensitive column.

    Args:
        shape: ``linear``: one layer on the flattened features. ``mlp``: two hidden layers on them, pooled first where
            they are more than 4096 numbers. ``conv``: the task exit's form. ``deep``: three residual blocks of two
            convolutions (tokens: of mixing over tokens, and a token-wise layer), so that it can find what the others
            cannot. A vector (D,), such as a codeword, is one token.
        feature_shape: F at the cut.
        classes: S.
        desired: classes Y of the desired label that it is shown, with a classifier for each; 0: it is not shown.
        label_columns: of a multi-label task that it is shown, as inputs of the last layer.
    """

    def __init__(
        self, shape: str, feature_shape: tuple[int, ...], classes: int, *, desired: int = 0, label_columns: int = 0
    ) -> None:
        super().__init__()
        self.classes = classes
        self.desired = desired
        self.label_columns = label_columns
        self.hidden, width = _trunk(shape, feature_shape)
        self.classify = nn.Linear(width, classes * max(1, desired))
        self.shown = nn.Linear(label_columns, classes, bias=False) if label_columns else None

    def forward(self, seen: Seen, desired: Tensor | None = None) -> Tensor:
        """Logits (B, O, S) for released features; ``desired``: int64 (B,) or float32 (B, K), where it is shown."""
        answers_NX = self.classify(self.hidden(seen.features_NF))
        if self.desired:
            assert desired is not None
            answers_BOYS = seen.paired(answers_NX.unflatten(1, (self.desired, self.classes)))
            index_BO1S = desired[:, None, None, None].expand(*answers_BOYS.shape[:2], 1, self.classes)
            return answers_BOYS.gather(2, index_BO1S).squeeze(2)
        logits_BOS = seen.paired(answers_NX)
        if self.shown is not None:
            assert desired is not None
            logits_BOS = logits_BOS + self.shown(desired)[:, None, :]
        return logits_BOS


class Adversaries(nn.Module):
    """One exit per shape and sensitive column, and what they are trained with.

    Args:
        shapes: of the exits.
        feature_shape: F at the cut.
        task: the desired label's.
        columns: the sensitive labels' tasks, by column.
        desired: desired labels of the training images, as in the task.
        sensitive: column → int64 sensitive labels of the same images.
        confusion: ``conditional``, ``prior``, ``uniform`` or ``minimax``.
        seed: of the initial parameters. The global random state is left as it was.
    """

    def __init__(
        self,
        shapes: Sequence[str],
        feature_shape: tuple[int, ...],
        task: Task,
        columns: Mapping[str, Task],
        desired: Tensor,
        sensitive: Mapping[str, Tensor],
        *,
        confusion: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.feature_shape = feature_shape
        self.confusion = confusion
        self.columns = tuple(columns)
        self.classes = tuple(columns[column].outputs for column in self.columns)
        self.shown = task.outputs if confusion == "conditional" else 0
        self.by_vector = confusion == "conditional" and task.kind == "multi"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # By number, not by name: a column's name stays out of everything that is written.
            self.exits = nn.ModuleList(
                nn.ModuleList(self._new_exit(shape, classes) for classes in self.classes) for shape in self.shapes
            )
            self.label_heads = nn.ModuleList(
                nn.Sequential(nn.Linear(self.shown, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, classes))
                for classes in self.classes
                if self.by_vector and self.shapes
            )
        self.balances = []
        for column, classes in zip(self.columns, self.classes, strict=True):
            rows = desired if self.shown and not self.by_vector else torch.zeros(len(desired), dtype=torch.int64)
            counts_YS = torch.zeros(max(1, self.shown) if not self.by_vector else 1, classes)
            counts_YS.index_put_((rows, sensitive[column]), torch.ones(len(rows)), accumulate=True)
            self.balances.append(balance(counts_YS, "prior" if self.by_vector else confusion))

    def loss(self, seen: Seen, desired: Tensor, sensitive: Mapping[str, Tensor]) -> Tensor:
        """What the exits minimise: the mean over shapes and images of the sum over columns.

        Args:
            seen: released features, detached from the front.
            desired: int64 (B,) or float32 (B, K).
            sensitive: column → int64 (B,).
        """
        total = seen.features_NF.new_zeros(())
        for column, logits_BOS, weights_BS, _ in self._answers(seen, desired):
            losses_BO = adversary_losses(logits_BOS, sensitive[column], weights_BS)
            total = total + seen.expect(losses_BO).mean()
        total = total / max(1, len(self.shapes))
        for head, column in zip(self.label_heads, self.columns, strict=False):
            total = total + F.cross_entropy(head(desired), sensitive[column])
        return total

    def confuse(self, seen: Seen, desired: Tensor, sensitive: Mapping[str, Tensor]) -> Tensor:
        """What the front minimises: the mean over shapes and images of the sum over columns; differentiable in z."""
        total = seen.features_NF.new_zeros(())
        for column, logits_BOS, weights_BS, targets_BS in self._answers(seen, desired):
            losses_BO = confusion_losses(logits_BOS, sensitive[column], weights_BS, targets_BS, self.confusion)
            total = total + seen.expect(losses_BO).mean()
        return total / max(1, len(self.shapes))

    def depend(self, seen: Seen, desired: Tensor, sensitive: Mapping[str, Tensor]) -> Tensor:
        """Sum over columns of :func:`hsic`: within each desired class, or over all images of a multi-label task."""
        similarities_BB = seen.similarities()
        groups_B = desired if desired.dim() == 1 else None
        terms = [hsic(similarities_BB, sensitive[column], groups_B) for column in self.columns]
        return torch.stack(terms).sum()

    def restart(self, turn: int, seed: int, optimizer: torch.optim.Optimizer) -> None:
        """Shape number ``turn`` (modulo their number) starts anew, for all columns; so does its optimizer state."""
        if not self.shapes:
            return
        place = turn % len(self.shapes)
        exits = self.exits[place]
        assert isinstance(exits, nn.ModuleList)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for old, classes in zip(exits, self.classes, strict=True):
                old.load_state_dict(self._new_exit(self.shapes[place], classes).state_dict())
        for parameter in exits.parameters():
            optimizer.state.pop(parameter, None)

    def _new_exit(self, shape: str, classes: int) -> AdversarialExit:
        given = {"label_columns" if self.by_vector else "desired": self.shown}
        return AdversarialExit(shape, self.feature_shape, classes, **given)

    def _answers(self, seen: Seen, desired: Tensor) -> list[tuple[str, Tensor, Tensor, Tensor]]:
        """Of every exit: its column, logits (B, O, S), weights and targets (B, S) or (1, S)."""
        found = []
        for exits in self.exits:
            assert isinstance(exits, nn.ModuleList)
            for number, (column, one) in enumerate(zip(self.columns, exits, strict=True)):
                table, device = self.balances[number], seen.features_NF.device
                desired_B = desired if self.shown and not self.by_vector else None
                weights_BS = table.rows(table.weights_YS.to(device), desired_B)
                targets_BS = table.rows(table.targets_YS.to(device), desired_B)
                logits_BOS = one(seen, desired if self.shown else None)
                if self.by_vector:
                    offset_BS = F.log_softmax(self.label_heads[number](desired).detach(), dim=1)
                    logits_BOS, targets_BS = logits_BOS + offset_BS[:, None, :], offset_BS.exp()
                found.append((column, logits_BOS, weights_BS, targets_BS))
        return found


# -- their bodies: (N, *F) → (N, D)


def _trunk(shape: str, feature_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    if shape == "linear":
        return nn.Flatten(), prod(feature_shape)
    if shape == "mlp":
        pool, inputs = _pooled(feature_shape)
        layers = [nn.Linear(inputs, _MLP_WIDTH), nn.LayerNorm(_MLP_WIDTH), nn.GELU()]
        layers += [nn.Linear(_MLP_WIDTH, _MLP_WIDTH), nn.LayerNorm(_MLP_WIDTH), nn.GELU()]
        return nn.Sequential(pool, *layers), _MLP_WIDTH
    if shape == "conv":
        head = TaskExit(feature_shape, 1, width=_WIDTH, depth=2)
        head.classify = nn.Identity()  # type: ignore[assignment]
        return head, _WIDTH
    assert shape == "deep"
    if tensor_layout(feature_shape) == "td":
        return _DeepTokens(feature_shape), _WIDTH
    return _DeepMaps(feature_shape), _WIDTH


def _pooled(feature_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Features flattened, by way of mean pooling where they are many; and how many numbers are left."""
    if prod(feature_shape) <= _MLP_INPUTS or len(feature_shape) == 1:
        return nn.Flatten(), prod(feature_shape)
    if len(feature_shape) == 2:  # tokens: neighbours are averaged
        tokens = max(1, _MLP_INPUTS // feature_shape[1])
        return nn.Sequential(nn.AdaptiveAvgPool2d((tokens, feature_shape[1])), nn.Flatten()), tokens * feature_shape[1]
    last = tensor_layout(feature_shape) == "hwc"
    channels, height, width = (feature_shape[2], *feature_shape[:2]) if last else feature_shape
    side = max(1, int((_MLP_INPUTS / channels) ** 0.5))
    size = (min(side, height), min(side, width))
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(size), nn.Flatten()]
    return nn.Sequential(*([_ChannelsFirst()] if last else []), *pool), channels * size[0] * size[1]


class _ChannelsFirst(nn.Module):
    def forward(self, features_BHWC: Tensor) -> Tensor:
        return features_BHWC.permute(0, 3, 1, 2)


class _DeepMaps(nn.Module):
    """A convolution, residual blocks of two (stride 2 while the map is larger than 4×4), mean pooling."""

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        super().__init__()
        last = tensor_layout(feature_shape) == "hwc"
        channels, side = (feature_shape[2], feature_shape[0]) if last else feature_shape[:2]
        blocks: list[nn.Module] = [_ChannelsFirst()] if last else []
        blocks += [nn.Conv2d(channels, _WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(_WIDTH), nn.ReLU(inplace=True)]
        for _ in range(_BLOCKS):
            stride = 2 if side > 4 else 1
            blocks.append(_MapBlock(stride))
            side = -(-side // stride)
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, features_BF: Tensor) -> Tensor:
        pooled: Tensor = self.blocks(features_BF)
        return pooled


class _MapBlock(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
        )
        self.skip = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        return F.relu(self.body(maps_BCHW) + self.skip(maps_BCHW))


class _DeepTokens(nn.Module):
    """A linear layer, residual blocks that mix over tokens and then within each, mean over tokens."""

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        super().__init__()
        tokens = feature_shape[0] if len(feature_shape) == 2 else 1
        self.widen = nn.Linear(feature_shape[-1], _WIDTH)
        self.blocks = nn.Sequential(*(_TokenBlock(tokens) for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, features_BF: Tensor) -> Tensor:
        tokens_BTD = features_BF if features_BF.dim() == 3 else features_BF.unsqueeze(1)
        mixed_BTD: Tensor = self.norm(self.blocks(self.widen(tokens_BTD)))
        return mixed_BTD.mean(dim=1)


class _TokenBlock(nn.Module):
    """After Tolstikhin et al. 2021 (MLP-Mixer); a single token is not mixed."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        mix = [nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)]
        self.before = nn.LayerNorm(_WIDTH) if tokens > 1 else None
        self.mix = nn.Sequential(*mix) if tokens > 1 else None
        self.within = nn.Sequential(
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, _WIDTH)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.before is not None and self.mix is not None:
            x_BTD = x_BTD + self.mix(self.before(x_BTD).transpose(1, 2)).transpose(1, 2)
        within_BTD: Tensor = self.within(x_BTD)
        return x_BTD + within_BTD
