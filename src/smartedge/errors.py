"""The whole error tree.

Every error that smartedge raises on purpose is a :class:`SmartEdgeError`. Each class has a stable
``code`` (printed in brackets, searchable, never re-used) and a process ``exit_code``.

    SmartEdgeError
    ├── ConfigError      SE-CONFIG    2   a setting is unknown, of the wrong type, or impossible
    ├── DataError        SE-DATA      3   a data set, file, label or image cannot be used
    ├── CutError         SE-CUT       4   a network cannot be built, traced, divided or merged there
    ├── CodecError       SE-CODEC     5   a payload cannot be encoded or decoded
    ├── FrameError       SE-FRAME     6   a frame that arrived over the link is not acceptable
    ├── LinkError        SE-LINK      7   the other side cannot be reached, or went away
    ├── LogError         SE-LOG       8   the feature log on disk cannot be read or written
    ├── PrivacyError     SE-PRIVACY   9   a release is refused
    ├── RunError         SE-RUN      10   a run directory cannot be created, resumed or read
    ├── FleetError       SE-FLEET    11   an edge may not send, or a fleet's file cannot be used
    └── FrontError       SE-FRONT    12   a published front is damaged, not trusted, or not what was asked for

Messages say what was wrong, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "CodecError",
    "ConfigError",
    "CutError",
    "DataError",
    "FleetError",
    "FrameError",
    "FrontError",
    "LinkError",
    "LogError",
    "PrivacyError",
    "RunError",
    "SmartEdgeError",
    "from_code",
    "list_some",
]


class SmartEdgeError(Exception):
    """Base of every error raised on purpose; ``str(error)`` is the message for the user."""

    code = "SE"
    exit_code = 1


class ConfigError(SmartEdgeError):
    """A setting is unknown, of the wrong type, or does not go with another one."""

    code = "SE-CONFIG"
    exit_code = 2


class DataError(SmartEdgeError):
    """A data set, file, label or image cannot be used."""

    code = "SE-DATA"
    exit_code = 3


class CutError(SmartEdgeError):
    """A network cannot be built, traced, divided or merged at the place named."""

    code = "SE-CUT"
    exit_code = 4


class CodecError(SmartEdgeError):
    """A payload cannot be encoded or decoded."""

    code = "SE-CODEC"
    exit_code = 5


class FrameError(SmartEdgeError):
    """A frame that arrived over the link is not acceptable (size, shape, dtype, order, identity)."""

    code = "SE-FRAME"
    exit_code = 6


class LinkError(SmartEdgeError):
    """The other side cannot be reached, or went away."""

    code = "SE-LINK"
    exit_code = 7


class LogError(SmartEdgeError):
    """The feature log on disk cannot be read or written."""

    code = "SE-LOG"
    exit_code = 8


class PrivacyError(SmartEdgeError):
    """A release is refused: nothing was sent."""

    code = "SE-PRIVACY"
    exit_code = 9


class RunError(SmartEdgeError):
    """A run directory cannot be created, resumed or read."""

    code = "SE-RUN"
    exit_code = 10

    @classmethod
    def begun_before(cls, folder: Path) -> RunError:
        """A folder for a new run holds one already."""
        return cls(f"{folder}: holds a run already; continue it with --resume, or choose another run_dir")


class FleetError(SmartEdgeError):
    """An edge may not send, or a file of a fleet is missing, damaged, expired or readable by others."""

    code = "SE-FLEET"
    exit_code = 11


class FrontError(SmartEdgeError):
    """A published front cannot be made or used: it is damaged, not trusted, or not what was asked for."""

    code = "SE-FRONT"
    exit_code = 12


def from_code(code: str, message: str) -> SmartEdgeError | None:
    """The error with this code, as another process reported it; None where no class has the code."""
    kinds: list[type[SmartEdgeError]] = [SmartEdgeError, *SmartEdgeError.__subclasses__()]
    for kind in kinds:
        if kind.code == code:
            return kind(message)
    return None


def list_some(names: Iterable[object], most: int = 5) -> str:
    """The first names of a list, for a message."""
    words = [str(name) for name in names]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
