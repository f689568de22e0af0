"""Which files of the cloud an edge may have after a run: those that its report and its audit read. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from smartedge.cloud.store.feature_log import FeatureReader, cut_of, edges_of, log_folder
from smartedge.errors import RunError
from smartedge.framelog.mark import MARK
from smartedge.framelog.reader import STREAMS, segments_of

__all__ = ["back_weights", "files_for_edges", "place_of"]

_SUMMARY, _METRICS, _PREDICTIONS, _BACK = "summary.json", "metrics.jsonl", "predictions.safetensors", "back.safetensors"
_OF_THE_LOG = re.compile(rf"{MARK}|{STREAMS}|\d{{6}}\.frames", re.ASCII)


def files_for_edges(cloud: Path) -> Callable[[str, str], Mapping[str, Path]]:
    """What chooses the files that an edge may have, by the edge's name and its run.

    It is what :class:`smartedge.wire.files.FileAnswers` takes.

    Args:
        cloud: the cloud's folder of a run that has ended.
    """
    known: dict[str, tuple[str, str]] = {}  # edge -> its run and its cut

    def choose(edge: str, run: str) -> Mapping[str, Path]:
        folder = log_folder(cloud, edge)
        if edge not in known and (folder / MARK).exists():
            for first in FeatureReader(folder, edge).streams[:1]:
                known[edge] = first.run, cut_of(first)
        if edge not in known or known[edge][0] != run:
            raise RunError(f"the cloud has nothing of edge {edge!r} in this run; is it the server of another run?")
        files = {_SUMMARY: cloud / _SUMMARY, _METRICS: cloud / _METRICS, _BACK: back_weights(cloud, known[edge][1])}
        if edges_of(cloud) == [edge]:  # else it holds the labels of other edges' images, too
            files[_PREDICTIONS] = cloud / _PREDICTIONS
        files |= {name: folder / name for name in (MARK, STREAMS)}
        files |= {path.name: path for _, path in sorted(segments_of(folder).items())}
        return {name: path for name, path in files.items() if path.exists()}

    return choose


def back_weights(cloud: Path, cut: str) -> Path:
    """The file of the back's weights for edges with this cut, in the cloud's folder of a run."""
    own = cloud / "backs" / f"{cut}.safetensors"  # where edges have different cuts
    return own if own.exists() else cloud / _BACK


def place_of(name: str, edge: str) -> PurePosixPath:
    """Where such a file lies in the cloud's folder.

    Raises:
        RunError: it is none of the files that an edge may have.
    """
    if name in (_SUMMARY, _METRICS, _PREDICTIONS, _BACK):
        return PurePosixPath(name)
    if _OF_THE_LOG.fullmatch(name):
        return PurePosixPath("store", edge, name)
    raise RunError("the cloud names a file that no edge needs; nothing was written")
