"""The methods: their interface, and the table of all of them.

A method says what the edge does with a batch, what is sent, and what the cloud does with a frame. Its facts stand in
the table below; the settings, the runner and the links ask for them. Its behaviour stands in a module of its own, which
is imported when it is first needed. So this file needs no torch.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

from smartedge.images.size import RGB

if TYPE_CHECKING:
    import torch
    from torch import nn

    from smartedge.config import Config
    from smartedge.data import DataSet
    from smartedge.methods.learner import Learner
    from smartedge.models.network import EdgeParts
    from smartedge.types import Task

__all__ = ["METHODS", "Method", "encodes_images", "get_method"]


class _Behaviour(Protocol):
    """The functions that the module of a method defines."""

    def edge(
        self, config: Config, task: Task, device: torch.device, dataset: DataSet | None, parts: EdgeParts | None
    ) -> Learner:
        """The learner that the edge runs."""

    def cloud(self, config: Config, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
        """The network that the cloud trains, and the shape F of its inputs. Only for methods that send."""


@dataclass(frozen=True)
class Method:
    """The facts of a method, and the way to its behaviour.

    Attributes:
        name: as in the setting ``method``.
        module: where its behaviour is, see :class:`_Behaviour`.
        sends: feature maps, images as they are, or nothing.
        codec: the default codec. None: ``code`` for codewords, ``uint8`` for other features.
        answered: the cloud answers each training frame with the gradient at the cut, and the edge waits for it.
        has_exit: the front learns from an exit on the edge. Only such a front can be protected. Only such a
            front can be trained before anything is sent.
    """

    name: str
    module: str
    sends: Literal["features", "images", "nothing"]
    codec: str | None = None
    answered: bool = False
    has_exit: bool = False

    @property
    def has_cloud(self) -> bool:
        """Whether there is a cloud to send to."""
        return self.sends != "nothing"

    @property
    def divides(self) -> bool:
        """Whether the network is divided between edge and cloud."""
        return self.sends == "features"

    @property
    def heads(self) -> dict[str, str]:
        """The heads ``exit`` and ``back``, as people read of them."""
        if not self.has_cloud:
            return dict.fromkeys(("exit", "back"), "whole network (edge)")
        return {"exit": "exit (edge)", "back": "back (cloud)" if self.divides else "whole network (cloud)"}

    @property
    def wire_dtype(self) -> Literal["float32", "uint8"]:
        """The dtype of what is sent, before the codec."""
        return "uint8" if self.sends == "images" else "float32"

    def usual_codec(self, config: Config) -> str:
        """The codec where the settings name none."""
        return self.codec or ("uint8" if config.model.codebook is None else "code")

    def edge(
        self,
        config: Config,
        task: Task,
        device: torch.device,
        dataset: DataSet | None = None,
        parts: EdgeParts | None = None,
    ) -> Learner:
        """The learner that the edge runs.

        Args:
            config: the run's settings.
            task: what the desired labels mean.
            device: where it computes.
            dataset: holds the sensitive labels that adversarial exits learn. Needed where there are such exits.
            parts: front and exit, where another process has divided the network (:mod:`smartedge.edge.apart`).
        """
        return self._behaviour().edge(config, task, device, dataset, parts)

    def cloud(self, config: Config, outputs: int) -> tuple[nn.Module, tuple[int, ...]]:
        """The network that the cloud trains, and the shape F of its inputs."""
        return self._behaviour().cloud(config, outputs)

    def problems(self, config: Config) -> list[str]:
        """Settings that do not go with this method, each as ``key: what is wrong; what to do``."""
        problems = []
        codec = config.codec.name
        if codec is not None and self.sends == "images" and not encodes_images(codec):
            problems.append(
                f"codec.name: method '{self.name}' uploads images, which '{codec}' does not encode; "
                "use 'image' or 'jpeg'"
            )
        if codec not in (None, "image") and self.sends == "images" and config.data.image_size.channels != RGB:
            problems.append(
                f"codec.name: '{codec}' encodes pictures of three channels, and data.image_size asks for "
                f"{config.data.image_size.channels}; use 'image'"
            )
        if codec is not None and self.sends == "features" and encodes_images(codec):
            problems.append(
                f"codec.name: '{codec}' encodes images, but method '{self.name}' sends feature maps; use 'uint8'"
            )
        if codec == "code" and self.sends == "features" and config.model.codebook is None:
            problems.append("codec.name: 'code' encodes codewords; set model.codebook, which makes them, or 'uint8'")
        if codec == "learned" and self.sends == "features" and not self.has_exit:
            problems.append(
                f"codec.name: 'learned' needs a front that learns from an exit, and method '{self.name}' has none; "
                "use 'uint8', or method 'hierarchical'"
            )
        if not self.has_exit:
            if config.suppresses:
                problems.append(f"adversary: method '{self.name}' has no front of its own to protect; remove it")
            if config.train.distill.epochs:
                problems.append(f"train.distill: method '{self.name}' has no task exit to teach; remove it")
            if config.dp.mechanism != "none" or config.dp.label_epsilon is not None:
                problems.append(f"dp: only for method 'hierarchical', not '{self.name}'; remove it")
        return problems

    def _behaviour(self) -> _Behaviour:
        return cast(_Behaviour, importlib.import_module(self.module))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("hierarchical", "smartedge.methods.hierarchical", sends="features", has_exit=True),
        Method("upload", "smartedge.methods.upload", sends="images", codec="image"),
        Method("split", "smartedge.methods.split", sends="features", codec="float32", answered=True),
        Method("local", "smartedge.methods.local", sends="nothing"),
    )
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        KeyError: there is none. The settings check the name before.
    """
    return METHODS[name]


def encodes_images(codec: str) -> bool:
    """Whether the codec of this name encodes images; the others encode feature maps."""
    return re.fullmatch(r"image|jpeg|(jpeg|webp|avif)-[0-9]+", codec) is not None
