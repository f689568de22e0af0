"""The command that installs an extra: the packages that only some uses of smartedge need."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["how_to_install"]


class _Source(NamedTuple):
    """Where this installation came from."""

    url: str = ""  # a folder, a file or an address; empty: an index of packages, or not known
    editable: bool = False


def how_to_install(extra: str) -> str:
    """The command that adds an extra to this installation, from where it came: a clone, a wheel, or an index.

    pip keeps that place beside the package (PEP 610). If a clone or wheel is no longer there, the command is that of an
    index.
    """
    source = _source()
    wanted, path = f"smartedge[{extra}]", Path(unquote(urlsplit(source.url).path))
    if not source.url.startswith("file:"):
        wanted = f"{wanted} @ {source.url}" if source.url else wanted
    elif path.exists():
        return f"{_pip()} install {'-e ' if source.editable else ''}{shlex.quote(f'{path}[{extra}]')}"
    return f"{_pip()} install {shlex.quote(wanted)}"


def _source() -> _Source:
    from importlib import metadata  # slow to import, and rarely needed

    try:
        said = json.loads(metadata.distribution("smartedge").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return _Source()
    kind, url = said.get("vcs_info", {}).get("vcs"), said.get("url", "")
    return _Source(f"{kind}+{url}" if kind else url, said.get("dir_info", {}).get("editable", False))


def _pip() -> str:
    """The pip of this Python: another environment's would install where nobody looks."""
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"
