"""The back of a finished run: in this process, or as a server that answers edges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from smartedge.cloud.files_for_edges import back_weights
from smartedge.codec import get_codec, unpack
from smartedge.errors import FrameError, RunError
from smartedge.inference.answering import header_of
from smartedge.inference.trained import TrainedRun, load_part
from smartedge.models.exits import probabilities
from smartedge.models.network import divide
from smartedge.types import EncodedBatch, Features, Frame, StreamHeader
from smartedge.wire.frame import settings_in

__all__ = ["BackServer", "LocalBack"]

_SAME = ("codec", "feature_shape", "feature_dtype", "task_kind", "outputs", "answer_shape")
_OF_THE_NETWORK = ("model", "data", "codec", "dp")


class LocalBack:
    """The back of a run with its final weights. It is a :class:`smartedge.inference.answering.Back`.

    Args:
        run: with its cloud's folder.

    Attributes:
        feature_shape: F of what it takes.

    Raises:
        RunError: the cloud has not finished the run, or its folder is not there.
    """

    def __init__(self, run: TrainedRun) -> None:
        run.check_back()
        divided = divide(run.blueprint)
        self._network = divided.back.eval()
        load_part(self._network, back_weights(run.folder / "cloud", run.config.model.cut))
        self._kind = run.task.kind
        self.feature_shape = divided.feature_shape

    def __call__(self, features_BF: Features) -> NDArray[np.float32]:
        """Probabilities, float32 (B, K), of features (B, *F)."""
        with torch.no_grad():
            scores_BK = probabilities(self._network(torch.from_numpy(features_BF)).float(), self._kind)
        return np.asarray(scores_BK.numpy(), dtype=np.float32)


class BackServer:
    """Answers frames with the probabilities of the back: what ``smartedge serve`` runs.

    It is a :class:`smartedge.wire.link.FrameHandler`.

    Args:
        run: with its cloud's folder.

    Raises:
        RunError: the cloud has not finished the run, or its folder is not there.
    """

    def __init__(self, run: TrainedRun) -> None:
        self.run = run
        self.back = LocalBack(run)

    def accept(self, edge: str, header: StreamHeader) -> int:
        """Refuse an edge that holds another network."""
        if header.labels:
            raise RunError("this is 'smartedge serve', which answers 'smartedge infer'; train with 'smartedge cloud'")
        run = self.run
        own = header_of(run.config, run.task, run.agreement, self.back.feature_shape, frames=header.frames)
        if (
            not _agree(settings_in(header.agreement), settings_in(own.agreement))
            or any(getattr(header, name) != getattr(own, name) for name in _SAME)
            or header.batch_size > own.batch_size
        ):
            raise RunError(
                f"the edge holds another run than {self.run.folder}; serve the run directory of the cloud that trained "
                "with it"
            )
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> Frame:
        """Probabilities (B, K) in float32."""
        batch = unpack(frame.batch, header)
        try:
            scores_BK = self.back(batch.features_BF)
        except RuntimeError as error:
            raise FrameError(f"features of shape {header.feature_shape} do not fit the back: {error}") from error
        payload, side = get_codec("float32").encode(scores_BK)
        encoded = EncodedBatch(frame.batch.ids, frame.batch.labels, payload, side)
        return Frame(frame.seq, encoded)

    def sync(self, edge: str, header: StreamHeader) -> int:
        """No frame is kept."""
        return header.first_seq

    def finish(self, edge: str, header: StreamHeader) -> None:
        """Nothing to do: no frame is kept."""

    def abort(self, edge: str, header: StreamHeader) -> None:
        """Nothing to do: no frame is kept."""


def _agree(theirs: Mapping[str, object], own: Mapping[str, object]) -> bool:
    """Whether an edge's front belongs to the back here.

    Both name the front by its digest where the run was trained with a published front. The settings of its training
    may then differ: only those of the network and of the releases count. Otherwise edge and cloud are of one run, and
    all settings are equal. An edge with a published front tells its digest in this case too.
    """
    if "front" in own:
        return theirs.get("front") == own["front"] and all(theirs.get(key) == own.get(key) for key in _OF_THE_NETWORK)
    return bool({key: value for key, value in theirs.items() if key != "front"} == own)
