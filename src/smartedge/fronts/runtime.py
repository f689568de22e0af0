"""Runs a published front by ONNX Runtime: features of images, and the exit's answers."""

from __future__ import annotations

from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from smartedge import metrics
from smartedge.artifacts.front import FrontManifest
from smartedge.errors import FrontError
from smartedge.fronts.bundle import EXIT, FRONT, PublishedFront
from smartedge.images.size import ImageSize
from smartedge.runs.allocator import trim_heap
from smartedge.types import Features

__all__ = ["OnnxFront", "session"]


class OnnxFront:
    """Front and exit of a bundle. It is an :class:`smartedge.inference.answering.Front`.

    Args:
        published: the bundle, opened.
        threads: of one computation; None: as many as the machine has cores.

    Raises:
        FrontError: ONNX Runtime cannot run it.
    """

    def __init__(self, published: PublishedFront, threads: int | None = None) -> None:
        self.published = published
        self.config = published.config
        self.task = published.task
        self.mechanism = published.mechanism
        self.feature_shape = published.manifest.feature_shape
        self.agreement = {**published.manifest.settings, "front": published.manifest.files["front.safetensors"]}
        self._front = session(published.read(FRONT), str(published.folder / FRONT), threads)
        self._exit = session(published.read(EXIT), str(published.folder / EXIT), threads)
        self._check_fit()
        trim_heap()  # what making the networks ready took: 4 MiB

    def _check_fit(self) -> None:
        """Run both networks once: of other classes, answers would have wrong names.

        Raises:
            FrontError: they are not those of the manifest.
        """
        images_BCHW = np.zeros((1, *ImageSize.of(self.config.data.image_size).shape), np.uint8)
        expected = ((1, *self.feature_shape), (1, len(self.task.names)))
        try:
            features_BF = _run(self._front, "images", images_BCHW)
            found = features_BF.shape, _run(self._exit, "features", features_BF).shape
        except FrontError as error:
            found, why = None, str(error)
        else:
            why = f"features and answers have the shapes {found}, and not {expected}"
        if found != expected:
            raise FrontError(
                f"{self.published.folder}: front.onnx and exit.onnx do not fit to manifest.json: {why}; "
                f"{FrontManifest.remedy}"
            )

    def features(self, images_BCHW: NDArray[np.uint8]) -> Features:
        """uint8 (B, 3, H, W) → bounded features, float32 (B, *F).

        Where releases are random, the front takes one image at a time: see
        :meth:`smartedge.inference.trained.TorchFront.features`.
        """
        size = len(images_BCHW) if self.mechanism.words_per_image == 0 else 1
        parts = [
            _run(self._front, "images", images_BCHW[start : start + size]) for start in range(0, len(images_BCHW), size)
        ]
        return self.mechanism.bound(np.concatenate(parts))

    def logits(self, features_BF: Features, *, released: bool) -> NDArray[np.float32]:
        """The exit's logits, float32 (B, K).

        Args:
            features_BF: (B, *F): a release, or bounded features without noise.
            released: they are a release. Otherwise, for codewords, the answer is the mean over all outcomes: the exit
                has learned from outcomes only.
        """
        channel_KO, outcomes_OK = self.mechanism.channel(), self.mechanism.outcomes()
        if released or channel_KO is None or outcomes_OK is None:
            return _run(self._exit, "features", features_BF)
        scores_OX = metrics.probabilities(_run(self._exit, "features", outcomes_OK), self.task.kind)
        scores_BX = np.maximum(features_BF @ channel_KO @ scores_OX, np.finfo(np.float32).tiny)
        if self.task.kind == "single":
            return np.asarray(np.log(scores_BX), dtype=np.float32)
        rest_BX = np.maximum(1 - scores_BX, np.finfo(np.float32).tiny)
        return np.asarray(np.log(scores_BX) - np.log(rest_BX), dtype=np.float32)


def session(model: bytes, what: str, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A network, ready to run on the CPU.

    Raises:
        FrontError: ONNX Runtime does not take it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.enable_cpu_mem_arena = False  # the arena keeps twice the memory, and saves no time on small networks
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a camera waits more than it computes
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        network = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        raise FrontError(f"{what}: ONNX Runtime cannot run it ({error})") from error
    network._model_bytes = b""  # the file, which it would keep for a change of providers: of ViT-S 37 MB
    return network


def _run(network: onnxruntime.InferenceSession, name: str, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    try:
        return cast("NDArray[np.float32]", network.run(None, {name: np.ascontiguousarray(inputs)})[0])
    except Exception as error:
        raise FrontError(f"ONNX Runtime stopped at {name} of shape {inputs.shape} ({error})") from error
