"""What must be equal in all streams of one edge, and of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from smartedge.types import StreamHeader

__all__ = ["differences", "facts_of_edge", "facts_of_run"]


def facts_of_edge(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one edge, beyond the settings."""
    own = header.agreement, header.feature_shape, header.codec, header.batch_size
    return header.run, header.train_steps, *own, *facts_of_run(header)


def facts_of_run(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one run, beyond the settings."""
    return header.feature_dtype, header.task_kind, header.outputs


def differences(mine: object, theirs: object, path: str = "") -> Iterator[str]:
    """Each setting that differs, with both values."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(mine.keys() | theirs.keys()):
            yield from differences(mine.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
    elif mine != theirs:
        yield f"{path}: {theirs!r} at the edge, {mine!r} here"
