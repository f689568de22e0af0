"""Give command lines to the parsers of the programs that they name, and go no further.

    python tests/helpers/parse_commands.py < commands.json

Reads a list of ``[program, [argument, ...]]``, and prints a list: what is wrong with each command, or null. It is a
process of its own, because programs under benchmarks/ have modules of the same names as others that tests import.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import io
import json
import sys
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

PARSE = argparse.ArgumentParser.parse_args


class Parsed(Exception):
    """The arguments are right."""


def parse(self: argparse.ArgumentParser, *given: Any) -> None:
    """As ``parse_args``, but the program does not go on."""
    PARSE(self, *given)
    raise Parsed


@cache
def program(file: Path) -> Any:
    """The module of a program, which is imported and not run; scripts have no ending."""
    sys.path.insert(0, str(file.parent))
    loader = SourceFileLoader(file.stem, str(file))
    spec = importlib.util.spec_from_loader(file.stem, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module


def wrong_with(file: Path, arguments: list[str]) -> str | None:
    """What the program's own parser says; None: nothing."""
    if not file.exists():
        return "no such program"
    main = getattr(program(file), "main", None)
    if main is None:
        return "it takes no arguments" if arguments else None
    said = io.StringIO()
    sys.argv = [str(file), *arguments]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main(arguments) if inspect.signature(main).parameters else main()
        except Parsed:
            return None
        except SystemExit as ended:
            return said.getvalue().strip().splitlines()[-1] if ended.code else None  # 0: --help
    return "it has run without a parser"


def main() -> None:
    """See the module."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    commands = json.load(sys.stdin)
    argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign,assignment]
    sys.path.remove(str(Path(__file__).parent))
    json.dump([wrong_with(Path(file), arguments) for file, arguments in commands], sys.stdout)


if __name__ == "__main__":
    main()
