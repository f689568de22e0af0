"""A finished run, ready to answer: its facts, and its front run by torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from smartedge.artifacts.run import SharedRun
from smartedge.artifacts.summary import EdgeSummary, has_finished
from smartedge.artifacts.task import TaskFacts
from smartedge.cloud.store.feature_log import FeatureReader, edges_of, log_folder
from smartedge.config import Config, config_of_agreement, load_run_config
from smartedge.errors import RunError
from smartedge.methods.base import get_method
from smartedge.methods.mechanism import mechanism_of
from smartedge.models.blueprint import Blueprint, of_a_run
from smartedge.types import Features, StreamHeader, Task
from smartedge.wire.frame import settings_in

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["TorchFront", "TrainedRun", "load_part"]

_BATCH = 64


@dataclass(frozen=True)
class TrainedRun:
    """A finished hierarchical run, ready to answer.

    Attributes:
        folder: the run directory.
        config: the run's settings.
        task: what the run learned.
        agreement: the settings on which edge and cloud agreed.
    """

    folder: Path
    config: Config
    task: Task
    agreement: dict[str, JsonValue]

    @classmethod
    def open(cls, folder: Path) -> TrainedRun:
        """Read the facts of a run directory: ``shared/run.json``, and ``config.yaml`` where it is there.

        Where the cloud alone has run in it, what the edges said when they connected takes the place of the first.
        Names of classes stay on the edge. Without its folder the classes are called 0, 1, 2, …

        Raises:
            RunError: it holds no finished hierarchical run.
            LogError: what the edges said cannot be read.
        """
        file = folder / "shared" / "run.json"
        own = load_run_config(folder) if (folder / "config.yaml").exists() or not file.exists() else None
        said = None if own is None or file.exists() or (folder / "edge").exists() else _said(folder, own.model.cut)
        shared = SharedRun.read(file) if said is None or own is None else _facts(said, own)
        config = own or config_of_agreement(shared.settings)
        if not get_method(config.method).has_exit:
            raise RunError(
                f"{folder}: was trained with method {config.method!r}, which has no exit on the edge; "
                "'infer', 'serve' and 'export' need a run of method 'hierarchical'"
            )
        summary = folder / "edge" / "summary.json"
        known = EdgeSummary.read(summary).task if summary.exists() else shared.task
        task = Task(known.kind, known.columns, known.names)
        return cls(folder, config, task, dict(shared.settings))

    def check_front(self) -> None:
        """Look whether the edge's half of the run is here, without reading its weights.

        Raises:
            RunError: it is not.
        """
        if not (self.folder / "edge" / "front.safetensors").exists():
            raise RunError(
                f"{self.folder / 'edge'}: there is no trained front here; use the folder of the edge's machine, to "
                "which 'smartedge collect' brings the cloud's half"
            )

    def check_back(self) -> None:
        """Look whether the cloud has finished the run, without reading its weights.

        Raises:
            RunError: it has not, or its folder is not there.
        """
        if not has_finished(self.folder / "cloud"):
            raise RunError(
                f"{self.folder / 'cloud'}: the cloud has not finished this run, or is elsewhere; finish the run, or "
                "copy cloud/ there"
            )

    @property
    def blueprint(self) -> Blueprint:
        """Of its network, whose weights are in its folder."""
        return of_a_run(self.config.division(self.task.outputs), pretrained="weights" in self.agreement)


def _said(folder: Path, cut: str) -> StreamHeader | None:
    """What the first edge with this cut said when it connected; None: no such edge is in the cloud's store."""
    cloud = folder / "cloud"
    for edge in edges_of(cloud):
        for header in FeatureReader(log_folder(cloud, edge), edge).streams[:1]:
            model = settings_in(header.agreement).get("model")
            if isinstance(model, dict) and model.get("cut") == cut:
                return header
    return None


def _facts(said: StreamHeader, config: Config) -> SharedRun:
    """What ``shared/run.json`` says, with numbers for the names of classes."""
    desired = config.data.desired
    columns = (desired,) if isinstance(desired, str) else tuple(desired)
    names = columns if said.task_kind == "multi" else tuple(map(str, range(said.outputs)))
    task = TaskFacts(kind=said.task_kind, columns=columns, names=names)
    return SharedRun(settings=settings_in(said.agreement), task=task, feature_shape=said.feature_shape)


class TorchFront:
    """Front and task exit of a run, with their final weights. It is a :class:`smartedge.inference.answering.Front`.

    They run on the CPU.

    Args:
        run: with its edge's folder.

    Raises:
        RunError: weights are missing, or of another network.
    """

    def __init__(self, run: TrainedRun) -> None:
        from smartedge.models.network import divide

        divided = divide(run.blueprint)
        self.front, self.task_exit = divided.front.eval(), divided.task_exit.eval()
        load_part(self.front, run.folder / "edge" / "front.safetensors")
        load_part(self.task_exit, run.folder / "edge" / "exit.safetensors")
        self.config, self.task, self.agreement = run.config, run.task, run.agreement
        self.feature_shape = divided.feature_shape
        self.mechanism = mechanism_of(run.config, self.feature_shape)

    def features(self, images_BCHW: NDArray[np.uint8]) -> Features:
        """uint8 (B, 3, H, W) → bounded features, float32 (B, *F).

        Where releases are random, the front takes one image at a time. In a batch, the last bits of the features depend
        on the other images; the same image in another batch would then be a new release.
        """
        import torch

        size = _BATCH if self.mechanism.words_per_image == 0 else 1
        with torch.no_grad():
            parts = [self._features(part).numpy() for part in torch.from_numpy(images_BCHW).split(size)]
        return np.concatenate(parts)

    def logits(self, features_BF: Features, *, released: bool) -> NDArray[np.float32]:
        """The exit's logits, float32 (B, K): see :meth:`smartedge.fronts.runtime.OnnxFront.logits`."""
        import torch

        from smartedge.methods.front_step import exit_logits

        mechanism = None if released else self.mechanism
        with torch.no_grad(), self._autocast(enabled=not released):
            logits_BK = exit_logits(self.task_exit, mechanism, torch.from_numpy(features_BF), self.task.kind)
        return np.asarray(logits_BK.numpy(), dtype=np.float32)

    def _features(self, images_BCHW: Tensor) -> Tensor:
        import torch

        from smartedge.methods.differentiable import differentiable
        from smartedge.models.network import to_input

        with self._autocast():
            features_BF = self.front(to_input(images_BCHW, torch.device("cpu")))
            return differentiable(self.mechanism).bound(features_BF.float()).float()

    def _autocast(self, *, enabled: bool = True) -> torch.autocast:
        import torch

        from smartedge.methods.options import autocast

        return autocast(torch.device("cpu"), self.config.train.precision if enabled else "float32")


def load_part(module: nn.Module, path: Path) -> None:
    """Give a part of the network its final weights.

    Raises:
        RunError: the file is not there, is damaged, or holds another network.
    """
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path}: the weights cannot be loaded ({error})") from error
