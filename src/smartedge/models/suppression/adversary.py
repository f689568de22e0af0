"""Adversarial exits: heads that learn a sensitive label from what would be released, so that the front can unlearn it.

:mod:`smartedge.models.suppression.confusion` derives what they learn and what the front minimises, and explains the
letters. :mod:`smartedge.models.suppression.trunk` has their bodies. ``N`` is explained in
:mod:`smartedge.models.released`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartedge.models.layout import Layout, known_layout
from smartedge.models.released import SimulatedRelease
from smartedge.models.suppression.confusion import adversary_losses, balance, confusion_losses, hsic
from smartedge.models.suppression.trunk import WIDTH, trunk
from smartedge.types import Task

__all__ = ["AdversarialExit", "Adversaries", "TrainingLabels"]


class AdversarialExit(nn.Module):
    """A head (B, *F) → logits of a sensitive column.

    Args:
        shape: ``linear``: one layer on the flattened features. ``mlp``: two hidden layers on the flattened features;
            more than 4096 numbers are pooled first. ``conv``: the form of the task exit. ``deep``: three residual
            blocks, each of two convolutions (of tokens: one layer over the tokens and one within each). A vector
            (D,), such as a codeword, is one token.
        feature_shape: F at the cut.
        classes: number S of sensitive classes.
        desired: number Y of desired classes, if the exit is shown the desired label; it then has one classifier for
            each. 0: it is not shown.
        label_columns: number of label columns of a multi-label task, if the exit is shown them; they are inputs of
            the last layer.
        layout: of the tensor, as the cut states it; None: as its shape suggests.
    """

    def __init__(
        self,
        shape: str,
        feature_shape: tuple[int, ...],
        classes: int,
        *,
        desired: int = 0,
        label_columns: int = 0,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.desired = desired
        self.label_columns = label_columns
        self.hidden, width = trunk(shape, feature_shape, known_layout(feature_shape, layout))
        self.classify = nn.Linear(width, classes * max(1, desired))
        self.shown = nn.Linear(label_columns, classes, bias=False) if label_columns else None

    def forward(self, released: SimulatedRelease, desired: Tensor | None = None) -> Tensor:
        """Logits (B, O, S) for released features. ``desired``: int64 (B,) or float32 (B, K), if it is shown."""
        answers_NX = self.classify(self.hidden(released.features_NF))
        if self.desired:
            assert desired is not None
            answers_BOYS = released.paired(answers_NX.unflatten(1, (self.desired, self.classes)))
            index_BO1S = desired[:, None, None, None].expand(*answers_BOYS.shape[:2], 1, self.classes)
            return answers_BOYS.gather(2, index_BO1S).squeeze(2)
        logits_BOS = released.paired(answers_NX)
        if self.shown is not None:
            assert desired is not None
            logits_BOS = logits_BOS + self.shown(desired)[:, None, :]
        return logits_BOS


@dataclass(frozen=True)
class TrainingLabels:
    """The labels of the images from which adversarial exits learn: what they mean, and what they are."""

    task: Task  # the desired label's
    desired: Tensor  # int64 (N,) or float32 (N, K), as in the task
    columns: Mapping[str, Task]  # the sensitive labels' tasks, by column
    sensitive: Mapping[str, Tensor]  # column → int64 (N,), of the same images


class Adversaries(nn.Module):
    """One adversarial exit for each shape and sensitive column, and their losses.

    Args:
        shapes: of the exits.
        feature_shape: F at the cut.
        labels: of the training images.
        confusion: ``conditional``, ``prior``, ``uniform`` or ``minimax``.
        seed: of the initial parameters. The global random state is left as it was.
        layout: of the tensor at the cut; None: as its shape suggests.
    """

    def __init__(
        self,
        shapes: Sequence[str],
        feature_shape: tuple[int, ...],
        labels: TrainingLabels,
        *,
        confusion: str,
        seed: int,
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.feature_shape = feature_shape
        self.layout = layout
        self.confusion = confusion
        task, columns = labels.task, labels.columns
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
                nn.Sequential(nn.Linear(self.shown, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))
                for classes in self.classes
                if self.by_vector and self.shapes
            )
        self.balances = []
        for column, classes in zip(self.columns, self.classes, strict=True):
            desired = labels.desired
            rows = desired if self.shown and not self.by_vector else torch.zeros(len(desired), dtype=torch.int64)
            counts_YS = torch.zeros(max(1, self.shown) if not self.by_vector else 1, classes)
            counts_YS.index_put_((rows, labels.sensitive[column]), torch.ones(len(rows)), accumulate=True)
            self.balances.append(balance(counts_YS, "prior" if self.by_vector else confusion))

    def loss(self, released: SimulatedRelease, desired: Tensor, sensitive: Mapping[str, Tensor]) -> Tensor:
        """What the exits minimise: the mean over shapes and images of the sum over columns.

        Args:
            released: released features, detached from the front.
            desired: int64 (B,) or float32 (B, K).
            sensitive: column → int64 (B,).
        """
        total = released.features_NF.new_zeros(())
        for column, logits_BOS, weights_BS, _ in self._answers(released, desired):
            losses_BO = adversary_losses(logits_BOS, sensitive[column], weights_BS)
            total = total + released.expect(losses_BO).mean()
        total = total / max(1, len(self.shapes))
        for head, column in zip(self.label_heads, self.columns, strict=False):
            total = total + F.cross_entropy(head(desired), sensitive[column])
        return total

    def confuse(self, released: SimulatedRelease, desired: Tensor, sensitive: Mapping[str, Tensor]) -> Tensor:
        """What the front minimises: the mean over shapes and images of the sum over columns; differentiable in z."""
        total = released.features_NF.new_zeros(())
        for column, logits_BOS, weights_BS, targets_BS in self._answers(released, desired):
            losses_BO = confusion_losses(logits_BOS, sensitive[column], weights_BS, targets_BS, self.confusion)
            total = total + released.expect(losses_BO).mean()
        return total / max(1, len(self.shapes))

    def depend(self, released: SimulatedRelease, desired: Tensor, sensitive: Mapping[str, Tensor]) -> Tensor:
        """Sum over columns of :func:`hsic`: within each desired class, or over all images of a multi-label task."""
        similarities_BB = released.similarities()
        groups_B = None if desired.dim() == 2 else desired  # (B, K) of a multi-label task
        terms = [hsic(similarities_BB, sensitive[column], groups_B) for column in self.columns]
        return torch.stack(terms).sum()

    def restart(self, turn: int, seed: int, optimizer: torch.optim.Optimizer) -> None:
        """Give the exits of one shape, number ``turn`` modulo the number of shapes, new parameters for all columns.

        The new parameters follow from ``seed``. The optimizer forgets the old ones.
        """
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
        return AdversarialExit(shape, self.feature_shape, classes, layout=self.layout, **given)

    def _answers(self, released: SimulatedRelease, desired: Tensor) -> list[tuple[str, Tensor, Tensor, Tensor]]:
        """For every exit: its column, its logits (B, O, S), the weights and the targets, (B, S) or (1, S)."""
        found = []
        for exits in self.exits:
            assert isinstance(exits, nn.ModuleList)
            for number, (column, one) in enumerate(zip(self.columns, exits, strict=True)):
                table, device = self.balances[number], released.features_NF.device
                desired_B = desired if self.shown and not self.by_vector else None
                weights_BS = table.rows(table.weights_YS.to(device), desired_B)
                targets_BS = table.rows(table.targets_YS.to(device), desired_B)
                logits_BOS = one(released, desired if self.shown else None)
                if self.by_vector:
                    offset_BS = F.log_softmax(self.label_heads[number](desired).detach(), dim=1)
                    logits_BOS, targets_BS = logits_BOS + offset_BS[:, None, :], offset_BS.exp()
                found.append((column, logits_BOS, weights_BS, targets_BS))
        return found
