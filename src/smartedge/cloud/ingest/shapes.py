"""The shapes of what edges send, for a process that takes frames in and must not carry torch with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from smartedge.config import Config
from smartedge.errors import RunError, from_code
from smartedge.extras import how_to_install
from smartedge.methods.base import get_method
from smartedge.stopping import child_command

__all__ = ["shapes_of"]

# Torch takes 200 MB and seconds. A process that ends gives them back.
_PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from smartedge.cloud.back import build_back
from smartedge.config import load_config
from smartedge.logs import say
from smartedge.errors import SmartEdgeError
try:
    say(json.dumps({"shapes": build_back(load_config(json.load(sys.stdin)), 2)[1]}))
except SmartEdgeError as error:
    say(json.dumps({"code": error.code, "text": str(error)}))
"""


def shapes_of(config: Config) -> Mapping[str, tuple[int, ...]]:
    """For each cut the shape F of what an edge with that cut sends.

    Where the settings name the bottleneck or a codebook, they say it. Else the network is built, in another process.

    Raises:
        SmartEdgeError: the network cannot be cut as the settings say.
        RunError: the network must be built, and torch is not installed.
    """
    model, cut = config.model, config.model.cut
    if get_method(config.method).divides and config.fleet.cuts is None:
        if model.codebook is not None:
            return {cut: (model.codebook,)}
        if isinstance(model.bottleneck, tuple):
            return {cut: model.bottleneck}
    given = config.model_dump(mode="json", exclude_unset=True)
    done = subprocess.run(
        child_command(_PROGRAM),
        input=json.dumps(given),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        if "No module named" in done.stderr:
            raise RunError(
                "what edges send depends on the network here, and torch is not installed. Set model.bottleneck on all "
                f"sides to the shape that crosses, or run: {how_to_install('train')}"
            )
        raise RunError(f"the network cannot be built: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if "code" in found:
        raise from_code(found["code"], found["text"]) or RunError(found["text"])
    return {cut: tuple(shape) for cut, shape in found["shapes"].items()}
