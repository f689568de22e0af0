"""Wires the verbs of the command line; a verb's module is imported only when that verb is called.

A verb's module has two functions::

    def add_parser(subparsers) -> argparse.ArgumentParser     # adds and describes the verb's arguments
    def run(args: argparse.Namespace) -> int                  # does it; returns the exit code

Exit codes: 0 done, or a long verb that was asked to stop and did so cleanly; 130 interrupted; else the code of the
error (docs/errors.md).
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from smartedge.cli.help import Help
from smartedge.errors import ConfigError, LogError, SmartEdgeError
from smartedge.extras import how_to_install
from smartedge.files import disk_error, named_by, system_error
from smartedge.logs import json_line, plain, say, shortened
from smartedge.stopping import Stopped, stop_on_signals

__all__ = ["VERBS", "main", "parse"]

# In the order of work. Each verb's own help names its arguments.
VERBS: dict[str, dict[str, str]] = {
    "Try it": {
        "demo": "train all four methods on embedded data, print one table, write a report",
    },
    "Set up": {
        "init": "write a commented settings file to start from",
        "cuts": "list the places at which a network can be cut, and what each costs",
        "profile": "measure this machine: what each cut and codec costs it",
        "plan": "predict time, bytes and memory of every cut, codec, schedule and method; recommend one",
    },
    "Train": {
        "train": "run edge and cloud on this machine, from one settings file",
        "cloud": "run the cloud's side alone, on the server",
        "edge": "run the edge's side alone, on the device",
        "ingest": "move frames from a broker into the store of a run, in one or many processes",
        "fleet": "say which edges may send: make, renew and revoke their certificates",
        "close": "let the cloud of a run go on with what has come, and take in nothing more",
        "collect": "bring the cloud's half of a run to the edge's machine",
        "sweep": "train over a grid of settings, attack each run, draw accuracy against privacy",
    },
    "Check": {
        "ledger": "show the privacy budget that each image has spent",
        "log": "show, check and export what the cloud stored of each edge",
        "audit": "attack a finished run as the cloud could, and measure the success",
        "certify": "state an upper bound on what any attacker can read of a sensitive column",
    },
    "Use": {
        "watch": "show a run in the browser while it goes on, or afterwards",
        "report": "write report.html of a finished run, or print several runs as one table",
        "infer": "classify images: on the edge where the exit is confident, else in the cloud",
        "export": "publish a front, signed, for edges that do not train and need no torch",
        "serve": "answer edges that send features to the back ('smartedge infer')",
    },
}

# Packages that a verb may find missing, and the extra that brings them. All others are reported where they are used.
_EXTRAS = {
    "torch": "train",
    "pyarrow": "train",
    "safetensors": "train",
    "onnxruntime": "front",
    "onnx": "export",
    "nats": "broker",
}
# Verbs that may run for long: SIGTERM or Ctrl-C ends them well, and the same command goes on.
_LONG = frozenset({"audit", "cloud", "edge", "infer", "ingest", "serve", "sweep", "train", "watch"})

# Errors of the disk that come again wherever a run has the same place.
_ANOTHER_PLACE = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL}
_ANOTHER_PLACE |= {errno.ENAMETOOLONG, errno.ELOOP}

_TOUR = """\
smartedge trains one vision network on two machines. The edge holds the images and the first layers; it learns from
an exit of its own and sends compressed feature maps. The cloud trains the rest. Nothing comes back.
"""

_FIRST_STEPS = """\
first steps:
  smartedge init run.yaml                      # settings: set data.path, data.desired, model.name
  smartedge cuts resnet18 --input 3x64x64      # choose model.cut
  smartedge train run.yaml                     # both sides here, as two processes
  smartedge report runs/latest                 # curves, bytes, times: one HTML file
  smartedge audit runs/latest --attributes A   # what an attacker reads of column A from what was sent
  smartedge plan run.yaml --link 3g            # would another cut, codec or schedule be better?

on two machines, with the same settings file:
  smartedge fleet init factory                                       # certificates
  smartedge fleet add factory door --cloud SERVER:8815               # writes door.bundle
  smartedge cloud run.yaml --fleet factory --listen 0.0.0.0:8815     # on the server
  smartedge edge run.yaml --bundle door.bundle                       # on the device

'smartedge VERB --help' explains a verb.
"""


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments in the same form as wrong settings. Options may stand before and between other words."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**{"formatter_class": Help, **how})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, which takes a list such as ``IMAGE...`` only up to the next option: what follows is added."""
        namespace, left = super().parse_known_args(args, namespace)
        lists = [action for action in self._actions if not action.option_strings and action.nargs in ("*", "+")]
        if lists and left and not any(word.startswith("-") for word in left):
            into, kind = lists[-1].dest, lists[-1].type
            given = list(map(kind, left)) if callable(kind) else left
            setattr(namespace, into, [*getattr(namespace, into), *given])
            left = []
        return namespace, left

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; '{self.prog} --help' shows what it takes")


class _Version(argparse.Action):
    def __call__(self, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version  # slow to import, and rarely needed

        say(f"smartedge {version('smartedge')}")
        sys.exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the arguments after the program's name; by default those of this process.

    Raises:
        SystemExit: with code 0, after ``--help`` or ``--version``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _make_streams_safe()
    before = os.umask(0o077)  # what libraries write, such as TensorBoard, is as private as what we write
    args = argparse.Namespace()
    try:
        with stop_on_signals():
            args = parse(arguments)
            exit_code: int = args.run(args)
        sys.stdout.flush()  # now, so that a closed pipe is an error here and is handled below
        return exit_code
    except SmartEdgeError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _say(args, "error", f"error [{error.code}]: {error}", code=error.code)
        return error.exit_code
    except Stopped as stopped:
        _say(args, "info", stopped.args[0] if stopped.args else f"stopped{_how_to_go_on(arguments, args)}")
        return 0 if _verb(arguments) in _LONG else 130
    except KeyboardInterrupt as interrupt:
        _tell(interrupt.args[0] if interrupt.args else "stopped")
        return 130
    except (BrokenPipeError, SystemExit) as ended:
        return _unread(ended)
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        if (code := _tell_what_is_refused(error, arguments, args)) is None:
            raise
        return code
    finally:
        os.umask(before)


def _unread(ended: BaseException) -> int:
    """The exit code where the pipe was closed, as in ``smartedge cuts resnet18 | head``. rich makes a SystemExit of it.

    Raises:
        SystemExit: another one, such as that of ``--help``.
    """
    if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
        raise ended
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _tell_what_is_refused(error: Exception, argv: Sequence[str], args: argparse.Namespace) -> int | None:
    """Tell which package is missing, or what the machine refused. The exit code; None where it is neither."""
    if (refused := system_error(error)) is None:
        if not isinstance(error, ImportError) or (text := _what_is_missing(error)) is None:
            return None
        _tell(f"error [SE-CONFIG]: {text}")
        return ConfigError.exit_code
    if "--debug" in argv:
        traceback.print_exc()
    where = f"{plain(name)}: " if (name := named_by(refused)) else ""
    next_step = "" if refused.errno in _ANOTHER_PLACE else _how_to_go_on(argv, args)
    _say(args, "error", f"error [{LogError.code}]: {where}{disk_error(refused)}{next_step}", code=LogError.code)
    return LogError.exit_code


def _instead_of(word: str, verbs: Sequence[str]) -> str:
    """Advice for a word that stands where a verb should."""
    import difflib  # for this message alone

    if word == "smartedge":
        return "it follows the name of the program, which is written once"
    if word == "help":
        return "'smartedge --help' lists the verbs, 'smartedge VERB --help' explains one"
    if word.endswith((".yaml", ".yml", ".json")):
        return f"a verb comes before the settings, for example 'smartedge train {word}'"
    near = difflib.get_close_matches(word, verbs, n=1)
    return f"did you mean 'smartedge {near[0]}'?" if near else f"the verbs are {', '.join(verbs)}"


def _what_is_missing(error: ImportError) -> str | None:
    """The package that is not installed, and how to install it. None where something else is wrong with an import."""
    if error.name is None:  # raised by this package: the text says it
        return str(error)
    if (extra := _EXTRAS.get(error.name)) is None:
        return None
    return f"this needs the package '{error.name}', which is not installed; run: {how_to_install(extra)}"


def _make_streams_safe() -> None:
    """No character that the terminal lacks, and no stream that the shell has closed, ends a verb."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - as long as the process


def _say(args: argparse.Namespace, level: str, text: str, code: str | None = None) -> None:
    """The last line on standard error, in the form that was asked for."""
    json_wanted = getattr(args, "log_format", None) == "json"
    fields = {} if code is None else {"code": code}
    if level == "error":  # else it may be a command to type
        text = "\n".join(map(shortened, text.split("\n")))
    lines = [json_line(level, text, None, logger="smartedge", **fields)] if json_wanted else text.split("\n")
    _tell(*lines)  # errors of settings have a line for each problem


def _tell(*lines: str) -> None:
    """The last lines of a command. The exit code counts, also where standard error is closed or its disk is full."""
    with suppress(OSError):
        say(*lines, file=sys.stderr)


def _verb(argv: Sequence[str]) -> str | None:
    return next((word for word in argv if not word.startswith("-")), None)


def _how_to_go_on(argv: Sequence[str], args: argparse.Namespace) -> str:
    """The command that continues a stopped one; empty where there is nothing to continue."""
    if getattr(args, "until_input_ends", False):  # nobody typed this: 'smartedge train' runs both sides
        return f"; go on with: smartedge train {shlex.quote(args.config)} --resume"
    if _verb(argv) not in _LONG:
        return ""
    resumed = [*argv, "--resume"] if getattr(args, "resume", None) is False else argv
    return f"; go on with: smartedge {shlex.join(resumed)}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; ``args.run(args)`` then runs its verb.

    Raises:
        ConfigError: when the verb is unknown or its arguments do not fit.
        SystemExit: with code 0, after ``--help`` or ``--version``.
    """
    parser = _Parser(
        prog="smartedge",
        usage="smartedge VERB [options]",
        description=_TOUR,
        epilog=f"{_verb_list()}\n{_FIRST_STEPS}",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    _add_debug(parser)
    verb = _verb(argv)
    if verb is None:
        if "--version" not in argv:
            parser.print_help()
            sys.exit(0)
    else:
        known = [name for group in VERBS.values() for name in group]
        if verb not in known:
            raise ConfigError(f"there is no verb '{verb}'; {_instead_of(verb, known)}")
        module = importlib.import_module(f"smartedge.cli.{verb}")
        subparsers = parser.add_subparsers(prog="smartedge", metavar="VERB", help=argparse.SUPPRESS)
        module.add_parser(subparsers)
        _add_debug(subparsers.choices[verb])
        parser.set_defaults(run=module.run)
    args: argparse.Namespace
    args, left = parser.parse_known_args(argv)
    if left:
        if lone := next((each for each in getattr(args, "overrides", []) if "=" not in each), None):
            raise ConfigError(f"--set {lone} {left[0]}: write it as one word, --set {lone}={left[0]}")
        word = next((word for word in left if word.startswith("-")), left[0])
        raise ConfigError(_left_over(word, verb, parser if verb is None else subparsers.choices[verb]))
    return args


def _left_over(word: str, verb: str | None, parser: argparse.ArgumentParser) -> str:
    """What is said of a word of the command line that nothing takes."""
    name = f"smartedge {verb}" if verb else "smartedge"
    if not word.startswith("-"):
        return f"'{name}' does not know what to do with '{word}'; '{name} --help' shows what it takes"
    option = word.partition("=")[0]
    if "--set" in parser._option_string_actions:
        from smartedge.config.reading import setting_called  # for this message alone

        if key := setting_called(option.lstrip("-").replace("-", "_")):
            return f"'{name}' has no option {option}; {key} is a setting: write --set {key}=VALUE"
    import difflib  # for this message alone

    near = difflib.get_close_matches(option, parser._option_string_actions, n=1)
    advice = f"did you mean '{near[0]}'?" if near else f"'{name} --help' shows what it takes"
    return f"'{name}' has no option {option}; {advice}"


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error came from")


def _verb_list() -> str:
    lines = []
    for group, verbs in VERBS.items():
        lines += [f"{group.lower()}:", *(f"  {name:<9}{summary}" for name, summary in verbs.items()), ""]
    return "\n".join(lines)
