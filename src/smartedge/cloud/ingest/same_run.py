"""What must be equal in all streams of one edge, and of one run."""

from __future__ import annotations

from smartedge.types import StreamHeader

__all__ = ["facts_of_edge", "facts_of_run"]


def facts_of_edge(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one edge, beyond the settings."""
    own = header.agreement, header.feature_shape, header.codec, header.batch_size
    return header.run, header.train_steps, *own, *facts_of_run(header)


def facts_of_run(header: StreamHeader) -> tuple[object, ...]:
    """The facts that are equal in all streams of one run, beyond the settings."""
    return header.feature_dtype, header.task_kind, header.outputs
