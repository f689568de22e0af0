"""The network that the cloud trains: the back of one edge, or of several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from smartedge.config import Config
from smartedge.files import private_folder
from smartedge.methods.base import get_method
from smartedge.models.entrances import Entrances
from smartedge.runs.checkpoint import save_weights

__all__ = ["build_back", "save_back"]


def build_back(config: Config, outputs: int) -> tuple[nn.Module, Mapping[str, tuple[int, ...]]]:
    """The network that the cloud trains, and for each cut the shape F of what an edge with that cut sends.

    Where several edges take part, the network is :class:`~smartedge.models.entrances.Entrances`.

    Args:
        config: the run's settings.
        outputs: K of the task.

    Raises:
        CutError: the network cannot be cut as the settings say.
        ConfigError: the bottleneck does not fit the tensor at a cut.
    """
    if config.fleet.cuts is not None:
        entrances = Entrances.at_cuts(config.division(outputs), config.fleet.cuts)
        return entrances, entrances.shapes
    cut = config.model.cut
    back, shape = get_method(config.method).cloud(config, outputs)
    return (Entrances.around(back, cut, shape) if config.several_edges else back), {cut: shape}


def save_back(folder: Path, config: Config, back: nn.Module) -> None:
    """Write the weights of the back into the cloud's folder of the run; where cuts differ, one file for each.

    :func:`smartedge.cloud.files_for_edges.back_weights` finds them.
    """
    if config.fleet.cuts is None:
        one = back.state_from(config.model.cut) if isinstance(back, Entrances) else back.state_dict()
        save_weights(folder / "back.safetensors", one)
        return
    assert isinstance(back, Entrances)
    private_folder(folder / "backs")
    for cut in back.cuts:
        save_weights(folder / "backs" / f"{cut}.safetensors", back.state_from(cut))
