"""Names of networks, looked for in the files of torchvision and timm. Needs neither them nor torch imported."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from smartedge.errors import CutError
from smartedge.models.blueprint import is_on_hub

__all__ = ["check_name", "refuse_name"]

_FILES = {"torchvision": "models/*.py", "timm": "models/**/*.py"}
_DEFINED = re.compile(rb"^@register_model\b.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)


def check_name(name: str) -> None:
    """Look whether torchvision or timm can have a network of that name, in a twentieth of a second.

    Importing both takes three seconds. A name that stands nowhere in the files in which they define their networks
    cannot be one of theirs. Nothing is said of a network of the user's own or on a hub, and where a library is not
    installed or came without its source.

    Args:
        name: as for :func:`smartedge.models.zoo.networks.build`.

    Raises:
        CutError: no network has that name.
    """
    library, _, short = name.rpartition("/")
    if ":" in name or name.endswith(".py"):
        _refuse_file(name)
        return
    searched = [library] if library in _FILES else list(_FILES)
    sources = [_sources(each) for each in searched]
    if not all(sources):
        return
    texts = [text for source in sources for text in source]
    word = re.compile(rb"\b%b\b" % re.escape(short.partition(".")[0].encode()))  # what follows a dot names weights
    if library not in ("", *_FILES) or not any(word.search(text) for text in texts):
        refuse_name(name, (found.decode() for text in texts for found in _DEFINED.findall(text)))


def _refuse_file(name: str) -> None:
    """Refuse the path of a file in place of a module (``nets/small.py:make``)."""
    module, _, factory = name.partition(":")
    if not is_on_hub(name) and ("/" in module or module.endswith(".py")):
        file = Path(module.removesuffix(".py"))
        raise CutError(
            f"{name}: {module} is the path of a file; give the module, {file.name}:{factory or 'FACTORY'}, and let "
            f"Python find it: PYTHONPATH={shlex.quote(str(file.parent))}"
        )


def refuse_name(name: str, names: Iterable[str]) -> NoReturn:
    """Raise the error for a name that no network has; ``names`` are those to choose from."""
    import difflib  # for this message alone

    near = difflib.get_close_matches(name.rpartition("/")[2], dict.fromkeys(names), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise CutError(
        f"no network is called {name}{hint} "
        "Names are those of torchvision and timm; your own network is package.module:factory"
    )


def _sources(library: str) -> list[bytes]:
    """The files in which a library defines its networks; none where it is not installed."""
    found = importlib.util.find_spec(library)
    folders = [] if found is None else found.submodule_search_locations or []
    return [path.read_bytes() for folder in folders for path in sorted(Path(folder).glob(_FILES[library]))]
