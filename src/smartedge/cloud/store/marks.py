"""Empty files in the cloud's folder by which processes tell each other how far a run is."""

from __future__ import annotations

from pathlib import Path

from smartedge.files import PRIVATE, sync_folder

__all__ = ["ask_to_close", "asked_to_close", "is_complete", "mark_complete"]

_ASKED = "close"
_COMPLETE = "complete"


def ask_to_close(cloud: Path) -> None:
    """Ask the cloud with this folder to go on with what has come. It looks several times a second.

    Raises:
        OSError: the file cannot be written.
    """
    (cloud / _ASKED).touch(PRIVATE)
    sync_folder(cloud)


def asked_to_close(cloud: Path) -> bool:
    """Whether :func:`ask_to_close` was called for this folder."""
    return (cloud / _ASKED).exists()


def mark_complete(cloud: Path, complete: bool) -> None:
    """Tell the workers in other processes whether the run is complete. What came before must be durable.

    Raises:
        OSError: the file cannot be written.
    """
    if complete:
        (cloud / _COMPLETE).touch(PRIVATE)
    else:
        (cloud / _COMPLETE).unlink(missing_ok=True)
    sync_folder(cloud)


def is_complete(cloud: Path) -> bool:
    """Whether :func:`mark_complete` said that nothing more is taken in."""
    return (cloud / _COMPLETE).exists()
